"""The SavedModel of an export: what is in it, and what TensorFlow 2 makes of it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from exports import SIZE, saved_model_in

import preprocessing
from utils.exporting import classifiers, saved_model

import tensorflow.compat.v1 as tf
from tensorflow.python.saved_model import loader_impl

VARIABLES = "/variables/variables"


def test_only_what_serving_needs_is_saved(model_dir, exported):
    trained = {name for name, _ in tf.train.list_variables(model_dir)}
    assert [n for n in trained if "ExponentialMovingAverage" in n and "RMSProp" not in n]
    assert [n for n in trained if n.endswith("RMSProp")]
    saved = {n for n, _ in tf.train.list_variables(saved_model_in(exported) + VARIABLES)}
    assert saved == {n for n in trained if "ExponentialMovingAv" not in n and "RMSProp" not in n}


def test_the_averages_are_saved(model_dir, exported):
    """The other files are compared with the SavedModel, so it must be right itself."""
    trained = tf.train.load_checkpoint(model_dir)
    saved = tf.train.load_checkpoint(saved_model_in(exported) + VARIABLES)
    averaged = 0
    for name in saved.get_variable_to_shape_map():
        average = f"{name}/ExponentialMovingAverage"
        has_average = trained.has_tensor(average)
        expected = trained.get_tensor(average if has_average else name)
        np.testing.assert_array_equal(saved.get_tensor(name), expected, name)
        averaged += has_average and not np.array_equal(expected, trained.get_tensor(name))
    assert averaged > 10


# Clients of the published program, who know the names of tensors and no signature.


@pytest.fixture(params=["exported", "plain"])
def loaded(request):
    """(session, meta graph) of an export that a client loads as the published notebook does."""
    path = saved_model_in(request.getfixturevalue(request.param))
    with tf.Session() as session:
        yield session, tf.saved_model.loader.load(session, ["serve"], path)


def feeds_of(pictures):
    """What old clients feed, each for the same pictures: bytes, raw pixels, normalized pixels."""
    images = [
        preprocessing.preprocess_image(picture, image_size=SIZE, resize_method="bilinear")
        for picture in pictures
    ]
    with tf.Session() as session:
        raw, normalized = session.run([images, preprocessing.normalize(tf.stack(images))])
    return {"Placeholder:0": pictures, "float_image_input:0": raw, "truediv:0": normalized}


def test_old_clients_feed_and_fetch_by_name(loaded, pictures):
    session, meta = loaded
    results = {
        name: session.run(["logits:0", "softmax_tensor:0", "ArgMax:0"], {name: value})
        for name, value in feeds_of(pictures).items()
    }
    signature = meta.signature_def["serving_default"]
    expected = session.run(
        [signature.outputs[key].name for key in ("probabilities", "classes")],
        {signature.inputs["image_bytes"].name: pictures},
    )
    for logits, probabilities, classes in results.values():
        assert logits.shape == (len(pictures), 10) and classes.dtype == np.int64
        np.testing.assert_array_equal(logits, results["Placeholder:0"][0])
        np.testing.assert_array_equal(probabilities, expected[0])
        np.testing.assert_array_equal(classes, expected[1])
    np.testing.assert_array_equal(expected[1], results["Placeholder:0"][0].argmax(1))
    np.testing.assert_allclose(expected[0].sum(1), 1, rtol=1e-5)


def test_old_clients_get_what_classify_prints(loaded, exported, pictures):
    session, _ = loaded
    model = classifiers.load(exported)
    for picture in pictures[:3]:
        for name, value in feeds_of([picture]).items():
            (found,) = session.run("softmax_tensor:0", {name: value})
            np.testing.assert_array_equal(found, model.probabilities(picture))


def test_shapes_and_values_under_the_published_names(loaded, pictures):
    session, meta = loaded
    feeds = feeds_of(pictures)
    raw, normalized = session.run(["float_image_input:0", "truediv:0"], {"Placeholder:0": pictures})
    np.testing.assert_array_equal(raw, feeds["float_image_input:0"])
    np.testing.assert_array_equal(normalized, feeds["truediv:0"])
    for name, shape in [
        ("Placeholder", [None]),
        ("float_image_input", [None, SIZE, SIZE, 3]),
        ("truediv", [None, SIZE, SIZE, 3]),
        ("logits", [None, 10]),
        ("softmax_tensor", [None, 10]),
        ("ArgMax", [None]),
    ]:
        assert session.graph.get_tensor_by_name(f"{name}:0").shape.as_list() == shape
    signatures = {name: set(meta.signature_def[name].inputs) for name in meta.signature_def}
    assert signatures == {
        "serving_default": {"image_bytes"},
        "classify": {"image_bytes"},
        "images:serving_default": {"images"},
        "images:classify": {"images"},
    }


def test_label_names_travel_with_it(exported):
    text = pathlib.Path(saved_model_in(exported), "assets.extra", "labels.txt").read_text()
    assert text.splitlines() == [str(digit) for digit in range(10)]
    assert pathlib.Path(exported, "labels.txt").read_text() == text


SERVE = """
import sys, glob, json
import tensorflow as tf
pictures = tf.constant([open(p, "rb").read() for p in sorted(glob.glob(sys.argv[2]))])
served = {}
for name, (path, tags) in json.loads(sys.argv[1]).items():
    model = tf.saved_model.load(path, tags=tags)
    result = model.signatures["serving_default"](image_bytes=pictures)
    floats = model.signatures["images:serving_default"](images=tf.zeros([2, 32, 32, 3]))
    assert floats["probabilities"].shape == (2, 10) and floats["classes"].dtype == tf.int64
    served[name] = [result["classes"].numpy().tolist(), result["probabilities"].numpy().tolist()]
print(json.dumps(served))
"""


@pytest.fixture(scope="module")
def served(exported, plain, digits_dir):
    """Name of an export -> (classes, probabilities) that TensorFlow 2 alone gives for pictures."""
    # With a graph for TPUs next to the other, TensorFlow 2 wants to know which one.
    models = {
        "exported": [saved_model_in(exported), ["serve"]],
        "plain": [saved_model_in(plain), None],
    }
    result = subprocess.run(
        [sys.executable, "-c", SERVE, json.dumps(models), digits_dir + "/pictures/*"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_tensorflow_2_serves_it(exported, served, pictures):
    ours = saved_model.SavedModel(saved_model_in(exported))
    expected = np.stack([ours.probabilities(picture) for picture in pictures])
    for classes, probabilities in served.values():
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


def test_without_the_flag_there_is_one_graph(plain, served):
    assert set(meta_graphs(saved_model_in(plain))) == {("serve",)}
    assert len(served["plain"][0]) == 10
