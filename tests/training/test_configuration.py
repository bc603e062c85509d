"""Tests of how layers of settings become one complete, checked dict."""

import importlib.resources
import os
import re

import pytest
from resolved_settings import STAGES, resolve, write_yaml

import mnasnet_models
from utils.base.errors import UserError
from utils.config import network_settings, settings
from utils.reading import dataset_info
from utils.training import configuration, devices, model_files

PROFILES = ["cpu", "finetune", "gpu", "sample", "v2-32", "v3-8"]


# Layers.


def test_defaults(tmp_path):
    params = resolve(tmp_path)
    assert set(params) == set(settings.SETTINGS)
    changed = {k: v for k, v in params.items() if v != settings.default_params()[k]}
    assert changed == {
        "model_dir": str(tmp_path / "model"),
        "data_dir": "null",
        "use_tpu": False,
        "iterations_per_loop": 1,
        "transpose_input": False,
        "save_checkpoints_steps": 1000,
    }


def test_a_later_layer_wins(tmp_path):
    path = write_yaml(
        tmp_path / "file.yaml", {"train_steps": 1, "train_batch_size": 2, "momentum": 0.1}
    )
    params = resolve(
        tmp_path,
        config_file=path,
        params_override="train_batch_size=3,momentum=0.2",
        momentum=0.3,
    )
    assert params["train_steps"] == 1
    assert params["train_batch_size"] == 3
    assert params["momentum"] == 0.3
    assert params["steps_per_eval"] == 6255
    assert params["config_file"] == path


def test_zero_and_false_are_values(tmp_path):
    path = write_yaml(tmp_path / "file.yaml", "dropout_rate: 0.5\nadd_summaries: true\n")
    params = resolve(
        tmp_path, config_file=path, dropout_rate=0.0, params_override="add_summaries=false"
    )
    assert params["dropout_rate"] == 0
    assert params["add_summaries"] is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train_steps=5", {"train_steps": 5}),
        ("train_steps=5,mode=train", {"train_steps": 5, "mode": "train"}),
        (" train_steps = 5 , mode = train ", {"train_steps": 5, "mode": "train"}),
        ("{train_steps: 5, mode: train}", {"train_steps": 5, "mode": "train"}),
        ('{"train_steps": 5}', {"train_steps": 5}),
        ("train_steps: 5\nmode: train", {"train_steps": 5, "mode": "train"}),
        ("base_learning_rate=1e-3", {"base_learning_rate": 0.001}),
        ("export_dir=/a/b=c", {"export_dir": "/a/b=c"}),
    ],
)
def test_forms_of_params_override(tmp_path, text, expected):
    params = resolve(tmp_path, params_override=text)
    assert {name: params[name] for name in expected} == expected


def test_a_tilde_in_any_layer_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_yaml(tmp_path / "net.yaml", {"name": "tiny", "stages": STAGES})
    path = write_yaml(tmp_path / "file.yaml", "model_spec: ~/net.yaml\n")
    params = resolve(tmp_path, config_file=path, params_override="export_dir=~/e")
    assert (params["model_name"], params["export_dir"]) == ("tiny", f"{tmp_path}/e")


@pytest.mark.parametrize("text", ["train_steps", "train_steps=5,", "=5", "5", "[1, 2]", "{a: "])
def test_malformed_params_override(tmp_path, text):
    with pytest.raises(UserError, match="params_override"):
        resolve(tmp_path, params_override=text)


@pytest.mark.parametrize("layer", ["config_file", "params_override"])
def test_unknown_setting_of_a_layer_is_named_with_its_source(tmp_path, layer):
    given = {"params_override": "train_step=5"}
    if layer == "config_file":
        given = {"config_file": write_yaml(tmp_path / "file.yaml", "train_step: 5\n")}
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **given)
    assert "'train_step'" in str(error.value)
    assert "'train_steps'" in str(error.value)
    assert ("file.yaml" if layer == "config_file" else "--params_override") in str(error.value)


@pytest.mark.parametrize("name", ["config_file", "params_override"])
def test_layers_cannot_name_layers(tmp_path, name):
    path = write_yaml(tmp_path / "file.yaml", {name: "x"})
    with pytest.raises(UserError, match=name):
        resolve(tmp_path, config_file=path)


@pytest.mark.parametrize(
    "content", ["train_steps: many\n", "train_steps: 0\n", "- 1\n", "a: b: c\n", "just text\n"]
)
def test_bad_config_file_is_named(tmp_path, content):
    path = write_yaml(tmp_path / "file.yaml", content)
    with pytest.raises(UserError) as error:
        resolve(tmp_path, config_file=path)
    assert path in str(error.value)


def test_empty_config_file_says_nothing(tmp_path):
    path = write_yaml(tmp_path / "file.yaml", "# nothing\n")
    assert resolve(tmp_path, config_file=path)["train_steps"] == 437898


