"""Tests of the layers: rounding, initializers, padding, activation, precision, names, endpoints."""

import math

import golden_weights
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import mnasnet_model
import mnasnet_models
from mnasnet_model import BlockArgs, GlobalParams, MnasBlock, MnasNetModel, round_filters

TINY = ["r1_k3_s11_e1_i8_o8", "r2_k5_s22_e3_i8_o16_se0.25"]


def tiny(**fields):
    """A network of three blocks."""
    params = {"stem_size": 8, "head_size": 16, "num_classes": 4, "dropout_rate": 0.0}
    return MnasNetModel(
        mnasnet_models.MnasNetDecoder().decode(TINY), GlobalParams(**{**params, **fields})
    )


def random_images(size, count=2, seed=0):
    return np.random.RandomState(seed).standard_normal((count, size, size, 3)).astype(np.float32)


def run_with_golden_weights(tensors):
    with tf.Session() as session:
        golden_weights.load(session)
        return session.run(tensors)


def names_of_variables():
    return [v.op.name for v in tf.global_variables()]


def ops_of_type(kind):
    return [op for op in tf.get_default_graph().get_operations() if op.type == kind]


# Rounding of filters.


@pytest.mark.parametrize(
    ("filters", "multiplier", "divisor", "min_depth", "expected"),
    [
        (32, 1.0, 8, None, 32),
        (32, 0.5, 8, None, 16),
        (24, 0.5, 8, None, 16),  # 12: half way goes up
        (16, 1.4, 8, None, 24),  # 22.4
        (320, 1.4, 8, None, 448),
        (32, 0.35, 8, None, 16),  # 11.2: 8 would be more than a tenth below
        (80, 0.35, 8, None, 32),  # 28
        (24, 0.35, 8, None, 8),  # 8.4
        (8, 0.1, 8, None, 8),  # never under the divisor
        (16, 0.35, 8, 16, 16),  # nor under min_depth
        (16, 0.35, 8, 4, 8),
        (3, 1.0, 8, 4, 4),
        (32, 0.75, 16, None, 32),
        (100, 1.0, 1, None, 100),
        (31, 1.0, 8, None, 32),
    ],
)
def test_round_filters(filters, multiplier, divisor, min_depth, expected):
    params = GlobalParams(depth_multiplier=multiplier, depth_divisor=divisor, min_depth=min_depth)
    assert round_filters(filters, params) == expected


@pytest.mark.parametrize("filters", [5, 17, 32, 33])
def test_no_multiplier_means_no_rounding(filters):
    assert round_filters(filters, GlobalParams(depth_multiplier=None, min_depth=64)) == filters


@pytest.mark.parametrize("multiplier", [None, 1, 0.5, np.float32(0.5), np.float64(1.4)])
@pytest.mark.parametrize("divisor", [8, 8.0])
@pytest.mark.parametrize("min_depth", [None, 8.0])
def test_filters_are_ints_whatever_the_type_of_the_flags(multiplier, divisor, min_depth):
    params = GlobalParams(depth_multiplier=multiplier, depth_divisor=divisor, min_depth=min_depth)
    for filters in (32, 32.0):
        assert type(round_filters(filters, params)) is int


@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.3, 1.4])
def test_rounding_never_takes_more_than_a_tenth(multiplier):
    params = GlobalParams(depth_multiplier=multiplier)
    for filters in range(1, 400):
        rounded = round_filters(filters, params)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * filters * multiplier


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


@pytest.mark.parametrize(
    ("field", "value"), [("activation", "swish"), ("padding", "valid"), ("data_format", "NHWC")]
)
def test_unknown_choice_is_an_error_that_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field}='{value}'"):
        tiny(**{field: value})


def test_no_stages_is_an_error():
    with pytest.raises(ValueError, match="blocks_args"):
        MnasNetModel([], GlobalParams())


# Blocks.


def block_output(args, inputs, training=False):
    block = MnasBlock(args, GlobalParams())
    with tf.variable_scope("block"):
        output = block(tf.constant(inputs), training=training)
    return block, output


