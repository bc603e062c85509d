"""Exports in this process, to folders and to TensorFlow's file system in memory."""

import dataclasses
import glob
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from exports import SPEC, export, report_of, saved_model_in, settings_of
from PIL import Image
from tensorflow.python.saved_model import loader_impl

import mnasnet_main
from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.exporting import classifiers, samples, tflite
from utils.reading import dataset_info, examples, records
from utils.training import evaluations, model_files
from utils.weights import conversion

ROOT = pathlib.Path(__file__).parents[2]


VARIABLES = "/variables/variables"


@pytest.fixture(scope="module")
def pictures(digits_dir):
    return [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]


# The SavedModel.


def test_only_what_serving_needs_is_saved(model_dir, exported):
    trained = {name for name, _ in tf.train.list_variables(model_dir)}
    assert [n for n in trained if "ExponentialMovingAverage" in n and "RMSProp" not in n]
    assert [n for n in trained if n.endswith("RMSProp")]
    saved = {n for n, _ in tf.train.list_variables(saved_model_in(exported) + VARIABLES)}
    assert saved == {n for n in trained if "ExponentialMovingAv" not in n and "RMSProp" not in n}


def test_names_that_clients_use(exported, pictures):
    with tf.Session() as session:
        tf.saved_model.load(session, ["serve"], saved_model_in(exported))
        logits, probabilities, classes = session.run(
            ["logits:0", "softmax_tensor:0", "ArgMax:0"], {"image_bytes:0": pictures}
        )
    assert logits.shape == probabilities.shape == (len(pictures), 10)
    np.testing.assert_array_equal(classes, logits.argmax(1))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_label_names_travel_with_it(exported):
    text = pathlib.Path(saved_model_in(exported), "assets.extra", "labels.txt").read_text()
    assert text.splitlines() == [str(digit) for digit in range(10)]
    assert pathlib.Path(exported, "labels.txt").read_text() == text


SERVE = """
import sys, glob, json
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1], tags=json.loads(sys.argv[2]))
pictures = tf.constant([open(p, "rb").read() for p in sorted(glob.glob(sys.argv[3]))])
result = model.signatures["serving_default"](image_bytes=pictures)
floats = model.signatures["images:serving_default"](images=tf.zeros([2, 32, 32, 3]))
assert floats["probabilities"].shape == (2, 10) and floats["classes"].dtype == tf.int64
print(json.dumps([result["classes"].numpy().tolist(), result["probabilities"].numpy().tolist()]))
"""