@pytest.mark.parametrize("name", ["nowhere", "ü" * 300])  # no file has a name of 600 bytes
def test_missing_config_file_lists_the_profiles(tmp_path, name):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, config_file=name)
    for profile in PROFILES:
        assert profile in str(error.value)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_resolve(tmp_path, profile):
    given = {"tpu": "grpc://10.0.0.1:8470"} if profile.startswith("v") else {}
    params = resolve(tmp_path, config_file=profile, **given)
    assert params["use_tpu"] is profile.startswith("v")
    assert params["precision"] == ("bfloat16" if profile.startswith("v") else "float32")


def test_every_profile_is_tested():
    folder = str(importlib.resources.files("utils.config") / "profiles")
    assert sorted(os.listdir(folder)) == [f"{profile}.yaml" for profile in PROFILES]


# The data set.


def write_info(folder, **changes):
    info = dataset_info.DatasetInfo("mine", 100, 20, 7)
    dataset_info.dataclasses.replace(info, **changes).write(str(folder))


def test_counts_come_from_the_data_set(tmp_path):
    write_info(tmp_path)
    params = resolve(tmp_path, data_dir=str(tmp_path))
    assert params["num_train_images"] == 100
    assert params["num_eval_images"] == 20
    assert params["num_label_classes"] == 7
    assert params["eval_batch_size"] == 20


@pytest.mark.parametrize(
    ("changes", "is_said"),
    [
        ({}, True),
        ({"config_file": "cpu", "train_steps": 300}, False),
        ({"config_file": "cpu"}, True),
        ({"data_dir": "null"}, False),
    ],
)
def test_few_images_are_said(tmp_path, caplog, changes, is_said):
    write_info(tmp_path)
    params = resolve(tmp_path, **{"data_dir": str(tmp_path), **changes})
    with caplog.at_level("INFO", "absl"):
        configuration.log_summary(params)
    assert ("--train_batch_size" in caplog.text) == is_said


@pytest.mark.parametrize(("mode", "smallest"), [("train", "2 ('b')"), ("eval", "1 ('a')")])
def test_classes_of_very_unequal_size_are_said(tmp_path, caplog, mode, smallest):
    counts = {"train": (98, 2), "validation": (1, 19)}
    write_info(tmp_path, num_label_classes=2, label_names=("a", "b"), images_by_class=counts)
    with caplog.at_level("INFO", "absl"):
        configuration.log_summary(resolve(tmp_path, data_dir=str(tmp_path), mode=mode))
    assert smallest in caplog.text and "--per_class" in caplog.text


def test_given_counts_stay(tmp_path):
    write_info(tmp_path)
    params = resolve(
        tmp_path, data_dir=str(tmp_path), num_train_images=50, num_eval_images=10,
        num_label_classes=8,
    )  # fmt: skip
    assert params["num_train_images"] == 50
    assert params["num_eval_images"] == 10
    assert params["num_label_classes"] == 8


def test_fewer_classes_than_the_data_set_has_is_an_error(tmp_path):
    write_info(tmp_path)
    with pytest.raises(UserError, match=r"num_label_classes=6.* 7 "):
        resolve(tmp_path, data_dir=str(tmp_path), num_label_classes=6)


def test_an_export_keeps_its_classes_whatever_data_calibrate_it(tmp_path):
    write_info(tmp_path)
    model_dir = tmp_path / "model"
    given = {"data_dir": str(tmp_path), "model_dir": str(model_dir)}
    model_dir.mkdir()
    model_files.record_params(configuration.resolve({**given, "num_label_classes": 12}))
    export = {**given, "mode": "export_only", "export_dir": str(tmp_path / "export")}
    assert configuration.resolve(export)["num_label_classes"] == 12
    assert configuration.resolve({**given, "mode": "train"})["num_label_classes"] == 7
    write_info(tmp_path, num_label_classes=13)
    with pytest.raises(UserError, match="num_label_classes=12 is less than the 13"):
        configuration.resolve(export)


def test_a_data_set_without_description_is_imagenet(tmp_path):
    params = resolve(tmp_path, data_dir=str(tmp_path))
    assert params["num_label_classes"] == 1000
    assert params["num_eval_images"] == 50000


def test_an_empty_split_leaves_imagenets_count(tmp_path):
    write_info(tmp_path, num_eval_images=0)
    assert resolve(tmp_path, data_dir=str(tmp_path))["num_eval_images"] == 50000


# The device.


def test_a_named_tpu_is_used(tmp_path):
    params = resolve(tmp_path, tpu="grpc://10.0.0.1:8470")
    assert params["use_tpu"] is True
    assert params["iterations_per_loop"] == 1251
    assert params["transpose_input"] is True
    assert params["save_checkpoints_steps"] == 1251
    assert params["eval_batch_size"] == 1024


def test_the_tpu_of_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "mine")
    params = resolve(tmp_path)
    assert params["tpu"] == "mine"
    assert params["use_tpu"] is True
    assert resolve(tmp_path, tpu="other")["tpu"] == "other"


def test_use_tpu_false_asks_for_no_tpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "mine")
    params = resolve(tmp_path, use_tpu=False)
    assert params["tpu"] is None
    assert params["use_tpu"] is False
    assert params["transpose_input"] is False
    assert params["iterations_per_loop"] == 1


