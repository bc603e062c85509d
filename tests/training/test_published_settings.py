"""Tests of settings in the forms and values that the published program takes."""

import pathlib

import pytest
import yaml
from resolved_settings import record, resolve, write_yaml

from utils.base.errors import UserError
from utils.config import setting_flags, settings

FILE = pathlib.Path(__file__).parents[1] / "golden" / "published_defaults.yaml"
PUBLISHED = yaml.safe_load(FILE.read_text())
ZERO = [s.name for s in settings.SETTINGS.values() if s.zero_is_unset]


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
    given = setting_flags.parse_settings(["mnasnet_main.py", *arguments], "")
    params = resolve(tmp_path, **{**given, "use_tpu": False})
    assert params["use_keras"] is True and params["dropout_rate"] == 0.2
    with pytest.raises(UserError, match="--use_tpu=False"):
        resolve(tmp_path, **given)


# Forms.


@each_flag
@each_form
def test_both_flags_take_every_form(tmp_path, flag, form):
    params = resolve(tmp_path, **{flag: form(tmp_path, {"train_steps": 7, "momentum": 0.5})})
    assert (params["train_steps"], params["momentum"]) == (7, 0.5)


def test_both_flags_take_a_profile(tmp_path):
    given = {"config_file": "train_steps=9,num_parallel_calls=3", "params_override": "sample"}
    params = resolve(tmp_path, **given)
    assert params["model_name"] == "mnasnet-small" and params["num_parallel_calls"] == 3
    assert params["train_steps"] != 9


def test_a_file_comes_before_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_yaml(tmp_path / "momentum=0.1", {"momentum": 0.3})
    assert resolve(tmp_path, config_file="momentum=0.1")["momentum"] == 0.3


@each_flag
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("missing.yaml", "--{flag}=missing.yaml is neither a file nor one of the profiles cpu"),
        ("train_step=5", "--{flag} has the unknown setting 'train_step'"),
        ("train_steps=5,train_steps=6", "--{flag} gives train_steps=6 after another value"),
        ("train_steps=many", "--{flag}: train_steps='many' is not a whole number"),
    ],
)
def test_wrong_layers_are_named(tmp_path, flag, text, words):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **{flag: text})
    assert words.format(flag=flag) in str(error.value)


# Values.


def test_where_zero_means_unset():
    assert sorted(ZERO) == ["batch_norm_epsilon", "depth_multiplier", "min_depth"]


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("value", [0, 0.0, None])
def test_zero_and_null_mean_unset(tmp_path, name, value):
    for flag in ("config_file", "params_override"):
        for form in FORMS.values():
            assert resolve(tmp_path, **{flag: form(tmp_path, {name: value})})[name] is None
    given = setting_flags.parse_settings(["mnasnet_main.py", f"--{name}={value or 0}"], "")
    assert resolve(tmp_path, **given)[name] is None


@pytest.mark.parametrize("name", ZERO)
def test_zero_takes_back_what_an_earlier_layer_says(tmp_path, name):
    params = resolve(tmp_path, config_file=f"{name}=1", params_override=f"{name}=0")
    assert params[name] is None
    given = setting_flags.parse_settings(["mnasnet_main.py", f"--{name}=0"], "")
    assert resolve(tmp_path, config_file=f"{name}=1", **given)[name] is None


def test_unset_takes_what_the_folder_has(tmp_path):
    record(tmp_path, depth_multiplier=0.5)
    assert resolve(tmp_path, params_override="depth_multiplier=0")["depth_multiplier"] == 0.5


# Flags that have no use here.


@pytest.mark.parametrize(
    "flag",
    ["--quantized_training=False", "--noquantized_training", "--quantization_delay_epochs=0",
     "--eval_after_training=False", "--eval_after_training", "--eval_master="],
)  # fmt: skip
def test_flags_of_the_published_program_are_known(tmp_path, flag):
    resolve(tmp_path, **setting_flags.parse_settings(["mnasnet_main.py", flag], ""))


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--quantized_training", ["--quantized_training", "--quantize=int8"]),
        ("--quantization_delay_epochs=5", ["--quantization_delay_epochs", "--quantize=int8"]),
        ("--eval_master=grpc://x", ["--eval_master=grpc://x", "--mode=eval"]),
    ],
)
def test_what_they_would_ask_for_is_refused(tmp_path, flag, words):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **setting_flags.parse_settings(["mnasnet_main.py", flag], ""))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
