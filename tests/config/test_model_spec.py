"""Tests of models described in a file."""

import numpy as np
import pytest
import yaml

import mnasnet_models
import preprocessing
from utils.base.errors import UserError
from utils.config import model_spec, network_settings, settings

import tensorflow.compat.v1 as tf

# EfficientNet-Lite0 is of the family.
LITE0 = {
    "stages": [
        "r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40",
        "r3_k3_s22_e6_i40_o80", "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192",
        "r1_k3_s11_e6_i192_o320",
    ],
    "activation": "relu6",
    "mean_rgb": [127, 127, 127],
    "stddev_rgb": [128, 128, 128],
}  # fmt: skip


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def params_with(spec, **more):
    return {**settings.default_params(), "model_spec": spec, **more}


def test_the_name_is_the_files_unless_it_has_one(tmp_path):
    assert model_spec.load(write(tmp_path / "lite0.yaml", LITE0)) == ("lite0", LITE0)
    path = write(tmp_path / "other.yaml", {**LITE0, "name": "lite-0"})
    assert model_spec.load(path) == ("lite-0", LITE0)


@pytest.mark.parametrize("name", ["my net", "a/b", "", 3, "_x"])
def test_a_name_that_cannot_name_variables(tmp_path, name):
    path = write(tmp_path / "lite0.yaml", {**LITE0, "name": name})
    with pytest.raises(UserError, match=r"lite0\.yaml.*name"):
        model_spec.load(path)


def test_a_file_name_that_cannot_name_variables(tmp_path):
    with pytest.raises(UserError, match="my net"):
        model_spec.load(write(tmp_path / "my net.yaml", LITE0))


@pytest.mark.parametrize("content", ["[1, 2]", "a: b: c", "stages: [", "text"])
def test_a_file_that_is_no_mapping(tmp_path, content):
    with pytest.raises(UserError, match=r"mine\.yaml"):
        model_spec.load(write(tmp_path / "mine.yaml", content))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        model_spec.load(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("spec", [{}, {"stem_size": 16}])
def test_no_stages(spec):
    with pytest.raises(UserError, match=r"mine.*stages"):
        model_spec.check(spec, "mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages", []),
        ("stages", "r1_k3_s11_e1_i32_o16"),
        ("stages", [3]),
        ("stages", ["r1_k3_s11_e1_i32_oX"]),
        ("stem_size", 0),
        ("stem_size", 8.5),
        ("stem_size", True),
        ("stem_size", "8"),
        ("head_size", -1),
        ("activation", "swish"),
        ("activation", 6),
        ("padding", "valid"),
        ("dropout_rate", 1),
        ("dropout_rate", -0.1),
        ("dropout_rate", False),
        ("batch_norm_momentum", 1.0),
        ("batch_norm_epsilon", 0),
        ("use_keras", 1),
        ("use_keras", "true"),
        ("depth_multiplier", 0),
        ("depth_divisor", 0),
        ("min_depth", 0),
        ("mean_rgb", [1, 2]),
        ("mean_rgb", "123"),
        ("mean_rgb", [1, 2, "3"]),
        ("mean_rgb", [1, 2, True]),
        ("stddev_rgb", [1, 2, 0]),
        ("stddev_rgb", [1, 2, "3"]),
        ("stddev_rgb", [1, 2, -3]),
        ("stem", 8),
        ("num_classes", 10),
        ("data_format", "channels_first"),
        ("depth_multiplier", float("nan")),
        ("stages", ["r100000000_k3_s11_e1_i32_o16"]),
        ("stages", ["r1_k3_s11_e1_i32_o1000000000"]),
        ("stages", ["x" * 100_000]),
        ("stages", [["x" * 100_000]]),
        ("stem_size", 10**9),
        ("head_size", 10**9),
        ("depth_multiplier", 1e9),
        ("depth_divisor", 10**400),
        ("min_depth", 10**9),
        ("batch_norm_epsilon", 10**400),
        ("mean_rgb", [10**400, 2, 3]),
        ("stddev_rgb", [1, 2, 10**400]),
        ("padding", "x" * 100_000),
        ("x" * 100_000, 1),
    ],
)
def test_what_is_wrong_is_named_with_its_source(key, value):
    with pytest.raises(UserError) as error:
        model_spec.check({**LITE0, key: value}, "mine.yaml")
    assert "mine.yaml" in str(error.value) and len(str(error.value)) < 1000
    if key != "stages" and len(key) < 200:
        assert key in str(error.value)


def test_a_checked_specification_is_a_copy():
    checked = model_spec.check(LITE0, "mine")
    assert checked == LITE0
    assert checked is not LITE0


