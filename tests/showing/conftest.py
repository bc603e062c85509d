"""Pages, a published file and a training, made once for all tests of this folder."""

import browser
import pytest
import yaml
from exports import SPEC, make_export, settings_of
from main_runs import run_here

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


@pytest.fixture(scope="session")
def trained(digits_dir, tmp_path_factory):
    """The model_dir of a tiny network that learned the digits a little, with its report."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPEC))
    run_here(
        "--config_file=sample",
        f"--model_spec={folder}/tiny.yaml",
        f"--data_dir={digits_dir}",
        f"--model_dir={folder}/model",
        "--report",
        "--input_image_size=32",
        "--train_steps=20",
        "--steps_per_eval=10",
        "--train_batch_size=16",
        "--log_step_count_steps=5",
        "--moving_average_decay=0",
    )
    return str(folder / "model")
