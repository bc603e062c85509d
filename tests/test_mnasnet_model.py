"""Tests of the network: rounding of filters, blocks, endpoints, statistics, dropout."""

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

from mnasnet_model import BlockArgs, GlobalParams, MnasBlock, MnasNetModel, round_filters

import tensorflow.compat.v1 as tf

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
            if v.op.name.endswith("kernel")
            and v.shape.as_list()[2] == 24
            and v.shape.as_list()[:2] == [1, 1]
        )
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
        [squeezed],
        [3 * filters],
        [1, 1, 3 * filters, squeezed],
        [1, 1, squeezed, 3 * filters],
    ]


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
    (op,) = [
        op
        for op in tf.get_default_graph().get_operations()
        if "dropout/random" in op.name and op.type == "RandomUniform"
    ]
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
        "batch_norm_momentum",
        "batch_norm_epsilon",
        "dropout_rate",
        "data_format",
        "num_classes",
        "depth_multiplier",
        "depth_divisor",
        "min_depth",
        "stem_size",
        "use_keras",
    )
    assert BlockArgs._fields == (
        "kernel_size",
        "num_repeat",
        "input_filters",
        "output_filters",
        "expand_ratio",
        "id_skip",
        "strides",
        "se_ratio",
    )


def test_training_updates_the_moving_statistics_by_the_momentum():
    images = random_images(32, 4)
    model = tiny(batch_norm_momentum=0.75)
    model(tf.constant(images), training=True)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    (mean,) = [
        v for v in tf.global_variables() if v.op.name == "mnas_stem/batch_normalization/moving_mean"
    ]
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


@pytest.mark.parametrize(
    ("field", "value"), [("activation", "swish"), ("padding", "valid"), ("data_format", "NHWC")]
)
def test_unknown_choice_is_an_error_that_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field}='{value}'"):
        tiny(**{field: value})


def test_no_stages_is_an_error():
    with pytest.raises(ValueError, match="blocks_args"):
        MnasNetModel([], GlobalParams())