@pytest.mark.parametrize(
    ("changes", "skips"),
    [
        ({}, True),
        ({"id_skip": False}, False),
        ({"output_filters": 16}, False),
        ({"strides": [2, 2]}, False),
        ({"strides": (1, 1)}, True),
    ],
)
def test_identity_is_added_only_where_it_fits(changes, skips):
    args = BlockArgs(3, 1, 8, 8, 3, True, [1, 1])._replace(**changes)
    inputs = np.random.RandomState(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    _, output = block_output(args, inputs)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        # A projection of zeros leaves the identity, or nothing.
        projection = next(
            v
            for v in tf.global_variables()
            if v.op.name.endswith("kernel") and v.shape.as_list()[2] == 24
            and v.shape.as_list()[:2] == [1, 1]
        )  # fmt: skip
        session.run(tf.assign(projection, tf.zeros_like(projection)))
        value = session.run(output)
    if skips:
        np.testing.assert_array_equal(value, inputs)
    else:
        assert not value.any()


@pytest.mark.parametrize(
    ("se_ratio", "filters", "squeezed"), [(0.25, 24, 6), (1.0, 24, 24), (0.25, 3, 1), (0.01, 24, 1)]
)
def test_squeezed_filters_follow_the_blocks_input(se_ratio, filters, squeezed):
    args = BlockArgs(3, 1, filters, 8, expand_ratio=3, se_ratio=se_ratio)
    block_output(args, np.zeros([1, 8, 8, filters], np.float32))
    shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables() if "/se/" in v.op.name}
    assert sorted(shapes.values(), key=len) == [
        [squeezed], [3 * filters], [1, 1, 3 * filters, squeezed], [1, 1, squeezed, 3 * filters]
    ]  # fmt: skip


@pytest.mark.parametrize("se_ratio", [None, 0.0, 1.5])
def test_no_squeeze_and_excite_outside_its_range(se_ratio):
    args = BlockArgs(3, 1, 8, 8, expand_ratio=3, se_ratio=se_ratio)
    block_output(args, np.zeros([1, 8, 8, 8], np.float32))
    assert not [v for v in tf.global_variables() if "/se/" in v.op.name]
    assert not [v for v in tf.global_variables() if v.op.name.endswith("bias")]


def test_squeeze_and_excite_against_numpy():
    args = BlockArgs(3, 1, 8, 8, expand_ratio=1, se_ratio=0.5)
    inputs = np.random.RandomState(0).standard_normal((2, 6, 6, 8)).astype(np.float32)
    block, _ = block_output(args, inputs)
    output = block.endpoints["expansion_output"]
    before, after = run_with_golden_weights([output.op.inputs[0], output])
    weights = {
        v.op.name.split("/")[-1] + str(v.shape.as_list()): golden_weights.weight(
            v.op.name, v.shape.as_list()
        )
        for v in tf.global_variables()
        if "/se/" in v.op.name
    }
    squeezed = before.mean((1, 2)) @ weights["kernel[1, 1, 8, 4]"][0, 0] + weights["bias[4]"]
    excited = np.maximum(squeezed, 0) @ weights["kernel[1, 1, 4, 8]"][0, 0] + weights["bias[8]"]
    gate = 1 / (1 + np.exp(-excited))
    np.testing.assert_allclose(after, before * gate[:, None, None], rtol=1e-4, atol=1e-5)


# The network.


def test_dropout_drops_only_in_training_and_only_above_zero():
    for rate, training, drops in ((0.2, True, 1), (0.2, False, 0), (0, True, 0), (0.0, True, 0)):
        with tf.Graph().as_default():
            tiny(dropout_rate=rate)(tf.zeros([1, 32, 32, 3]), training=training)
            random = [op for op in ops_of_type("RandomUniform") if "dropout" in op.name]
            assert len(random) == drops, (rate, training)


