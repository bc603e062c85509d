"""Exports in this process, to folders and to TensorFlow's file system in memory."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from exports import copied, listing, make_export, report_of, saved_model_in, settings_of

import mnasnet_main
from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.exporting import classifiers, tflite
from utils.reading import dataset_info
from utils.training import evaluations, model_files

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]


def test_every_file_is_measured_and_classifies(exported, pictures):
    rows = {row["kind"]: row for row in report_of(exported)["files"].values()}
    assert set(rows) == {"names of the classes", "SavedModel", *tflite.SUFFIXES}
    assert report_of(exported)["identity"]["resize_method"] == "bilinear"
    expected = classifiers.load(saved_model_in(exported)).probabilities(pictures[3])
    for name, row in report_of(exported)["files"].items():
        path = os.path.join(exported, name)
        if row["kind"] == "names of the classes":
            continue
        assert row["images"] == 10 and row["latency_ms"] > 0 and row["bytes"] > 1000
        ours = classifiers.load(path).probabilities(pictures[3])
        np.testing.assert_allclose(ours, expected, atol=0.05)
        assert classifiers.label_names(path, None, 10) == [str(digit) for digit in range(10)]


def test_an_export_to_a_folder_or_a_bucket(model_dir, digits_dir, exported, target, pictures):
    params = settings_of(
        model_dir, target, data_dir=digits_dir, post_quantize=True, export_eval_images=10
    )
    # What a killed export left is removed.
    tf.io.gfile.makedirs(target + "/unfinished-mnasnet-export/temp-123")
    files.write_text(target + "/unfinished-mnasnet-export/labels.txt", "half")
    make_export(params)
    first = listing(target)
    made = {"labels.txt", "tiny.tflite", "tiny_postquant.tflite", "export_report.json"}
    assert made <= set(first) and first["tiny.tflite"] > 1000
    assert not [name for name in first if "tmp" in name or "unfinished" in name]
    expected = classifiers.load(exported + "/tiny.tflite").probabilities(pictures[3])
    for path in (target, saved_model_in(target), target + "/tiny.tflite"):
        np.testing.assert_allclose(
            classifiers.load(path).probabilities(pictures[3]), expected, atol=1e-5
        )
        assert classifiers.label_names(path, None, 10) == [str(digit) for digit in range(10)]
    make_export({**params, "post_quantize": False})
    second = listing(target)
    assert "tiny_postquant.tflite" not in second
    assert len(second) == len(first) - 1


def test_an_export_that_was_killed_while_it_was_placed_is_made_again(model_dir, plain, tmp_path):
    """Its report, which is placed last, still lies with the unfinished files."""
    target = copied(plain, tmp_path / "made")
    first = saved_model_in(target)
    unfinished = tmp_path / "made" / "unfinished-mnasnet-export"
    unfinished.mkdir()
    os.rename(f"{target}/export_report.json", unfinished / "export_report.json")
    make_export(settings_of(model_dir, target, post_quantize=True))
    assert sorted(os.listdir(target)) == sorted([*report_of(target)["files"], "export_report.json"])
    assert not os.path.exists(first)


def test_the_same_export_again_is_made_anew(model_dir, plain, digits_dir, tmp_path, caplog):
    target = copied(plain, tmp_path / "made")
    params = settings_of(model_dir, target)
    first = report_of(target)
    os.remove(target + "/tiny.tflite")
    with caplog.at_level("INFO", "absl"):
        make_export(params)
    assert caplog.text.count("Using the averaged weights of") == 1  # restored once
    second = report_of(target)
    assert second["identity"] == first["identity"] and [*second["files"]] != [*first["files"]]
    row = second["files"]["tiny.tflite"]
    assert os.path.getsize(target + "/tiny.tflite") == row["bytes"]
    assert row["top_1_accuracy"] is None
    make_export({**params, "data_dir": digits_dir})
    assert report_of(target)["files"]["tiny.tflite"]["top_1_accuracy"] is not None
    assert os.path.exists(target + "/labels.txt")


def test_the_version_is_above_those_that_are_there(model_dir, tmp_path):
    """Two exports may be made in one second, and a clock may be set back."""
    coming = tmp_path / "made" / "9999999999"
    coming.mkdir(parents=True)
    make_export(settings_of(model_dir, tmp_path / "made"))
    assert saved_model_in(tmp_path / "made").endswith("/10000000000")
    make_export(settings_of(model_dir, tmp_path / "made"))
    assert saved_model_in(tmp_path / "made").endswith("/10000000001")
    assert coming.exists()


def test_names_beside_the_checkpoint_come_before_those_of_the_data(
    model_dir, digits_dir, tmp_path, caplog
):
    own = copied(model_dir, tmp_path / "own")
    params = settings_of(own, tmp_path / "made", data_dir=digits_dir)
    model_files.keep_label_names(params)
    assert model_files.label_names({**params, "data_dir": None}) == [str(n) for n in range(10)]
    (tmp_path / "own" / "labels.txt").write_text("\n".join("abcdefghij") + "\n")
    make_export(params)
    assert (tmp_path / "made" / "labels.txt").read_text().split() == list("abcdefghij")
    assert "the model has no '0', and the data set no 'a'" in caplog.text
    rows = report_of(params["export_dir"])["files"].values()
    assert {row.get("top_1_accuracy") for row in rows} == {None}


def test_data_of_other_classes_give_no_accuracy(model_dir, digits_dir, tmp_path):
    other = copied(digits_dir, tmp_path / "data")
    info = dataset_info.load(other)
    dataclasses.replace(info, num_label_classes=11, label_names=(), images_by_class={}).write(other)
    make_export(settings_of(model_dir, tmp_path / "made", data_dir=other))
    row = report_of(str(tmp_path / "made"))["files"]["tiny.tflite"]
    assert row["top_1_accuracy"] is None and row["images"] == 10


def test_an_export_asks_for_no_tpu(model_dir, tmp_path):
    params = settings_of(model_dir, tmp_path, use_tpu=True, tpu="none", mode="export_only")
    mnasnet_main.run_export(params)
    assert (tmp_path / "tiny.tflite").exists()


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001", "folder"])
def test_what_export_checkpoint_may_name(model_dir, ending):
    path = model_dir + "/model.ckpt-3"
    wanted = model_dir if ending == "folder" else path + ending
    params = settings_of(model_dir, "none", export_checkpoint=wanted, mode="export_only")
    assert evaluations.checkpoint_to_export(params) == path


@pytest.mark.parametrize("limit", [1_000, 20_000])  # the labels fit; the SavedModel, too
def test_a_disk_that_takes_no_more(model_dir, plain, digits_dir, tmp_path, file_size_limit, limit):
    target = copied(plain, tmp_path / "made")
    first = listing(target)
    params = settings_of(model_dir, target, data_dir=digits_dir, export_eval_images=10)
    with file_size_limit(limit), pytest.raises(UserError) as error:
        make_export(params)
    assert re.search(f"{target}.*File too large; .*ulimit", str(error.value))
    assert listing(target) == first


def test_a_temporary_folder_that_takes_no_more(model_dir, tmp_path, monkeypatch, file_size_limit):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = f"ram://bucket/{uuid.uuid4()}"
    with file_size_limit(20_000), pytest.raises(UserError) as error:
        make_export(settings_of(model_dir, target))
    assert f"The temporary folder {tmp_path} cannot be written" in str(error.value)
    assert os.listdir(tmp_path) == [] and listing(target) == {}


EXPORT = """
import json, sys
import utils.base.tensorflow_version
import exports
exports.tf.disable_v2_behavior()
exports.make_export(json.loads(sys.argv[1]))
"""


def test_a_killed_export_leaves_the_earlier_one_and_no_temporary_file(model_dir, plain, tmp_path):
    target, temporary = tmp_path / "made", tmp_path / "temporary"
    temporary.mkdir()
    copied(plain, target)
    first = listing(str(target))
    params = settings_of(model_dir, target, post_quantize=True)
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, json.dumps(params)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )
    deadline = time.monotonic() + 300
    try:
        while not list(target.glob("unfinished-*/*/saved_model.pb")):
            assert process.poll() is None and time.monotonic() < deadline, "it has not begun"
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert os.listdir(temporary) == []
    left = {
        n: s
        for n, s in listing(str(target)).items()
        if not n.startswith(("unfinished-", folder_lock.FILE_NAME))
    }
    assert left == first
    make_export(params)
    made = listing(str(target))
    assert "tiny_postquant.tflite" in made
    assert not [name for name in made if name.startswith("unfinished-")]
