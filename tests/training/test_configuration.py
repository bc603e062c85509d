"""Tests of how the sources of settings become one complete, checked dict."""

import importlib.resources
import pathlib
import re

import pytest
from resolved_settings import STAGES, record, resolve, write_yaml

from utils.base.errors import UserError
from utils.config import loading, network, settings
from utils.reading import dataset_info
from utils.training import configuration, devices

ROOT = pathlib.Path(__file__).parents[2]
PROFILES = ["cpu", "finetune", "gpu", "sample", "v2-32", "v3-8"]


# Their order.


def write_info(folder, **changes):
    info = dataset_info.DatasetInfo("mine", 100, 20, 7)
    dataset_info.dataclasses.replace(info, **changes).write(str(folder))


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


def test_a_later_one_wins(tmp_path):
    """Each of six sources gives its number to one more setting than the source after it."""
    names = ("input_image_size", "num_train_images", "momentum", "warmup_epochs", "train_steps")
    write_info(tmp_path, num_label_classes=1000)
    record(tmp_path, input_image_size=96)
    path = write_yaml(tmp_path / "file.yaml", {"momentum": 0.3, "warmup_epochs": 3})
    given = {
        "config_file": path,
        "params_override": "warmup_epochs=4,train_steps=4",
        "train_steps": 5,
        "data_dir": str(tmp_path),
    }
    params = resolve(tmp_path, **given)
    assert [params[name] for name in names] == [96, 100, 0.3, 4, 5]
    assert params["base_learning_rate"] == 0.016 and params["config_file"] == path
    given["params_override"] += ",input_image_size=128,num_train_images=50,momentum=0.4"
    params = resolve(tmp_path, **given)
    assert [params[name] for name in names] == [128, 50, 0.4, 4, 5]


def test_the_order_is_told_in_the_same_words_everywhere():
    for text in ((ROOT / "README.md").read_text(), configuration.resolve.__doc__):
        assert settings.ORDER in " ".join(text.replace("`", "").split())


def test_zero_and_false_are_values(tmp_path):
    path = write_yaml(tmp_path / "file.yaml", "dropout_rate: 0.5\nadd_summaries: true\n")
    params = resolve(
        tmp_path, config_file=path, dropout_rate=0.0, params_override="add_summaries=false"
    )
    assert params["dropout_rate"] == 0
    assert params["add_summaries"] is False


def test_a_tilde_in_any_source_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_yaml(tmp_path / "net.yaml", {"name": "tiny", "stages": STAGES})
    path = write_yaml(tmp_path / "file.yaml", "model_spec: ~/net.yaml\n")
    params = resolve(tmp_path, config_file=path, params_override="export_dir=~/e")
    assert (params["model_name"], params["export_dir"]) == ("tiny", f"{tmp_path}/e")


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_resolve(tmp_path, profile):
    given = {"tpu": "grpc://10.0.0.1:8470"} if profile.startswith("v") else {}
    params = resolve(tmp_path, config_file=profile, **given)
    assert params["use_tpu"] is profile.startswith("v")
    assert params["precision"] == ("bfloat16" if profile.startswith("v") else "float32")


def test_the_help_names_every_profile():
    folder = importlib.resources.files("utils.config") / "profiles"
    assert sorted(file.name for file in folder.iterdir()) == [f"{name}.yaml" for name in PROFILES]
    (named,) = re.findall(r"package \((.*?)\)", settings.SETTINGS["config_file"].help)
    assert sorted(named.split(", ")) == PROFILES


# What is refused.

SPEC = f"stages: {STAGES}\n"
WRONG_FILES = {
    "list": ("config_file", b"- 1\n", "mapping"),
    "no_yaml": ("config_file", b"[\n", "line 2"),
    "twice": ("config_file", b"train_steps: 5\ntrain_steps: 6\n", "train_steps"),
    "unknown": ("config_file", b"train_step: 5\n", "'train_steps'"),
    "out_of_range": ("config_file", b"train_steps: 0\n", "train_steps=0"),
    "nested": ("config_file", b"config_file: x\n", "command line only"),
    "other_type": ("config_file", b"model_dir: {a: b}\n", "a text"),
    "binary": ("config_file", bytes(range(256)), "cannot be read"),
    "spec_unknown": ("config_file", f"model_spec:\n  {SPEC}  stem: 3\n".encode(), "'stem'"),
    "spec_stage": ("model_spec", b"stages: [r1_k3]\n", "r1_k3"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_named(tmp_path, name):
    flag, content, word = WRONG_FILES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)) as error:
        resolve(tmp_path, **{flag: str(path)})
    assert word in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model_dir=", ["--model_dir"]),
        ("--data_dir=", ["--data_dir"]),
        ("--data_dir= --mode=eval", ["--data_dir"]),
        ("--use_tpu", ["--use_tpu", "--tpu"]),
        ("--bigtable_instance=i --bigtable_project=p", ["--data_dir", "bigtable_instance"]),
        ("--data_dir= --bigtable_instance=i", ["--bigtable_project"]),
        (
            "--data_dir= --bigtable_instance=i --gcp_project=p --skip_bad_images",
            ["--skip_bad_images"],
        ),
        ("--mode=export_only", ["--export_dir"]),
        ("--mode=export_only --export_dir=x --report", ["--report"]),
        ("--export_checkpoint=best", ["--export_checkpoint", "--mode=export_only"]),
        ("--quantize=float16,int4", ["--quantize=float16,int4"]),
        ("--precision=bfloat16 --use_keras=True", ["--precision", "--use_keras"]),
        ("--data_format=channels_first --tpu=x", ["channels_first"]),
        ("--model_dir=/a/run[1]", ["--model_dir=/a/run[1]", "'['"]),
        ("--data_dir=/a/*", ["--data_dir=/a/*", "'*'"]),
        ("--model_name=mnasnet-a2", ["mnasnet-a2", "mnasnet-a1"]),
        ("--model_spec=nowhere.yaml", ["nowhere.yaml"]),
        ("--quantized_training", ["--quantized_training", "--quantize=int8"]),
        ("--quantization_delay_epochs=5", ["--quantization_delay_epochs"]),
        ("--eval_master=grpc://x", ["--eval_master=grpc://x", "--mode=eval"]),
        ("--freeze_until=block_99", ["--freeze_until=block_99", "block_0"]),
        ("--freeze_until=stem", ["--freeze_until=stem"]),
        ("--freeze_until=block_1 --freeze_backbone", ["--freeze_until=block_1"]),
        ("--cached_views=2", ["--cached_views=2", "--freeze_backbone"]),
        ("--cached_views=2 --freeze_backbone", ["--cached_views=2", "--data_dir"]),
        ("--cached_views=2 --freeze_backbone --tpu=x", ["--cached_views=2", "--use_tpu=False"]),
    ],
)
def test_contradictions_are_users_errors(tmp_path, arguments, words):
    given = loading.parse_flags(["mnasnet_main.py", *arguments.split()], "")
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


