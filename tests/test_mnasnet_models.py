"""Tests of the architectures: golden names, shapes and logits, sizes, the codec, overrides."""

import functools

import golden_files
import golden_weights
import numpy as np
import pytest

import mnasnet_model
import mnasnet_models
from mnasnet_model import BlockArgs
from mnasnet_models import MnasNetDecoder

import tensorflow.compat.v1 as tf

STAGES = [(name, stage) for name, spec in mnasnet_models.MODELS.items() for stage in spec.stages]
GOOD = "r1_k3_s11_e1_i32_o16"
TINY = {"stages": ["r1_k3_s22_e3_i8_o8_se0.5"], "stem_size": 8, "head_size": 16}


@functools.cache
def variables(model_name, **overrides):
    """Rows of [name, shape, trainable] in order of creation."""
    with tf.Graph().as_default():
        images = tf.placeholder(tf.float32, [1, 224, 224, 3])
        mnasnet_models.build_mnasnet_model(images, model_name, True, overrides)
        return [[v.op.name, v.shape.as_list(), bool(v.trainable)] for v in tf.global_variables()]


def trainable_parameters(rows):
    return sum(int(np.prod(shape)) for _, shape, trainable in rows if trainable)


@pytest.mark.parametrize(
    ("model_name", "layers"),
    [
        ("mnasnet-a1", "keras"),
        ("mnasnet-a1", "layers"),
        ("mnasnet-b1", "keras"),
        ("mnasnet-d1", "layers"),
        ("mnasnet-small", "keras"),
    ],
)
def test_golden_variables(model_name, layers):
    golden = golden_files.read(f"variables_{model_name}_{layers}")
    ours = variables(model_name, use_keras=layers == "keras")
    assert ours == golden["variables"]
    assert trainable_parameters(ours) == golden["trainable_parameters"]


@pytest.mark.parametrize(
    ("model_name", "use_keras"),
    [
        ("mnasnet-a1", True),
        ("mnasnet-b1", True),
        ("mnasnet-small", True),
        ("mnasnet-d1", False),
        ("mnasnet-d1-320", False),
    ],
)
def test_kind_of_layers_by_default(model_name, use_keras):
    _, params = mnasnet_models.get_model_params(model_name)
    assert params.use_keras is use_keras


@pytest.mark.parametrize(
    "name",
    [
        "logits_mnasnet-a1_0.5_64_eval",
        "logits_mnasnet-a1_96_eval",
        "logits_mnasnet-b1_96_eval",
        "logits_mnasnet-d1_64_eval",
        "logits_mnasnet-small_64_train",
    ],
)
def test_golden_logits(name):
    golden = golden_files.read(name)
    size, model_name = golden["image_size"], golden["model"]
    overrides = {"num_classes": golden["num_classes"], "dropout_rate": 0}
    if golden["depth_multiplier"] != "none":
        overrides["depth_multiplier"] = float(golden["depth_multiplier"])
    images = np.random.RandomState(7).standard_normal((2, size, size, 3)).astype(np.float32)
    logits, endpoints = mnasnet_models.build_mnasnet_model(
        tf.constant(images), model_name, golden["training"], overrides
    )
    means = {name: tf.reduce_mean(tf.abs(tensor)) for name, tensor in endpoints.items()}
    with tf.Session() as session:
        golden_weights.load(session)
        logits, means = session.run([logits, means])
    golden_files.assert_close(golden["logits"], logits.tolist())
    golden_files.assert_close(golden["endpoint_mean_abs"], means)


@pytest.mark.parametrize(
    ("model_name", "multiplier", "parameters"),
    [
        ("mnasnet-a1", None, 3887038),
        ("mnasnet-b1", None, 4383312),
        ("mnasnet-small", None, 2030264),
        ("mnasnet-a1", 1.4, 6105992),
    ],
)
def test_parameter_counts(model_name, multiplier, parameters):
    overrides = {} if multiplier is None else {"depth_multiplier": multiplier}
    assert trainable_parameters(variables(model_name, **overrides)) == parameters


