"""What cannot be exported ends in a sentence, and leaves nothing."""

import json
import os

import numpy as np
import pytest
from exports import SPEC, copied, listing, make_export, settings_of

import mnasnet_main
from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.exporting import export
from utils.reading import examples
from utils.weights import conversion

import tensorflow.compat.v1 as tf


def test_a_foreign_file_is_left_alone(model_dir, target):
    tf.io.gfile.makedirs(target)
    files.write_text(target + "/tiny.tflite", "mine")
    with pytest.raises(UserError, match=r"tiny\.tflite is there already"):
        make_export(settings_of(model_dir, target))
    with pytest.raises(UserError, match=r"tiny\.tflite is there already"):
        export.check(settings_of(model_dir, target))  # before the training already
    assert files.read_text(target + "/tiny.tflite") == "mine"
    assert set(listing(target)) == {"tiny.tflite"}


def test_a_checkpoint_of_more_classes(model_dir, tmp_path):
    with pytest.raises(UserError, match=r"model\.ckpt-3 is of another network") as error:
        make_export(settings_of(model_dir, tmp_path, num_label_classes=1000))
    assert "[10] there and [1000] here" in str(error.value)
    assert listing(str(tmp_path)) == {}


def test_a_checkpoint_of_another_network(model_dir, tmp_path):
    other = {**SPEC, "stem_size": 16}
    deeper = {**SPEC, "stages": [*SPEC["stages"], "r1_k3_s11_e3_i16_o16"]}
    for spec in (other, deeper):
        with pytest.raises(UserError, match=r"model\.ckpt-3 is of another network") as error:
            make_export(settings_of(model_dir, tmp_path, model_spec=spec))
        assert "\n" not in str(error.value)
    assert listing(str(tmp_path)) == {}


def test_a_checkpoint_that_gives_no_numbers(model_dir, tmp_path):
    reader = tf.train.load_checkpoint(model_dir)
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    for name in values:
        if name.endswith(("dense/bias", "dense/bias/ExponentialMovingAverage")):
            values[name] = np.full_like(values[name], np.nan)
    os.makedirs(tmp_path / "own")
    conversion.save_checkpoint(str(tmp_path / "own" / "model.ckpt-3"), values)
    with pytest.raises(UserError, match="not finite numbers"):
        make_export(settings_of(tmp_path / "own", tmp_path / "made"))
    assert listing(str(tmp_path / "made")) == {}


@pytest.mark.parametrize(
    ("contract", "compared"), [("app", "probabilities"), ("published", "logits")]
)
def test_a_float32_file_that_computes_something_else(
    model_dir, tmp_path, monkeypatch, contract, compared
):
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", 1e-12)
    with pytest.raises(
        UserError, match=rf"^tiny\.tflite differs from .* {compared} by .* relative"
    ):
        make_export(settings_of(model_dir, tmp_path, tflite_contract=contract))
    assert listing(str(tmp_path)) == {}


def test_a_checkpoint_cut_short(model_dir, tmp_path):
    own = copied(model_dir, tmp_path / "own")
    with open(own + "/model.ckpt-3.data-00000-of-00001", "r+b") as f:
        f.truncate(100)
    with pytest.raises(UserError, match=r"model\.ckpt-3 cannot be read"):
        make_export(settings_of(own, tmp_path / "made"))


def test_an_evaluation_image_that_cannot_be_read(model_dir, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "validation-00000-of-00001")) as writer:
        writer.write(examples.example(b"no picture", 1))
    with pytest.raises(UserError, match="record 0: the picture cannot be decoded"):
        make_export(settings_of(model_dir, tmp_path / "made", data_dir=str(tmp_path)))
    assert listing(str(tmp_path / "made")) == {}


def test_two_exports_to_a_folder_at_a_time(model_dir, tmp_path):
    with (
        folder_lock.hold(str(tmp_path), "export_dir", "export"),
        pytest.raises(UserError, match="Another export is writing to --export_dir="),
    ):
        make_export(settings_of(model_dir, tmp_path))


def test_a_foreign_label_file_is_found_before_the_work(model_dir, digits_dir, tmp_path):
    (tmp_path / "labels.txt").write_text("mine")
    with pytest.raises(UserError, match=r"labels\.txt is there already"):
        export.check(settings_of(model_dir, tmp_path, data_dir=digits_dir))


def test_the_folder_of_the_checkpoints_is_refused(model_dir):
    with pytest.raises(UserError, match="is the --model_dir"):
        export.check(settings_of(model_dir, model_dir + "/"))


def test_a_data_dir_without_data(model_dir, tmp_path):
    with pytest.raises(UserError, match=r"has no files validation-\*"):
        export.check(settings_of(model_dir, tmp_path, data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"identity": {}}', '{"identity": {}, "files": {}}', '{"files": []}', "{}"]
)
def test_a_foreign_report_is_named(model_dir, tmp_path, text):
    (tmp_path / "export_report.json").write_text(text)
    with pytest.raises(UserError, match=r"export_report\.json") as error:
        export.check(settings_of(model_dir, tmp_path))
    assert "\n" not in str(error.value)


def test_a_target_that_is_a_file(model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--export_dir="):
            export.check(settings_of(model_dir, path))


@pytest.mark.parametrize("data_dir", [None, "null", "empty"])
def test_int8_needs_training_images(model_dir, tmp_path, data_dir):
    if data_dir == "empty":
        data_dir = str(tmp_path)
    with pytest.raises(UserError, match="--quantize=int8 needs training images"):
        export.check(settings_of(model_dir, tmp_path, data_dir=data_dir, quantize="int8"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model_dir": "{tmp}"}, "--model_dir={tmp} holds no checkpoint to export: train first."),
        ({"export_checkpoint": "best"}, "holds no best checkpoint (evaluation keeps it)"),
        ({"export_checkpoint": "{tmp}/model.ckpt-1"}, "model.ckpt-1 is not a checkpoint"),
        ({"data_dir": "{tmp}/none"}, "--data_dir={tmp}/none is not a folder"),
    ],
)
def test_what_cannot_be_exported(model_dir, tmp_path, given, words):
    given = {name: value.format(tmp=tmp_path) for name, value in given.items()}
    params = {
        **settings_of(model_dir, tmp_path / "made"),
        "mode": "export_only",
        **given,
    }
    with pytest.raises(UserError) as error:
        mnasnet_main.run_export(params)
    assert words.format(tmp=tmp_path) in str(error.value)
    assert listing(str(tmp_path / "made")) == {}


def test_a_best_checkpoint_that_is_gone(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    record = {"global_step": 3, "top_1_accuracy": 0.5, "checkpoint": "model.ckpt-3"}
    (archive / "best.json").write_text(json.dumps(record))
    params = settings_of(tmp_path, "none", export_checkpoint="best", mode="export_only")
    with pytest.raises(UserError, match=f"The best checkpoint, {archive}/model.ckpt-3, is missing"):
        mnasnet_main.run_export(params)


def test_a_training_says_first_what_its_export_lacks(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "model"
    params = {**settings_of(folder, tmp_path / "file", data_dir="null"), "mode": "train"}
    with pytest.raises(UserError, match="--export_dir="):
        mnasnet_main.run_training(params)
    assert os.listdir(folder) == []