# The data set.

COUNTS = ("num_train_images", "num_eval_images", "num_label_classes")


@pytest.mark.parametrize(
    ("info", "given", "expected"),
    [
        ({}, {}, [100, 20, 7]),
        ({}, {"num_train_images": 50, "num_eval_images": 10, "num_label_classes": 8}, [50, 10, 8]),
        ({"num_eval_images": 0}, {}, [100, 50000, 7]),
        (None, {}, [1281167, 50000, 1000]),
    ],
)
def test_counts_come_from_the_data_set(tmp_path, info, given, expected):
    if info is not None:
        write_info(tmp_path, **info)
    params = resolve(tmp_path, data_dir=str(tmp_path), **given)
    assert [params[name] for name in COUNTS] == expected
    assert params["eval_batch_size"] == min(1024, params["num_eval_images"])


def test_fewer_classes_than_the_data_set_has_is_an_error(tmp_path):
    write_info(tmp_path)
    with pytest.raises(UserError, match=r"num_label_classes=6.* 7 "):
        resolve(tmp_path, data_dir=str(tmp_path), num_label_classes=6)


def test_an_export_keeps_its_classes_whatever_data_calibrate_it(tmp_path):
    record(tmp_path, num_label_classes=12)
    write_info(tmp_path)
    export = {"data_dir": str(tmp_path), "mode": "export_only", "export_dir": "x"}
    assert resolve(tmp_path, **export)["num_label_classes"] == 12
    with pytest.raises(UserError, match="num_classes 12 -> 7"):
        resolve(tmp_path, data_dir=str(tmp_path))
    write_info(tmp_path, num_label_classes=13)
    with pytest.raises(UserError, match="num_label_classes=12 is less than the 13"):
        resolve(tmp_path, **export)


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


# The device.


@pytest.mark.parametrize(
    ("variable", "given", "tpu"),
    [
        ("", {}, None),
        ("mine", {}, "mine"),
        ("mine", {"tpu": "grpc://10.0.0.1:8470"}, "grpc://10.0.0.1:8470"),
        ("mine", {"use_tpu": False}, None),
    ],
)
def test_a_named_tpu_is_used(tmp_path, monkeypatch, variable, given, tpu):
    monkeypatch.setenv("TPU_NAME", variable)
    params = resolve(tmp_path, **given)
    assert (params["tpu"], params["use_tpu"]) == (tpu, tpu is not None)
    assert params["iterations_per_loop"] == (1251 if tpu else 1)
    assert params["save_checkpoints_steps"] == (1251 if tpu else 1000)
    assert params["transpose_input"] is (tpu is not None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
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


# The network.


def test_a_network_of_ones_own(tmp_path):
    spec = {"stages": STAGES, "stem_size": 16, "mean_rgb": [1, 2, 3]}
    path = write_yaml(tmp_path / "mine.yaml", spec)
    params = resolve(tmp_path, model_spec=path)
    assert params["model_name"] == "mine"
    described = network.describe(params)
    assert (described["stages"], described["stem_size"]) == (STAGES, 16)
    assert described["mean"] == [1, 2, 3]
    assert resolve(tmp_path, model_spec=path, model_name="yours")["model_name"] == "yours"
    path = write_yaml(tmp_path / "file.yaml", {"model_name": "mine", "model_spec": spec})
    assert network.describe(resolve(tmp_path, config_file=path)) == described


def test_a_network_has_what_weights_mean_and_no_more(tmp_path):
    described = network.describe(resolve(tmp_path, depth_multiplier=0.5, num_label_classes=7))
    assert described["model_name"] == "mnasnet-a1"
    assert (described["depth_multiplier"], described["num_classes"]) == (0.5, 7)
    assert not {"dropout_rate", "batch_norm_momentum", "data_format"} & set(described)