def serve_in_tf2(path, tags, pattern):
    """Classes and probabilities that TensorFlow 2 alone gives for pictures."""
    result = subprocess.run(
        [sys.executable, "-c", SERVE, path, json.dumps(tags), pattern],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_tensorflow_2_serves_it(exported, digits_dir, pictures):
    # With a graph for TPUs beside it, TensorFlow 2 wants to know which one.
    classes, probabilities = serve_in_tf2(
        saved_model_in(exported), ["serve"], digits_dir + "/pictures/*"
    )
    ours = classifiers.SavedModelClassifier(saved_model_in(exported))
    expected = np.stack([ours.probabilities(picture) for picture in pictures])
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert classes == expected.argmax(1).tolist()


# The graph for TPUs.


def meta_graphs(path):
    found = loader_impl.parse_saved_model(path).meta_graphs
    return {tuple(sorted(graph.meta_info_def.tags)): graph for graph in found}


def test_a_graph_for_tpus_beside_the_other(exported):
    graphs = meta_graphs(saved_model_in(exported))
    assert set(graphs) == {("serve",), ("serve", "tpu")}
    cpu, tpu = graphs["serve",], graphs["serve", "tpu"]
    assert set(tpu.signature_def) == set(cpu.signature_def)
    for name, signature in cpu.signature_def.items():
        assert set(tpu.signature_def[name].inputs) == set(signature.inputs)
        assert set(tpu.signature_def[name].outputs) == set(signature.outputs)
    calls = [node for node in tpu.graph_def.node if node.op == "TPUPartitionedCall"]
    assert calls and not cpu.graph_def.library.function
    names = {call.attr["f"].func.name for call in calls}
    programs = [f for f in tpu.graph_def.library.function if f.signature.name in names]
    assert len(programs) == len(names)
    for program in programs:
        kinds = {node.op for node in program.node_def}
        assert {"Conv2D", "MatMul", "ReadVariableOp", "TPUReplicateMetadata"} <= kinds
        # What a TPU cannot run, or what would write to the variables it shares.
        assert not [k for k in kinds if k.startswith(("Save", "Restore", "Assign", "Decode"))]


def test_the_graph_for_tpus_restores_the_same_weights(exported):
    # Nothing of it runs without a TPU, so what it would restore is read off the graph.
    path = saved_model_in(exported)
    tpu = meta_graphs(path)["serve", "tpu"]
    with tf.Session() as session:
        tf.import_graph_def(
            tf.graph_util.extract_sub_graph(
                tpu.graph_def,
                [n.name for n in tpu.graph_def.node if n.op == "VarHandleOp"]
                + [tpu.saver_def.restore_op_name.lstrip("^")],
            ),
            name="",
        )
        graph = session.graph
        handles = [op for op in graph.get_operations() if op.type == "VarHandleOp"]
        session.run(
            tpu.saver_def.restore_op_name, {tpu.saver_def.filename_tensor_name: path + VARIABLES}
        )
        for handle in handles:
            value = tf.raw_ops.ReadVariableOp(
                resource=handle.outputs[0], dtype=handle.get_attr("dtype")
            )
            np.testing.assert_array_equal(
                session.run(value), tf.train.load_variable(path + VARIABLES, handle.name)
            )
    assert {h.name for h in handles} == {n for n, _ in tf.train.list_variables(path + VARIABLES)}


def test_without_the_flag_there_is_one_graph(model_dir, tmp_path, digits_dir):
    export(settings_of(model_dir, tmp_path))
    path = saved_model_in(str(tmp_path))
    assert set(meta_graphs(path)) == {("serve",)}
    classes, _ = serve_in_tf2(path, None, digits_dir + "/pictures/*")
    assert len(classes) == 10


# Files, their report, and where they go.


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
        assert classifiers.label_names(path, None) == [str(digit) for digit in range(10)]


def test_normalized_input_classifies_like_the_other(model_dir, exported, tmp_path, pictures):
    export(settings_of(model_dir, tmp_path, export_normalized_input=True))
    ours = classifiers.load(str(tmp_path / "tiny.tflite"))
    expected = classifiers.load(exported + "/tiny.tflite")
    for picture in pictures:
        np.testing.assert_allclose(
            ours.probabilities(picture), expected.probabilities(picture), atol=1e-5
        )
    # The report beside it names the resizing: the pixels are those of the other export.
    assert report_of(str(tmp_path))["files"]["tiny.tflite"]["largest_logit_difference"] < 1e-3


def listing(folder):
    """Every file below a folder of any file system, by its path from there, with its size."""
    found = {}
    for place, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[path.removeprefix(folder).lstrip("/")] = tf.io.gfile.stat(path).length
    return found


@pytest.fixture(params=["folder", "bucket"])
def target(request, tmp_path):
    """A folder that is not there yet, on disk or in a bucket."""
    return f"{tmp_path}/made" if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}/made"


def test_an_export_to_a_folder_or_a_bucket(model_dir, digits_dir, exported, target, pictures):
    params = settings_of(model_dir, target, data_dir=digits_dir, post_quantize=True,
                         export_eval_images=10)  # fmt: skip
    export(params)
    first = listing(target)
    assert {"labels.txt", "tiny.tflite", "tiny_postquant.tflite", "export_report.json"} <= set(
        first
    )
    assert not [name for name in first if "tmp" in name or "unfinished" in name]
    expected = classifiers.load(exported + "/tiny.tflite").probabilities(pictures[3])
    for path in (target, saved_model_in(target), target + "/tiny.tflite"):
        np.testing.assert_allclose(
            classifiers.load(path).probabilities(pictures[3]), expected, atol=1e-5
        )
        assert classifiers.label_names(path, None) == [str(digit) for digit in range(10)]
    export(params)  # is there already
    assert listing(target) == first
    export({**params, "post_quantize": False})
    second = listing(target)
    assert "tiny_postquant.tflite" not in second
    moved = {n.split("/", 2)[2]: s for n, s in second.items() if n.startswith("earlier/")}
    assert moved == first


def test_a_foreign_file_is_left_alone(model_dir, target):
    tf.io.gfile.makedirs(target)
    files.write_text(target + "/tiny.tflite", "mine")
    with pytest.raises(UserError, match=r"tiny\.tflite is there already"):
        export(settings_of(model_dir, target))
    with pytest.raises(UserError, match=r"tiny\.tflite is there already"):
        export.check(settings_of(model_dir, target))  # before the training already
    assert files.read_text(target + "/tiny.tflite") == "mine"
    assert set(listing(target)) == {"tiny.tflite"}


def test_what_a_killed_export_left_is_removed(model_dir, target):
    tf.io.gfile.makedirs(target + "/unfinished-mnasnet-export/temp-123")
    files.write_text(target + "/unfinished-mnasnet-export/labels.txt", "half")
    export(settings_of(model_dir, target))
    made = listing(target)
    assert not [name for name in made if name.startswith(("unfinished", "labels"))]
    assert made["tiny.tflite"] > 1000 and "export_report.json" in made