@pytest.mark.parametrize(
    ("multiplier", "millions"), [(1.4, 6.1), (1.0, 3.9), (0.75, 2.9), (0.5, 2.1), (0.35, 1.7)]
)
def test_published_parameter_counts_of_a1(multiplier, millions):
    count = trainable_parameters(variables("mnasnet-a1", depth_multiplier=multiplier))
    assert round(count / 1e6, 1) == millions


def test_multiplier_of_one_changes_nothing_where_filters_are_multiples_of_eight():
    assert variables("mnasnet-a1", depth_multiplier=1.0) == variables("mnasnet-a1")


@pytest.mark.parametrize(
    ("model_name", "blocks", "features"),
    [
        ("mnasnet-a1", 16, 320),
        ("mnasnet-b1", 17, 320),
        ("mnasnet-small", 15, 144),
        ("mnasnet-d1", 22, 320),
        ("mnasnet-d1-320", 28, 320),
    ],
)
def test_base_has_every_block_and_no_head(model_name, blocks, features):
    images = tf.placeholder(tf.float32, [2, 64, 64, 3])
    outputs, endpoints = mnasnet_models.build_mnasnet_base(images, model_name, False)
    assert outputs.op.name == "global_pool"
    assert outputs.shape.as_list() == [2, 2, 2, features]
    assert outputs.op.inputs[0] is endpoints["global_pool"]
    assert f"block_{blocks - 1}" in endpoints
    assert f"block_{blocks}" not in endpoints
    assert "reduction_5" in endpoints
    assert "head" not in endpoints
    assert not [v for v in tf.global_variables() if "mnas_head" in v.op.name]


def test_base_is_the_model_without_its_head():
    images = np.random.RandomState(7).standard_normal((1, 64, 64, 3)).astype(np.float32)
    values = []
    for build in (mnasnet_models.build_mnasnet_model, mnasnet_models.build_mnasnet_base):
        with tf.Graph().as_default():
            _, endpoints = build(tf.constant(images), "mnasnet-small", False)
            with tf.Session() as session:
                golden_weights.load(session)
                values.append(session.run(endpoints["global_pool"]))
    assert np.abs(values[0]).max() > 0.1
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-6)


def test_logits_and_their_name():
    images = tf.placeholder(tf.float32, [3, 64, 64, 3])
    logits, endpoints = mnasnet_models.build_mnasnet_model(
        images, "mine", False, {**TINY, "num_classes": 7}
    )
    assert logits.op.name == "logits"
    assert logits.shape.as_list() == [3, 7]
    assert logits.op.inputs[0] is endpoints["head"]
    assert all(v.op.name.startswith("mine/") for v in tf.global_variables())


def test_channels_first_has_the_same_variables_and_transposed_shapes():
    images = tf.placeholder(tf.float32, [2, 3, 64, 64])
    overrides = {**TINY, "data_format": "channels_first", "num_classes": 7}
    logits, endpoints = mnasnet_models.build_mnasnet_model(images, "mine", True, overrides)
    rows = [[v.op.name, v.shape.as_list(), v.trainable] for v in tf.global_variables()]
    with tf.Graph().as_default():
        images = tf.placeholder(tf.float32, [2, 64, 64, 3])
        overrides["data_format"] = "channels_last"
        mnasnet_models.build_mnasnet_model(images, "mine", True, overrides)
        assert rows == [[v.op.name, v.shape.as_list(), v.trainable] for v in tf.global_variables()]
    assert endpoints["stem"].shape.as_list() == [2, 8, 32, 32]
    assert endpoints["global_pool"].shape.as_list() == [2, 8, 16, 16]
    assert logits.shape.as_list() == [2, 7]


# Parameters and overrides.


@pytest.mark.parametrize(
    ("field", "value"), [("dropout_rate", 0), ("dropout_rate", 0.0), ("use_keras", False)]
)
def test_a_zero_override_is_a_value(field, value):
    _, params = mnasnet_models.get_model_params("mnasnet-a1", {field: value})
    assert getattr(params, field) == value


