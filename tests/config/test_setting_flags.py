"""Tests of the flags that the table of settings makes, of `--help` and of `--version`."""

import pytest
from absl import flags

from utils.base.errors import UserError
from utils.base.version import __version__
from utils.config import setting_flags, settings


def parse(*arguments):
    return setting_flags.parse_settings(["prog", *arguments], "What it does.")


# Flags.


def test_nothing_given():
    assert parse() == {}


def test_given_values_are_converted():
    given = parse(
        "--train_steps=100", "--base_learning_rate", "1e-3", "--use_tpu=False", "--nouse_keras",
        "--random_flip", "--dropout_rate=0", "--model_name=mnasnet-small",
    )  # fmt: skip
    assert given == {
        "train_steps": 100,
        "base_learning_rate": 0.001,
        "use_tpu": False,
        "use_keras": False,
        "random_flip": True,
        "dropout_rate": 0.0,
        "model_name": "mnasnet-small",
    }
    assert type(given["train_steps"]) is int


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/b")
    given = parse("--model_dir=~/m", "--config_file=~/c.yaml", "--init_checkpoint=hf://a/b")
    assert given == {
        "model_dir": "/home/b/m",
        "config_file": "/home/b/c.yaml",
        "init_checkpoint": "hf://a/b",
    }


@pytest.mark.parametrize(
    ("flag", "name"), [("project", "gcp_project"), ("gcp_project", "gcp_project"),
                       ("zone", "tpu_zone"), ("tpu_zone", "tpu_zone")]
)  # fmt: skip
def test_aliases(flag, name):
    assert parse(f"--{flag}=x") == {name: "x"}


@pytest.mark.parametrize("setting", settings.SETTINGS.values(), ids=lambda s: s.name)
def test_every_setting_is_a_flag(setting):
    values = {bool: "true", int: "64", float: "0.5", str: "x", object: "x"}
    text = setting.choices[-1] if setting.choices else values[setting.kind]
    (value,) = parse(f"--{setting.name}={text}").values()
    assert value == settings.convert(setting.name, text, "")


@pytest.mark.parametrize(
    ("arguments", "precision"),
    [
        (["--use_bfloat16"], "bfloat16"),
        (["--use_bfloat16=False"], "float32"),
        (["--nouse_bfloat16", "--precision=float32"], "float32"),
        (["--precision=bfloat16", "--use_bfloat16=true"], "bfloat16"),
    ],
)
def test_use_bfloat16_is_short_for_precision(arguments, precision):
    assert parse(*arguments) == {"precision": precision}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision=float32", "--use_bfloat16"], ["--use_bfloat16", "--precision"]),
        (["--train_steps=many"], ["--train_steps=many", "whole number"]),
        (["--train_steps=0"], ["--train_steps=0"]),
        (["--mode=test"], ["--mode=test", "export_only"]),
        (["--zone="], None),
        (["train"], ["'train'", "--name=value"]),
        (["--train_steps", "5", "6"], ["'6'"]),
    ],
)
def test_impossible_arguments(arguments, words):
    if words is None:
        assert parse(*arguments) == {"tpu_zone": ""}
        return
    with pytest.raises(UserError) as error:
        parse(*arguments)
    for word in words:
        assert word in str(error.value)


def test_unknown_flag_gets_the_nearest():
    with pytest.raises(flags.Error, match="train_steps"):
        parse("--train_step=5")


def test_a_value_for_a_boolean_must_be_one():
    with pytest.raises((flags.Error, UserError), match="use_tpu"):
        parse("--use_tpu=maybe")


def test_flags_of_two_programs_do_not_meet():
    assert parse("--train_steps=5") == {"train_steps": 5}
    assert parse() == {}
    assert "train_steps" not in flags.FLAGS


# Help and version.


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "usage: prog " in text
    for title, group in settings.GROUPS.items():
        assert f"\n{title}:\n" in text
        for setting in group:
            assert f"\n  --{setting.name}" in text
            if setting.alias:
                assert f"--{setting.alias}" in text
    joined = " ".join(text.split())
    for setting in settings.SETTINGS.values():
        default = setting.unset if setting.default is None else setting.default
        assert f"(default: {default})" in joined or f"(default: {default}; with" in joined
        assert " ".join(setting.help.split()) in joined
        for choice in setting.choices or ():
            assert choice in joined
    assert "--use_bfloat16" in joined
    assert max(map(len, text.splitlines())) <= 100


def test_help_names_the_defaults_of_fine_tuning():
    text = " ".join(setting_flags.help_text("program", "x").split())
    for name, value in settings.fine_tuning_defaults().items():
        assert f"with --init_checkpoint {value:g})" in text.partition(f"--{name} ")[2][:400], name


def test_flags_meant_for_others_are_not_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    assert "logtostderr" not in capsys.readouterr().out
