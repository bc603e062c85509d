"""Pages and a published file, made once for all tests of this folder."""

import browser
import pytest
from exports import make_export, settings_of

from utils.showing import demo


@pytest.fixture(scope="session")
def page_dir(exported, digits_dir, tmp_path_factory):
    """The folder of the page of a tiny network."""
    browser.require_npm()
    folder = str(tmp_path_factory.mktemp("page"))
    demo.write(exported + "/tiny.tflite", folder, [digits_dir + "/pictures/digit-7.jpg"])
    return folder


@pytest.fixture(scope="session")
def published(model_dir, tmp_path_factory):
    """A .tflite file that takes normalized pixels, gives logits and has no label names."""
    folder = tmp_path_factory.mktemp("published")
    make_export(settings_of(model_dir, folder, tflite_contract="published"))
    return f"{folder}/tiny.tflite"