def test_dropout_keeps_the_expected_share_and_mean():
    tf.set_random_seed(3)
    model = tiny(dropout_rate=0.25, head_size=4096, num_classes=1)
    model(tf.constant(random_images(32, 8)), training=True)
    (op,) = [op for op in tf.get_default_graph().get_operations() if "dropout/random" in op.name
             and op.type == "RandomUniform"]  # fmt: skip
    dropped = model.endpoints["head"].op.inputs[0].op
    while dropped.type != "MatMul":
        dropped = dropped.inputs[0].op
    assert op.outputs[0].shape.as_list() == [8, 4096]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        features = session.run(dropped.inputs[0])
    # Pooled ReLUs are positive: what is zero was dropped.
    np.testing.assert_allclose((features == 0).mean(), 0.25, atol=0.01)


def test_endpoints_of_a_network():
    model = tiny()
    logits = model(tf.zeros([2, 32, 32, 3]), training=False)
    shapes = {name: tensor.shape.as_list() for name, tensor in model.endpoints.items()}
    assert shapes == {
        "stem": [2, 16, 16, 8],
        "block_0": [2, 16, 16, 8],
        "block_0/expansion_output": [2, 16, 16, 8],
        "reduction_1": [2, 16, 16, 8],
        "reduction_1/expansion_output": [2, 16, 16, 8],
        "block_1": [2, 8, 8, 16],
        "block_1/expansion_output": [2, 8, 8, 24],
        "block_2": [2, 8, 8, 16],
        "block_2/expansion_output": [2, 8, 8, 48],
        "reduction_2": [2, 8, 8, 16],
        "reduction_2/expansion_output": [2, 8, 8, 48],
        "global_pool": [2, 8, 8, 16],
        "head": [2, 4],
    }
    assert model.endpoints["head"] is logits
    assert model.endpoints["reduction_1"] is model.endpoints["block_0"]
    assert model.endpoints["global_pool"] is model.endpoints["block_2"]


def test_features_only_stops_at_the_last_block():
    model = tiny()
    features = model(tf.zeros([2, 32, 32, 3]), training=False, features_only=True)
    assert features is model.endpoints["block_2"]
    assert "head" not in model.endpoints
    assert not [name for name in names_of_variables() if "mnas_head" in name]


def test_default_global_params():
    params = GlobalParams()
    assert params.batch_norm_momentum == 0.99
    assert params.batch_norm_epsilon == 1e-3
    assert params.head_size == 1280
    assert params.num_classes == 1000
    assert params.dropout_rate == 0.2
    assert params.depth_multiplier is None
    assert GlobalParams._fields[:10] == (
        "batch_norm_momentum", "batch_norm_epsilon", "dropout_rate", "data_format", "num_classes",
        "depth_multiplier", "depth_divisor", "min_depth", "stem_size", "use_keras",
    )  # fmt: skip
    assert BlockArgs._fields == (
        "kernel_size", "num_repeat", "input_filters", "output_filters", "expand_ratio", "id_skip",
        "strides", "se_ratio",
    )  # fmt: skip


def test_training_updates_the_moving_statistics_by_the_momentum():
    images = random_images(32, 4)
    model = tiny(batch_norm_momentum=0.75)
    model(tf.constant(images), training=True)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    (mean,) = [v for v in tf.global_variables() if v.op.name == "mnas_stem/batch_normalization/"
               "moving_mean"]  # fmt: skip
    convolution = next(op for op in ops_of_type("Conv2D") if "mnas_stem" in op.name)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(updates)
        batch_mean = session.run(convolution.outputs[0]).mean((0, 1, 2))
        moving_mean = session.run(mean)
    np.testing.assert_allclose(moving_mean, 0.25 * batch_mean, rtol=1e-3, atol=1e-5)


def test_head_filters_are_never_scaled():
    tiny(depth_multiplier=2.0, head_size=20)(tf.zeros([1, 32, 32, 3]))
    shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    (stem,) = [s for n, s in shapes.items() if "mnas_stem/conv2d" in n]
    (head,) = [s for n, s in shapes.items() if "mnas_head/conv2d" in n]
    assert stem == [3, 3, 3, 16]
    assert head == [1, 1, 32, 20]


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