def test_overrides_leave_the_other_parameters_alone():
    stages, params = mnasnet_models.get_model_params("mnasnet-small", {"num_classes": 7})
    assert params.num_classes == 7
    assert params.stem_size == 8
    assert params.dropout_rate == 0
    assert len(stages) == 7
    assert mnasnet_models.get_model_params("mnasnet-small", None)[1].num_classes == 1000


def test_stages_replace_the_models():
    stages, params = mnasnet_models.get_model_params("anything", TINY)
    assert stages == [BlockArgs(3, 1, 8, 8, 3, True, [2, 2], 0.5)]
    assert params == mnasnet_model.GlobalParams(stem_size=8, head_size=16)


@pytest.mark.parametrize("field", ["num_clases", "dropout", "feature"])
def test_unknown_override_is_an_error(field):
    with pytest.raises(ValueError, match=field):
        mnasnet_models.get_model_params("mnasnet-a1", {field: 1, "num_classes": 7})


def test_unknown_model_is_an_error_that_lists_the_known():
    with pytest.raises(NotImplementedError, match=r"mnasnet-a2.*mnasnet-a1"):
        mnasnet_models.get_model_params("mnasnet-a2", None)
    with pytest.raises(NotImplementedError, match="mnasnet-a2"):
        mnasnet_models.build_mnasnet_model(tf.zeros([1, 64, 64, 3]), "mnasnet-a2", False)


def test_models_are_those_of_the_package():
    assert list(mnasnet_models.MODELS) == [
        "mnasnet-a1",
        "mnasnet-b1",
        "mnasnet-small",
        "mnasnet-d1",
        "mnasnet-d1-320",
    ]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("mine", True),
        ("my.net-1_2", True),
        ("1st", True),
        ("", False),
        ("my net", False),
        ("_mine", False),
        ("a/b", False),
        ("naïve", False),
        ("mine\n", False),
        ("a" * 200, True),
        ("a" * 201, False),
    ],
)
def test_scope_names(name, fits):
    assert mnasnet_models.is_scope_name(name) is fits
    if fits:
        with tf.variable_scope(name):
            assert tf.get_variable("x", []).op.name == f"{name}/x"


# The codec.


@pytest.mark.parametrize(("model_name", "stage"), STAGES)
def test_every_stage_survives_the_codec(model_name, stage):
    decoder = MnasNetDecoder()
    decoded = decoder.decode([stage])
    assert decoder.encode(decoded) == [stage]
    assert decoder.decode(decoder.encode(decoded)) == decoded


def test_decoded_fields():
    assert MnasNetDecoder().decode(
        ["r1_k3_s11_e1_i32_o16_noskip", "r4_k5_s21_e6_i16_o32_se0.25", "r2_k7_s22_e3_i8_o8_se1"]
    ) == [
        BlockArgs(3, 1, 32, 16, 1, False, [1, 1], None),
        BlockArgs(5, 4, 16, 32, 6, True, [2, 1], 0.25),
        BlockArgs(7, 2, 8, 8, 3, True, [2, 2], 1.0),
    ]


def test_fields_may_come_in_any_order():
    decoder = MnasNetDecoder()
    shuffled = decoder.decode(["noskip_o16_se0.5_i32_e1_s11_k3_r1"])
    assert shuffled == decoder.decode(["r1_k3_s11_e1_i32_o16_se0.5_noskip"])


@pytest.mark.parametrize("se_ratio", [None, 0.25, 0.0625, 1.0, 0.123456789, 1e-5])
def test_encoded_blocks_decode_to_themselves(se_ratio):
    block = BlockArgs(3, 2, 8, 16, 6, True, [2, 2], se_ratio)
    decoder = MnasNetDecoder()
    assert decoder.decode(decoder.encode([block])) == [block]


