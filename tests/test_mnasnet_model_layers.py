"""Tests of the layers: initial weights, padding, activation, names, precision."""

import math

import golden_weights
import numpy as np
import pytest
from small_networks import (
    names_of_variables,
    ops_of_type,
    random_images,
    run_with_golden_weights,
    tiny,
)

import mnasnet_model
from mnasnet_model import BlockArgs, GlobalParams, MnasBlock

import tensorflow.compat.v1 as tf

# Initializers.


@pytest.mark.parametrize(
    ("shape", "fan_out"),
    [
        ([3, 3, 16, 256], 9 * 256),
        ([1, 1, 512, 128], 128),
        ([5, 5, 2048, 1], 25),  # a depthwise kernel: the last axis is 1
    ],
)
def test_convolution_kernels_are_normal(shape, fan_out):
    tf.set_random_seed(1)
    with tf.Session() as session:
        values = session.run(mnasnet_model.conv_kernel_initializer(shape, tf.float32))
    stddev = math.sqrt(2 / fan_out)
    assert values.shape == tuple(shape)
    np.testing.assert_allclose(values.std(), stddev, rtol=0.02)
    assert abs(values.mean()) < 0.02 * stddev
    # Not truncated at two standard deviations, as Keras's own normal initializers are.
    np.testing.assert_allclose((np.abs(values) > 2 * stddev).mean(), 0.0455, atol=0.005)


def test_dense_kernel_is_uniform_within_the_bound_of_its_classes():
    tf.set_random_seed(1)
    with tf.Session() as session:
        values = session.run(mnasnet_model.dense_kernel_initializer([1280, 100], tf.float32))
    assert 0.0999 < np.abs(values).max() <= 0.1
    np.testing.assert_allclose(values.std(), 0.1 / math.sqrt(3), rtol=0.02)
    assert abs(values.mean()) < 0.001


@pytest.mark.parametrize("use_keras", [True, False])
def test_layers_use_the_initializers(use_keras):
    tf.set_random_seed(1)
    model = tiny(use_keras=use_keras, num_classes=25, head_size=1280)
    model(tf.zeros([1, 32, 32, 3]))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = {v.op.name: session.run(v) for v in tf.global_variables()}
    kinds = dict.fromkeys(("kernel", "depthwise_kernel", "bias", "gamma", "beta"), 0)
    for name, value in values.items():
        kind = name.split("/")[-1]
        kinds[kind] = kinds.get(kind, 0) + 1
        if "dense/kernel" in name:
            assert 0.199 < np.abs(value).max() <= 0.2
        elif kind in ("kernel", "depthwise_kernel") and value.size > 200:
            height, width, _, filters = value.shape
            stddev = math.sqrt(2 / (height * width * filters))
            np.testing.assert_allclose(value.std(), stddev, rtol=0.25, err_msg=name)
        elif kind in ("bias", "beta", "moving_mean"):
            assert not value.any(), name
        elif kind in ("gamma", "moving_variance"):
            assert (value == 1).all(), name
    assert all(kinds.values())


# Padding, activation.


def by_hand_convolution(images, kernel, stride, pads):
    """A convolution in NumPy; `pads` before and after, both directions."""
    images = np.pad(images, [(0, 0), pads, pads, (0, 0)]).astype(np.float64)
    height, width = kernel.shape[:2]
    rows = (images.shape[1] - height) // stride + 1
    columns = (images.shape[2] - width) // stride + 1
    outputs = np.zeros([images.shape[0], rows, columns, kernel.shape[3]])
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            patch = images[:, top : top + height, left : left + width]
            outputs[:, row, column] = np.tensordot(patch, kernel, 3)
    return outputs


