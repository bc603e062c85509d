"""XLA lowers one core's step to HLO: what it cannot run on a TPU shows there, without a TPU."""

import functools
import re

import pytest

from utils import tpu_check

import tensorflow.compat.v1 as tf

SIZE, BATCH = 64, 16


@functools.cache
def lowered(model_name, precision, training, size=SIZE, batch=BATCH):
    """The HLO text of a network's step."""
    params = tpu_check.tpu_params(model_name=model_name, precision=precision, input_image_size=size)
    return tpu_check.lower(
        tpu_check.step(params, training), tpu_check.step_specs(params, batch)
    ).text


def check(text, precision, convolutions):
    assert tpu_check.hlo_problems(text, precision) == []
    dtype = {"float32": "f32", "bfloat16": "bf16"}[precision]
    assert tpu_check.convolutions(text) == {dtype: convolutions}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("training", "convolutions"), [(True, 195), (False, 65)])
def test_a1(precision, training, convolutions):
    check(lowered("mnasnet-a1", precision, training), precision, convolutions)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model_name", "layers"),
    [
        ("mnasnet-a1", 65),
        ("mnasnet-b1", 52),
        ("mnasnet-small", 66),
        ("mnasnet-d1", 68),
        ("mnasnet-d1-320", 86),
    ],
)
def test_all_networks_at_full_size(model_name, layers, precision):
    for training, factor in ((True, 3), (False, 1)):
        text = lowered(model_name, precision, training, 224, 128)
        check(text, precision, layers * factor)


def test_shapes_are_those_of_the_batch():
    text = lowered("mnasnet-a1", "float32", True)
    entry = text[text.index("ENTRY") :]
    images = re.findall(r"= (\S+?)\{[\d,]*\} parameter\((\d)\)", entry)
    assert {number: shape for shape, number in images}["0"] == f"f32[{SIZE},{SIZE},3,{BATCH}]"
    assert f"f32[{BATCH},1000]" in entry  # the logits


def test_weights_stay_float32_in_bfloat16():
    text = lowered("mnasnet-a1", "bfloat16", True)
    entry = text[text.index("ENTRY") :]
    parameters = re.findall(r"= (\w+)\[[\d,]*\]\S* parameter\(", entry)
    assert parameters.count("bf16") == 1  # the images
    assert parameters.count("f32") > 500


# Steps that are wrong.


def lower_with(addition, images_dtype=tf.float32):
    """The HLO text of a small step with an addition to its features."""

    def step(images, labels):
        features = tf.layers.conv2d(images, 4, 3, name="right")
        return addition(features), labels

    specs = [tf.TensorSpec([4, 8, 8, 3], images_dtype), tf.TensorSpec([4], tf.int32)]
    return tpu_check.lower(step, specs).text


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (lambda x: tf.boolean_mask(x, x > 0), "shapes that depend on the data"),
        (lambda x: tf.cast(x, tf.float64) * 2, "64 bits"),
        (lambda x: tf.layers.conv2d(tf.cast(x, tf.bfloat16), 4, 3), "not f32: {'bf16': 1}"),
        # Eigenvalues are a call into a library of the device that lowers.
        (lambda x: tf.linalg.eigh(x[:, :6, :6, 0])[0], "custom call"),
    ],
    ids=["boolean_mask", "float64", "other_precision", "eigenvalues"],
)
def test_wrong_hlo_is_found(addition, words):
    problems = tpu_check.hlo_problems(lower_with(addition), "float32")
    assert any(words in problem for problem in problems), problems


def test_operations_of_hosts_are_refused():
    with pytest.raises((ValueError, TypeError, tf.errors.OpError), match="PyFunc"):
        lower_with(lambda x: tf.py_func(lambda y: y, [x], tf.float32))