def test_what_was_removed_is_made_again(model_dir, target):
    params = settings_of(model_dir, target)
    export(params)
    tf.io.gfile.remove(target + "/tiny.tflite")
    export(params)
    assert tf.io.gfile.exists(target + "/tiny.tflite")


def test_other_data_make_another_export(model_dir, digits_dir, tmp_path):
    params = settings_of(model_dir, tmp_path)
    export(params)
    assert report_of(str(tmp_path))["files"]["tiny.tflite"]["top_1_accuracy"] is None
    export({**params, "data_dir": digits_dir})
    assert report_of(str(tmp_path))["files"]["tiny.tflite"]["top_1_accuracy"] is not None
    assert (tmp_path / "labels.txt").exists()


def copied(model_dir, folder):
    """A copy of a folder with a checkpoint."""
    shutil.copytree(model_dir, folder)
    return str(folder)


def test_names_beside_the_checkpoint_come_before_those_of_the_data(
    model_dir, digits_dir, tmp_path, caplog
):
    own = copied(model_dir, tmp_path / "own")
    params = settings_of(own, tmp_path / "made", data_dir=digits_dir)
    model_files.keep_label_names(params)
    assert model_files.label_names({**params, "data_dir": None}) == [str(n) for n in range(10)]
    (tmp_path / "own" / "labels.txt").write_text("\n".join("abcdefghij") + "\n")
    export(params)
    assert (tmp_path / "made" / "labels.txt").read_text().split() == list("abcdefghij")
    assert "has other names for the classes than the model" in caplog.text


def test_data_of_other_classes_give_no_accuracy(model_dir, digits_dir, tmp_path):
    other = copied(digits_dir, tmp_path / "data")
    info = dataclasses.replace(dataset_info.load(other), num_label_classes=11, label_names=())
    info.write(other)
    export(settings_of(model_dir, tmp_path / "made", data_dir=other))
    row = report_of(str(tmp_path / "made"))["files"]["tiny.tflite"]
    assert row["top_1_accuracy"] is None and row["images"] == 10


def test_calibration_images_are_of_all_classes(digits_dir, tmp_path):
    found = [
        records.unpack(record, path, 0)[1]
        for path in records.list_files(digits_dir, "train-")
        for record in records.read_records(path)
    ]
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        for label in sorted(found):
            picture = io.BytesIO()
            Image.new("RGB", (40, 40), (20 * label,) * 3).save(picture, "PNG")
            writer.write(examples.example(picture.getvalue(), label))
    params = settings_of("none", "none", data_dir=str(tmp_path))
    images = samples.calibration_images(params)
    assert len(images) == samples.NUM_CALIBRATION_IMAGES
    shades = np.bincount([round(float(image.mean()) / 20) for image in images], minlength=11)[1:]
    expected = np.bincount(found, minlength=11)[1:] / len(found) * len(images)
    np.testing.assert_allclose(shades, expected, atol=1.5)


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


# Wrong input.


def test_a_checkpoint_of_more_classes(model_dir, tmp_path):
    with pytest.raises(UserError, match=r"model\.ckpt-3 is of another network") as error:
        export(settings_of(model_dir, tmp_path, num_label_classes=1000))
    assert "[10] there and [1000] here" in str(error.value)
    assert listing(str(tmp_path)) == {}


def test_a_checkpoint_that_gives_no_numbers(model_dir, tmp_path):
    reader = tf.train.load_checkpoint(model_dir)
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    for name in values:
        if name.endswith(("dense/bias", "dense/bias/ExponentialMovingAverage")):
            values[name] = np.full_like(values[name], np.nan)
    os.makedirs(tmp_path / "own")
    conversion.save(str(tmp_path / "own" / "model.ckpt-3"), values)
    with pytest.raises(UserError, match="not finite numbers"):
        export(settings_of(tmp_path / "own", tmp_path / "made"))
    assert listing(str(tmp_path / "made")) == {}


def test_a_checkpoint_cut_short(model_dir, tmp_path):
    own = copied(model_dir, tmp_path / "own")
    with open(own + "/model.ckpt-3.data-00000-of-00001", "r+b") as f:
        f.truncate(100)
    with pytest.raises(UserError, match=r"model\.ckpt-3 cannot be read"):
        export(settings_of(own, tmp_path / "made"))


def test_training_files_without_a_record(model_dir, tmp_path):
    tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")).close()
    params = settings_of(model_dir, tmp_path / "made", data_dir=str(tmp_path), quantize="int8")
    with pytest.raises(UserError, match=r"train-\* of --data_dir=.* are empty"):
        export(params)


