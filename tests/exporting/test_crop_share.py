"""An export of a model with a crop share of its own: every file and its readers crop alike."""

import pathlib

import golden_files
import numpy as np
import pytest
from exports import make_export, report_of, saved_model_in, settings_of

import mnasnet_main
from utils import check_exports
from utils.exporting import classifiers, tflite
from utils.showing import demo, models


@pytest.fixture(scope="module")
def uncropped(model_dir, tmp_path_factory):
    """An export whose evaluation crops nothing away but what a square lacks."""
    folder = str(tmp_path_factory.mktemp("uncropped"))
    make_export(settings_of(model_dir, folder, eval_crop_share=1.0))
    return folder


def test_both_files_crop_by_the_share(uncropped, plain):
    picture = golden_files.picture("chelsea.jpg")
    file, published = f"{uncropped}/tiny.tflite", f"{plain}/tiny.tflite"
    ours = classifiers.load(file).probabilities(picture)
    saved = classifiers.load(saved_model_in(uncropped)).probabilities(picture)
    np.testing.assert_allclose(ours, saved, atol=1e-5)
    cropped = classifiers.load(published).probabilities(picture)
    assert np.abs(ours - cropped).max() > 1e-4


def test_a_report_of_the_checkpoint_crops_by_the_share(model_dir, uncropped):
    picture = golden_files.picture("chelsea.jpg")
    params = settings_of(model_dir, None, eval_crop_share=1.0)
    model = models.of_checkpoint(params, f"{model_dir}/model.ckpt-3", mnasnet_main.mnasnet_model_fn)
    exported = classifiers.load(f"{uncropped}/tiny.tflite").probabilities(picture)
    np.testing.assert_allclose(model.classify([picture])[0], exported, atol=1e-5)


def test_the_file_says_its_share(uncropped, plain):
    file, published = f"{uncropped}/tiny.tflite", f"{plain}/tiny.tflite"
    assert tflite.open_interpreter(file).preparation.eval_crop_share == 1.0
    assert tflite.open_interpreter(published).preparation.eval_crop_share is None
    assert demo.describe(file)["crop_share"] == 1.0
    assert demo.describe(published)["crop_share"] == 32 / 64
    assert b"100.0 % of the shorter side" in pathlib.Path(file).read_bytes()
    assert report_of(uncropped)["identity"]["eval_crop_share"] == 1.0


def test_the_check_in_other_runtimes_crops_by_it(uncropped, plain):
    path = str(golden_files.IMAGES / "chelsea.jpg")
    whole, cropped = (
        check_exports.read_pictures([path], tflite.open_interpreter(f"{folder}/tiny.tflite"))[
            0
        ].cropped
        for folder in (uncropped, plain)
    )
    assert whole.shape == cropped.shape and np.abs(whole - cropped).max() > 10