def test_everything_that_a_specification_can_say_reaches_the_network():
    spec = {
        "stages": LITE0["stages"],
        "stem_size": 16,
        "head_size": 64,
        "activation": "relu6",
        "padding": "symmetric",
        "dropout_rate": 0.5,
        "batch_norm_momentum": 0.9,
        "batch_norm_epsilon": 1e-5,
        "use_keras": False,
        "depth_multiplier": 0.5,
        "depth_divisor": 4,
        "min_depth": 12,
        "mean_rgb": [1, 2, 3],
        "stddev_rgb": [4, 5, 6],
    }
    params = params_with(model_spec.check(spec, "mine"))
    overrides = network_settings.overrides(params)
    stages, global_params = mnasnet_models.get_model_params("mine", overrides)
    assert mnasnet_models.MnasNetDecoder().encode(stages) == spec["stages"]
    for key in set(spec) - {"stages", "mean_rgb", "stddev_rgb"}:
        assert getattr(global_params, key) == spec[key], key
    assert network_settings.normalization(params) == {"mean": [1, 2, 3], "stddev": [4, 5, 6]}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("dropout_rate", "dropout_rate", 0.0),
        ("use_keras", "use_keras", False),
        ("depth_multiplier", "depth_multiplier", 2.0),
        ("depth_divisor", "depth_divisor", 16),
        ("min_depth", "min_depth", 16),
        ("batch_norm_momentum", "batch_norm_momentum", 0.0),
        ("batch_norm_epsilon", "batch_norm_epsilon", 1e-5),
        ("data_format", "data_format", "channels_first"),
        ("num_label_classes", "num_classes", 7),
    ],
)
@pytest.mark.parametrize("spec", [None, {**LITE0, "dropout_rate": 0.3, "depth_multiplier": 0.5}])
def test_settings_win_over_the_model(spec, name, field, value):
    overrides = network_settings.overrides(params_with(spec, **{name: value}))
    _, global_params = mnasnet_models.get_model_params("mnasnet-a1", overrides)
    assert getattr(global_params, field) == value


def test_defaults_leave_the_built_in_model_alone():
    for model_name in mnasnet_models.MODELS:
        params = params_with(None, model_name=model_name)
        overrides = network_settings.overrides(params)
        assert mnasnet_models.get_model_params(
            model_name, overrides
        ) == mnasnet_models.get_model_params(model_name)


def test_normalization_of_a_built_in_model_is_imagenets():
    images = tf.constant(np.random.RandomState(0).uniform(0, 255, (1, 4, 4, 3)), tf.float32)
    ours = preprocessing.normalize(images, **network_settings.normalization(params_with(None)))
    with tf.Session() as session:
        ours, expected = session.run([ours, preprocessing.normalize(images)])
    np.testing.assert_array_equal(ours, expected)


def test_lite0_has_its_published_size():
    overrides = network_settings.overrides(params_with(LITE0))
    images = tf.placeholder(tf.float32, [1, 224, 224, 3])
    mnasnet_models.build_mnasnet_model(images, "lite0", True, overrides)
    count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    assert count == 4652008


# How stages join.


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (["r1_k3_s11_e3_i16_o16"], "'r1_k3_s11_e3_i16_o16' takes 16 filters, but 32 .* the stem"),
        (["r1_k3_s11_e1_i16_o8_se0.25"], "takes 16 filters, but 32 come out of the stem"),
        (
            ["r1_k3_s22_e1_i32_o24", "r2_k3_s11_e3_i16_o16"],
            "'r2_k3_s11_e3_i16_o16' takes 16 filters, but 24 .* stage 'r1_k3_s22_e1_i32_o24'",
        ),
    ],
)
def test_stages_that_do_not_join_are_named(stages, words):
    with pytest.raises(UserError, match=words):
        model_spec.check({"stages": stages}, "mine.yaml")
    with tf.Graph().as_default(), pytest.raises(ValueError):  # TensorFlow would say it later
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 64, 64, 3]), "mine", False, {"stages": stages}
        )


@pytest.mark.parametrize(
    "stages",
    [
        ["r1_k3_s11_e3_i16_o16_noskip"],
        ["r2_k3_s22_e3_i16_o16"],
        ["r1_k3_s11_e1_i16_o8"],  # as the published mnasnet-small
        ["r1_k3_s22_e3_i16_o8_se0.25"],
    ],
)
def test_other_input_filters_are_fine_where_they_count_inside_a_block_only(stages):
    model_spec.check({"stages": stages}, "mine.yaml")
    with tf.Graph().as_default():
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 64, 64, 3]), "mine", False, {"stages": stages}
        )


@pytest.mark.parametrize("name", mnasnet_models.MODELS)
def test_a_complete_specification_is_the_network_under_any_name(name):
    own = {"model_name": name, "depth_multiplier": 0.5, "batch_norm_epsilon": 1e-5}
    params = params_with(None, **own)
    spec = model_spec.check(network_settings.specification(params), "complete")
    again = params_with(spec, model_name="other")
    assert mnasnet_models.get_model_params("other", network_settings.overrides(again)) == (
        mnasnet_models.get_model_params(name, network_settings.overrides(params))
    )
    assert network_settings.specification(again) == spec