@pytest.mark.parametrize(
    ("string", "field"),
    [
        ("r1_k3_s11_e1_i32_ox", "ox"),
        ("r1_k3_s11_e1_i32_o", "o"),
        ("r1_k3_s11_e1_i32_o16_z5", "z5"),
        ("r1_k3_s1_e1_i32_o16", "s1"),
        ("r1_k3_s111_e1_i32_o16", "s111"),
        ("r1_k3_s01_e1_i32_o16", "s01"),
        ("r0_k3_s11_e1_i32_o16", "r0"),
        ("r1_k3_s11_e-1_i32_o16", "e-1"),
        ("r1_k3.5_s11_e1_i32_o16", "k3.5"),
        ("r1_k3_s11_e1_i32_o16_se", "se"),
        ("r1_k3_s11_e1_i32_o16_seX", "seX"),
        ("r1_k3_s11_e1_i32_o16_se0.25_se0.5", "se0.5"),
        ("r1_r2_k3_s11_e1_i32_o16", "r2"),
        ("r1_k3_s11_e1_i32_o16_skip", "skip"),
        ("r1_k3_s11_e1_i32_o16_noskip_noskip", "noskip"),
        ("r1__k3_s11_e1_i32_o16", ""),
        ("R1_k3_s11_e1_i32_o16", "R1"),
        ("r1_k3_s11_e1_i32_o16 ", "o16 "),
        ("r1_k3_s11_e1_i32_o16\n", "o16\\n"),
    ],
)
def test_malformed_field_is_named_with_its_string(string, field):
    with pytest.raises(ValueError) as error:
        MnasNetDecoder().decode([GOOD, string])
    assert f"'{field}'" in str(error.value)
    assert repr(string) in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"stages": ["r100000000_k3_s11_e1_i32_o16"]}, "'r100000000' .* at most 100"),
        ({"stages": ["r1_k1000000_s11_e1_i32_o16"]}, "'k1000000' .* at most 99"),
        ({"stages": ["r1_k3_s11_e1000000_i32_o16"]}, "'e1000000' .* at most 100"),
        ({"stages": ["r1_k3_s11_e1_i1000000000_o16"]}, "'i1000000000' .* at most 16384"),
        ({"stages": ["r1_k3_s11_e1_i32_o1000000000"]}, "'o1000000000' .* at most 16384"),
        ({"stages": ["r1_k3_s11_e1_i32_o" + "9" * 5000]}, r"9\.\.\. has 5\d+ characters"),
        ({"stages": ["r100_k3_s11_e1_i32_o32"] * 11}, "1100 blocks: the most is 1000"),
        ({"stem_size": 10**9}, "stem_size 1000000000 is too large: .* at most 16384"),
        ({"head_size": 10**9}, "head_size"),
        ({"depth_multiplier": 1e308}, "depth_multiplier .* at most 100"),
        ({"depth_multiplier": 100.0}, "32000 filters of 320: .* choose a smaller one"),
        ({"depth_multiplier": 1.0, "depth_divisor": 10**400}, "depth_divisor"),
        ({"depth_multiplier": 1.0, "min_depth": 10**9}, "min_depth"),
    ],
)
def test_a_network_that_no_machine_holds_is_refused_before_it_is_made(overrides, words):
    with pytest.raises(ValueError, match=words) as error:
        mnasnet_models.get_model_params("mnasnet-a1", overrides)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("letter", ["r", "k", "s", "e", "i", "o"])
def test_missing_field_is_named_with_its_string(letter):
    string = "_".join(field for field in GOOD.split("_") if field[0] != letter)
    with pytest.raises(ValueError) as error:
        MnasNetDecoder().decode([string])
    assert f"'{letter}'" in str(error.value)
    assert repr(string) in str(error.value)


@pytest.mark.parametrize("strings", [GOOD, [3], [None], [GOOD.encode()]])
def test_what_is_no_list_of_strings_is_an_error(strings):
    with pytest.raises(ValueError, match="string"):
        MnasNetDecoder().decode(strings)
