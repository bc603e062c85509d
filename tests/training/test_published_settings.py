"""Tests of settings in the forms and values that the published program takes."""

import pathlib

import pytest
import yaml
from resolved_settings import record, resolve, write_yaml

from utils.base.errors import UserError
from utils.config import loading, settings

FILE = pathlib.Path(__file__).parents[1] / "golden" / "published_defaults.yaml"
PUBLISHED = yaml.safe_load(FILE.read_text())
ZERO = [name for name, s in settings.SETTINGS.items() if s.zero_is_unset]


def pairs(content):
    """'name=value,name=value' as the published program writes it."""
    return ",".join(f"{k}={'null' if v is None else v}" for k, v in content.items())


FORMS = {
    "file": lambda tmp_path, content: write_yaml(tmp_path / "settings.yaml", content),
    "pairs": lambda tmp_path, content: pairs(content),
    "mapping": lambda tmp_path, content: yaml.safe_dump(content),
    "json": lambda tmp_path, content: yaml.safe_dump(content, default_flow_style=True),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
each_flag = pytest.mark.parametrize("flag", ["config_file", "params_override"])


# The published defaults.


def expected_params():
    """What the published defaults mean here."""
    converted = {name: settings.convert(name, value, name) for name, value in PUBLISHED.items()}
    return {name: value for name, value in converted.items() if value is not None}


@each_flag
@each_form
def test_the_published_defaults_load(tmp_path, flag, form):
    assert len(PUBLISHED) == 35
    params = resolve(tmp_path, **{flag: form(tmp_path, PUBLISHED)}, tpu="grpc://10.0.0.1:8470")
    expected = expected_params()
    assert {name: params[name] for name in expected} == expected
    assert params["weight_decay"] == 1e-5
    assert params["min_depth"] is None and params["batch_norm_epsilon"] is None


def test_the_published_defaults_are_flags_and_run_without_a_tpu(tmp_path):
    arguments = [f"--{name}={value}" for name, value in PUBLISHED.items() if value is not None]
    given = loading.parse_flags(["mnasnet_main.py", *arguments], "")
    params = resolve(tmp_path, **{**given, "use_tpu": False})
    assert params["use_keras"] is True and params["dropout_rate"] == 0.2
    with pytest.raises(UserError, match="--use_tpu=False"):
        resolve(tmp_path, **given)


# Forms.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" train_steps = 5 , mode = train ", {"train_steps": 5, "mode": "train"}),
        ("base_learning_rate=1e-3", {"base_learning_rate": 0.001}),
        ("export_dir=/a/b=c", {"export_dir": "/a/b=c"}),
        ("train_steps: 5\nmode: train", {"train_steps": 5, "mode": "train"}),
        ("run_of_2026", None),
    ],
)
@each_flag
def test_pairs(tmp_path, flag, text, expected):
    if expected is None:
        with pytest.raises(UserError, match=f"--{flag}={text} .*the profiles cpu, finetune, gpu"):
            resolve(tmp_path, **{flag: text})
        return
    params = resolve(tmp_path, **{flag: text})
    assert {name: params[name] for name in expected} == expected


def test_both_flags_take_a_profile(tmp_path):
    given = {"config_file": "train_steps=9,num_parallel_calls=3", "params_override": "sample"}
    params = resolve(tmp_path, **given)
    assert params["model_name"] == "mnasnet-small" and params["num_parallel_calls"] == 3
    assert params["train_steps"] != 9


def test_a_file_comes_before_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_yaml(tmp_path / "momentum=0.1", {"momentum": 0.3})
    assert resolve(tmp_path, config_file="momentum=0.1")["momentum"] == 0.3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("train_step=5", "'train_steps'"),
        ("train_steps=5,train_steps=6", "train_steps=6"),
        ("train_steps=many", "train_steps='many'"),
        ("train_steps=[", "train_steps=["),
        ("train_steps=5,", "train_steps=5,"),
        ("[1, 2]", "[1, 2]"),
        ("config_file=cpu", "config_file"),
    ],
)
def test_wrong_pairs_are_named(tmp_path, text, word):
    with pytest.raises(UserError, match="--params_override") as error:
        resolve(tmp_path, params_override=text)
    assert word in str(error.value)


# Values.


def test_where_zero_means_unset():
    assert sorted(ZERO) == ["batch_norm_epsilon", "depth_multiplier", "min_depth"]


@pytest.mark.parametrize("name", ZERO)
def test_zero_takes_back_what_an_earlier_source_says(tmp_path, name):
    params = resolve(tmp_path, config_file=f"{name}=1", params_override=f"{name}=0")
    assert params[name] is None
    given = loading.parse_flags(["mnasnet_main.py", f"--{name}=0"], "")
    assert resolve(tmp_path, config_file=f"{name}=1", **given)[name] is None


def test_unset_takes_what_the_folder_has(tmp_path):
    record(tmp_path, depth_multiplier=0.5)
    assert resolve(tmp_path, params_override="depth_multiplier=0")["depth_multiplier"] == 0.5


# Flags that have no use here.


@pytest.mark.parametrize(
    "flag",
    [
        "--quantized_training=False",
        "--noquantized_training",
        "--quantization_delay_epochs=0",
        "--eval_after_training=False",
        "--eval_after_training",
        "--eval_master=",
    ],
)
def test_flags_of_the_published_program_are_known(tmp_path, flag):
    resolve(tmp_path, **loading.parse_flags(["mnasnet_main.py", flag], ""))