def by_hand_norm(images, scope, epsilon=1e-3):
    """Batch normalization with golden moving averages."""
    gamma, beta, mean, variance = (
        golden_weights.weight(f"{scope}/batch_normalization/{leaf}", images.shape[-1:])
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return (images - mean) / np.sqrt(variance + epsilon) * gamma + beta


@pytest.mark.parametrize("use_keras", [True, False])
@pytest.mark.parametrize("size", [16, 15])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_stem_padding_against_numpy(padding, size, use_keras):
    model = tiny(padding=padding, use_keras=use_keras)
    images = random_images(size)
    model(tf.constant(images), training=False)
    stem = run_with_golden_weights(model.endpoints["stem"])
    (name,) = (n for n in names_of_variables() if "mnas_stem/conv2d" in n)
    kernel = golden_weights.weight(name, [3, 3, 3, 8])
    # TensorFlow's SAME pads an even extent behind alone.
    pads = (0, 1) if padding == "same" and size % 2 == 0 else (1, 1)
    expected = by_hand_norm(by_hand_convolution(images, kernel, 2, pads), "mnas_stem")
    np.testing.assert_allclose(stem, np.maximum(expected, 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(("kernel_size", "pads_of_same"), [(3, (0, 1)), (5, (1, 2))])
def test_depthwise_padding_against_numpy(kernel_size, pads_of_same, padding):
    args = BlockArgs(kernel_size, 1, 6, 8, expand_ratio=1, strides=[2, 2])
    block = MnasBlock(args, GlobalParams(padding=padding))
    inputs = np.random.RandomState(0).standard_normal((1, 12, 12, 6)).astype(np.float32)
    with tf.variable_scope("block"):
        block(tf.constant(inputs), training=False)
    outputs = run_with_golden_weights(block.endpoints["expansion_output"])
    (name,) = (n for n in names_of_variables() if n.endswith("depthwise_kernel"))
    kernel = golden_weights.weight(name, [kernel_size, kernel_size, 6, 1])
    pads = pads_of_same if padding == "same" else ((kernel_size - 1) // 2,) * 2
    expected = np.concatenate(
        [
            by_hand_convolution(inputs[..., c : c + 1], kernel[:, :, c : c + 1], 2, pads)
            for c in range(6)
        ],
        axis=-1,
    )
    expected = np.maximum(by_hand_norm(expected, "block"), 0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)


def test_symmetric_padding_adds_no_variables_and_keeps_names():
    tiny(padding="symmetric")(tf.zeros([1, 32, 32, 3]))
    symmetric = names_of_variables()
    with tf.Graph().as_default():
        tiny(padding="same")(tf.zeros([1, 32, 32, 3]))
        assert names_of_variables() == symmetric


def test_relu6_clips_every_activation():
    images = tf.constant(10 * random_images(32))
    model = tiny(activation="relu6")
    model(images, training=False)
    assert len(ops_of_type("Relu6")) == 9  # stem, 1 + 3 + 3 in the blocks (squeezes too), head
    assert not ops_of_type("Relu")
    clipped = run_with_golden_weights(model.endpoints["stem"])
    with tf.Graph().as_default():
        model = tiny(activation="relu")
        model(tf.constant(10 * random_images(32)), training=False)
        free = run_with_golden_weights(model.endpoints["stem"])
    assert free.max() > 6
    np.testing.assert_allclose(clipped, np.minimum(free, 6), rtol=1e-5)


# Names and precision.


def test_names_do_not_depend_on_other_keras_layers_in_the_graph():
    tf.keras.layers.Conv2D(4, 3)(tf.zeros([1, 8, 8, 3]))
    tf.keras.layers.DepthwiseConv2D(3)(tf.zeros([1, 8, 8, 3]))
    tf.keras.layers.Dense(4)(tf.zeros([1, 8]))
    others = set(names_of_variables())
    with tf.variable_scope("net"):
        tiny()(tf.zeros([1, 32, 32, 3]))
    crowded = [name for name in names_of_variables() if name not in others]
    assert len(others) == 6
    with tf.Graph().as_default():
        with tf.variable_scope("net"):
            tiny()(tf.zeros([1, 32, 32, 3]))
        assert names_of_variables() == crowded
    # 1 projection; 2 x (expansion, 2 of squeeze-and-excite, projection); then stem and head.
    assert "net/mnas_net_model/mnas_stem/conv2d_9/kernel" in crowded
    assert "net/mnas_net_model/mnas_head/conv2d_10/kernel" in crowded
    assert "net/mnas_net_model/mnas_head/dense/kernel" in crowded


def test_names_of_a_second_network_count_from_the_start():
    for scope in ("first", "second"):
        with tf.variable_scope(scope):
            tiny()(tf.zeros([1, 32, 32, 3]))
    names = names_of_variables()
    first = [name.removeprefix("first/") for name in names if name.startswith("first/")]
    second = [name.removeprefix("second/") for name in names if name.startswith("second/")]
    assert first
    assert first == second


def test_both_kinds_of_layers_compute_the_same():
    images = random_images(32)
    outputs = []
    for use_keras in (True, False):
        with tf.Graph().as_default():
            logits = tiny(use_keras=use_keras)(tf.constant(images), training=False)
            # Creation order is the same: give each variable a value by its place.
            variables = tf.global_variables()
            values = {
                v.initializer.inputs[1]: golden_weights.weight(
                    f"{place}/{v.op.name.split('/')[-1]}", v.shape.as_list()
                )
                for place, v in enumerate(variables)
            }
            with tf.Session() as session:
                session.run([v.initializer for v in variables], values)
                outputs.append(session.run(logits))
    assert np.abs(outputs[0]).max() > 0.1
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


def test_bfloat16_scope_with_tf_layers():
    images = random_images(32)
    with tf.tpu.bfloat16_scope():
        model = tiny(use_keras=False)
        logits = model(tf.cast(tf.constant(images), tf.bfloat16), training=False)
    assert logits.dtype == tf.bfloat16
    assert {v.dtype.base_dtype for v in tf.global_variables()} == {tf.float32}
    assert model.endpoints["block_1"].dtype == tf.bfloat16
    low = run_with_golden_weights(tf.cast(logits, tf.float32))
    with tf.Graph().as_default():
        high = run_with_golden_weights(tiny(use_keras=False)(tf.constant(images), training=False))
    # bfloat16 keeps 8 bits of the mantissa.
    assert not np.array_equal(low, high)
    np.testing.assert_allclose(low, high, atol=0.05 * np.abs(high).max())


def test_bfloat16_gradients_are_those_of_float32_variables():
    with tf.tpu.bfloat16_scope():
        logits = tiny(use_keras=False)(tf.zeros([2, 32, 32, 3], tf.bfloat16), training=True)
    gradients = tf.gradients(tf.cast(logits, tf.float32), tf.trainable_variables())
    assert all(gradient is not None for gradient in gradients)
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