def test_an_empty_variable_names_no_tpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "")
    assert resolve(tmp_path)["use_tpu"] is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 1000),
        ({"steps_per_eval": 50}, 50),
        ({"save_checkpoints_steps": 7}, 7),
        ({"tpu": "x", "iterations_per_loop": 20}, 100),
        ({"tpu": "x", "save_checkpoints_steps": 7}, 7),
    ],
)
def test_steps_between_checkpoints(tmp_path, given, expected):
    assert resolve(tmp_path, **given)["save_checkpoints_steps"] == expected


def test_bfloat16_takes_tf_layers(tmp_path):
    assert resolve(tmp_path, precision="bfloat16")["use_keras"] is False
    assert resolve(tmp_path)["use_keras"] is None


def test_bigtable_takes_the_project_of_the_tpu(tmp_path):
    given = {"data_dir": None, "bigtable_instance": "i", "gcp_project": "p"}
    assert resolve(tmp_path, **given)["bigtable_project"] == "p"
    assert resolve(tmp_path, **given, bigtable_project="q")["bigtable_project"] == "q"


# What cannot be.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model_dir": None}, ["--model_dir"]),
        ({"data_dir": None}, ["--data_dir"]),
        ({"data_dir": None, "mode": "eval"}, ["--data_dir"]),
        ({"use_tpu": True}, ["--use_tpu", "--tpu"]),
        ({"bigtable_instance": "i", "bigtable_project": "p"}, ["--data_dir", "bigtable_instance"]),
        ({"data_dir": None, "bigtable_instance": "i"}, ["--bigtable_project"]),
        ({"mode": "export_only"}, ["--export_dir"]),
        ({"precision": "bfloat16", "use_keras": True}, ["--precision", "--use_keras"]),
        ({"data_format": "channels_first", "tpu": "x"}, ["channels_first"]),
        ({"export_checkpoint": "best"}, ["--export_checkpoint", "--mode=export_only"]),
        ({"model_dir": "/a/run[1]"}, ["--model_dir=/a/run[1]", "'['"]),
        ({"data_dir": "/a/*"}, ["--data_dir=/a/*", "'*'"]),
        ({"export_dir": "/a/b?"}, ["--export_dir=/a/b?", "'?'"]),
        ({"model_dir": "/a\\b"}, ["--model_dir=/a\\b", "'\\'"]),
        ({"model_name": "mnasnet-a2"}, ["mnasnet-a2", "mnasnet-a1"]),
    ],
)
def test_contradictions_are_users_errors(tmp_path, given, words):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **given)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(devices.has_gpu(), reason="channels_first is fine on a GPU")
def test_channels_first_needs_a_gpu(tmp_path):
    with pytest.raises(UserError, match="channels_first"):
        resolve(tmp_path, data_format="channels_first")


def test_export_needs_no_data(tmp_path):
    params = resolve(tmp_path, data_dir=None, mode="export_only", export_dir="x")
    assert params["data_dir"] is None


# The model file.


def test_model_spec_file(tmp_path):
    path = write_yaml(
        tmp_path / "mine.yaml", {"stages": STAGES, "stem_size": 16, "mean_rgb": [1, 2, 3]}
    )
    params = resolve(tmp_path, model_spec=path)
    assert params["model_name"] == "mine"
    network = network_settings.describe(params)
    assert network["stages"] == STAGES
    assert network["stem_size"] == 16
    assert network["mean"] == [1, 2, 3]
    assert resolve(tmp_path, model_spec=path, model_name="yours")["model_name"] == "yours"


def test_model_spec_in_a_config_file(tmp_path):
    path = write_yaml(
        tmp_path / "file.yaml", {"model_name": "mine", "model_spec": {"stages": STAGES}}
    )
    params = resolve(tmp_path, config_file=path)
    assert network_settings.describe(params)["stages"] == STAGES


def test_bad_model_spec_is_a_users_error(tmp_path):
    path = write_yaml(tmp_path / "mine.yaml", {"stages": ["r1_k3"]})
    with pytest.raises(UserError, match=r"mine\.yaml.*r1_k3"):
        resolve(tmp_path, model_spec=path)


def test_network_has_what_weights_mean_and_no_more(tmp_path):
    network = network_settings.describe(
        resolve(tmp_path, depth_multiplier=0.5, num_label_classes=7)
    )
    assert network["model_name"] == "mnasnet-a1"
    assert network["stages"] == list(mnasnet_models.MODELS["mnasnet-a1"].stages)
    assert network["depth_multiplier"] == 0.5
    assert network["num_classes"] == 7
    assert not {"dropout_rate", "batch_norm_momentum", "data_format"} & set(network)


# Resuming.


# Fine-tuning.


def test_the_help_names_every_profile():
    (named,) = re.findall(r"package \((.*?)\)", settings.SETTINGS["config_file"].help)
    assert sorted(named.split(", ")) == PROFILES
