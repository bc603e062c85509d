"""Tests of models described in a file."""

import pytest
import yaml

import mnasnet_models
from utils.base.errors import UserError
from utils.config import network, settings

import tensorflow.compat.v1 as tf

# EfficientNet-Lite0 is of the family.
LITE0 = {
    "stages": [
        "r1_k3_s11_e1_i32_o16",
        "r2_k3_s22_e6_i16_o24",
        "r2_k5_s22_e6_i24_o40",
        "r3_k3_s22_e6_i40_o80",
        "r3_k5_s11_e6_i80_o112",
        "r4_k5_s22_e6_i112_o192",
        "r1_k3_s11_e6_i192_o320",
    ],
    "activation": "relu6",
    "mean_rgb": [127, 127, 127],
    "stddev_rgb": [128, 128, 128],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def params_with(spec, **more):
    return {**settings.default_params(), "model_spec": spec, **more}


def test_the_name_is_the_files_unless_it_has_one(tmp_path):
    assert network.read_file(write(tmp_path / "lite0.yaml", LITE0)) == ("lite0", LITE0)
    path = write(tmp_path / "other.yaml", {**LITE0, "name": "lite-0"})
    assert network.read_file(path) == ("lite-0", LITE0)


@pytest.mark.parametrize("name", ["my net", "", 3, "_x"])
def test_a_name_that_cannot_name_variables(tmp_path, name):
    with pytest.raises(UserError, match=r"lite0\.yaml.*name"):
        network.read_file(write(tmp_path / "lite0.yaml", {**LITE0, "name": name}))


@pytest.mark.parametrize("content", ["[1, 2]", "stages: [", None])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "mine.yaml"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        network.read_file(str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages", []),
        ("stages", [3]),
        ("stages", ["r1_k3_s11_e1_i32_oX"]),
        ("stages", ["r100000000_k3_s11_e1_i32_o16"]),
        ("stem_size", 8.5),
        ("stem_size", True),
        ("head_size", 10**9),
        ("activation", "swish"),
        ("padding", ["same"]),
        ("dropout_rate", 1),
        ("dropout_rate", float("nan")),
        ("batch_norm_epsilon", -1),
        ("use_keras", "maybe"),
        ("mean_rgb", [1, 2]),
        ("mean_rgb", [1, 2, "3"]),
        ("stddev_rgb", [1, 2, 0]),
        ("stem", 8),
        ("num_classes", 10),
    ],
)
def test_what_is_wrong_is_named_with_its_source(key, value):
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        network.checked({**LITE0, key: value}, "mine.yaml")
    assert key in str(error.value) or key == "stages"


def test_a_model_has_stages():
    with pytest.raises(UserError, match=r"mine.*stages"):
        network.checked({"stem_size": 16}, "mine")


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
    params = params_with(network.checked(spec, "mine"))
    overrides = network.overrides(params)
    stages, global_params = mnasnet_models.get_model_params("mine", overrides)
    assert mnasnet_models.MnasNetDecoder().encode(stages) == spec["stages"]
    for key in set(spec) - {"stages", "mean_rgb", "stddev_rgb"}:
        assert getattr(global_params, key) == spec[key], key
    assert network.normalization(params) == {"mean": [1, 2, 3], "stddev": [4, 5, 6]}


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
    overrides = network.overrides(params_with(spec, **{name: value}))
    _, global_params = mnasnet_models.get_model_params("mnasnet-a1", overrides)
    assert getattr(global_params, field) == value


def test_lite0_has_its_published_size():
    overrides = network.overrides(params_with(LITE0))
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
        network.checked({"stages": stages}, "mine.yaml")
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
    network.checked({"stages": stages}, "mine.yaml")
    with tf.Graph().as_default():
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 64, 64, 3]), "mine", False, {"stages": stages}
        )


@pytest.mark.parametrize("name", mnasnet_models.MODELS)
def test_a_complete_specification_is_the_network_under_any_name(name):
    own = {"model_name": name, "depth_multiplier": 0.5, "batch_norm_epsilon": 1e-5}
    params = params_with(None, **own)
    spec = network.checked(network.specification(params), "complete")
    again = params_with(spec, model_name="other")
    assert mnasnet_models.get_model_params("other", network.overrides(again)) == (
        mnasnet_models.get_model_params(name, network.overrides(params))
    )
    assert network.specification(again) == spec