@pytest.mark.parametrize("limit", [1_000, 20_000])  # the labels fit; the SavedModel, too
def test_a_disk_that_takes_no_more(model_dir, digits_dir, tmp_path, file_size_limit, limit):
    params = settings_of(model_dir, tmp_path, data_dir=digits_dir, export_eval_images=10)
    export(params)
    first = listing(str(tmp_path))
    with file_size_limit(limit), pytest.raises(UserError) as error:
        export({**params, "post_quantize": True})
    assert re.search(f"{tmp_path}.*File too large; .*ulimit", str(error.value))
    export(params)  # is there still
    assert listing(str(tmp_path)) == first


def test_a_temporary_folder_that_takes_no_more(model_dir, tmp_path, monkeypatch, file_size_limit):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = f"ram://bucket/{uuid.uuid4()}"
    with file_size_limit(20_000), pytest.raises(UserError) as error:
        export(settings_of(model_dir, target))
    assert f"The temporary folder {tmp_path} cannot be written" in str(error.value)
    assert os.listdir(tmp_path) == [] and listing(target) == {}


EXPORT = """
import json, sys
import utils.base.tensorflow_version
import exports
exports.tf.disable_v2_behavior()
exports.export(json.loads(sys.argv[1]))
"""


def test_a_killed_export_leaves_the_earlier_one_and_no_temporary_file(model_dir, tmp_path):
    target, temporary = tmp_path / "made", tmp_path / "temporary"
    temporary.mkdir()
    export(settings_of(model_dir, target))
    first = listing(str(target))
    params = settings_of(model_dir, target, post_quantize=True)
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, json.dumps(params)], stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary),
                       "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )  # fmt: skip
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
    export(params)
    made = listing(str(target))
    assert "tiny_postquant.tflite" in made
    assert not [name for name in made if name.startswith("unfinished-")]


def test_two_exports_to_a_folder_at_a_time(model_dir, tmp_path):
    with (
        folder_lock.hold(str(tmp_path), "export_dir", "export"),
        pytest.raises(UserError, match="Another export is writing to --export_dir="),
    ):
        export(settings_of(model_dir, tmp_path))


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


def test_a_checkpoint_of_another_network(model_dir, tmp_path):
    other = {**SPEC, "stem_size": 16}
    deeper = {**SPEC, "stages": [*SPEC["stages"], "r1_k3_s11_e3_i16_o16"]}
    for spec in (other, deeper):
        with pytest.raises(UserError, match=r"model\.ckpt-3 is of another network") as error:
            export(settings_of(model_dir, tmp_path, model_spec=spec))
        assert "\n" not in str(error.value)
    assert listing(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model_dir": "{tmp}"}, "--model_dir={tmp} holds no checkpoint to export: train first."),
        ({"export_checkpoint": "best"}, "holds no best checkpoint (evaluation keeps it)"),
        ({"export_checkpoint": "{tmp}/model.ckpt-1"}, "model.ckpt-1 is not a checkpoint"),
        ({"data_dir": "{tmp}/none"}, "--data_dir={tmp}/none is no folder"),
    ],
)
def test_what_cannot_be_exported(model_dir, tmp_path, given, words):
    given = {name: value.format(tmp=tmp_path) for name, value in given.items()}
    params = {
        **settings_of(model_dir, tmp_path / "made"), "mode": "export_only", **given,
    }  # fmt: skip
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


@pytest.mark.parametrize("prefix", ["train", "validation"])
@pytest.mark.parametrize(
    ("label", "position", "words"), [(1, 2, "the picture cannot be decoded"), (11, 1, "label 11")]
)
def test_images_that_cannot_be_read(model_dir, tmp_path, pictures, prefix, label, position, words):
    serialized = [examples.example(picture, 1) for picture in pictures]
    serialized[position] = examples.example(pictures[0] if label == 11 else b"no picture", label)
    good = [examples.example(picture, 1) for picture in pictures]
    for name in ("train", "validation"):
        with tf.io.TFRecordWriter(str(tmp_path / f"{name}-00000-of-00001")) as writer:
            for content in serialized if name == prefix else good:
                writer.write(content)
    params = settings_of(model_dir, tmp_path / "made", data_dir=str(tmp_path), quantize="int8")
    with pytest.raises(UserError) as error:
        export(params)
    assert f"{prefix}-00000-of-00001, record {position}: {words}" in str(error.value)
    assert listing(str(tmp_path / "made")) == {}


def test_a_training_says_first_what_its_export_lacks(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "model"
    params = {**settings_of(folder, tmp_path / "file", data_dir="null"), "mode": "train"}
    with pytest.raises(UserError, match="--export_dir="):
        mnasnet_main.run_training(params)
    assert os.listdir(folder) == []
