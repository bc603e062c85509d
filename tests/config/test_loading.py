"""Tests of what a user says: flags, absl's own flags, help, and settings in YAML."""

import atexit
import glob
import os
import pathlib
import pdb
import re
import sys

import pytest
from absl import flags, logging

from utils.base.errors import UserError
from utils.base.version import __version__
from utils.config import loading, settings

ABSL = (
    "logtostderr",
    "alsologtostderr",
    "log_dir",
    "verbosity",
    "stderrthreshold",
    "showprefixforinfo",
    "run_with_pdb",
    "pdb_post_mortem",
    "run_with_profiling",
    "profile_file",
    "only_check_args",
)


def parse(*arguments):
    return loading.parse_flags(["prog.py", *arguments], "What it does.")


@pytest.fixture(autouse=True)
def restored():
    """Puts back absl's flags and its handler, which are those of the process."""
    before = {name: flags.FLAGS[name].value for name in ABSL}
    handler = logging.get_absl_handler().python_handler
    stream, formatter = handler.stream, handler.formatter
    yield
    for name, value in before.items():
        flags.FLAGS[name].value = value
    if handler.stream is not stream:
        handler.stream.close()
        handler.stream = stream
    handler.setFormatter(formatter)


# Flags.


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (
            "--train_steps=100 --base_learning_rate 1e-3",
            {"train_steps": 100, "base_learning_rate": 0.001},
        ),
        (
            "--use_tpu=False --nouse_keras --random_flip",
            {"use_tpu": False, "use_keras": False, "random_flip": True},
        ),
        (
            "--model_dir=~/m --init_checkpoint=hf://a/b",
            {"model_dir": "/home/b/m", "init_checkpoint": "hf://a/b"},
        ),
        ("--project=x --zone=", {"gcp_project": "x", "tpu_zone": ""}),
        ("--use_bfloat16", {"precision": "bfloat16"}),
        ("--nouse_bfloat16 --precision=float32", {"precision": "float32"}),
    ],
)
def test_flags(arguments, given, monkeypatch):
    monkeypatch.setenv("HOME", "/home/b")
    assert parse(*arguments.split()) == given
    assert not set(given) & set(flags.FLAGS)  # those of the process are others


def test_every_setting_is_a_flag():
    values = {bool: "true", int: "64", float: "0.5", str: "x", object: "x"}
    for name, setting in settings.SETTINGS.items():
        text = setting.choices[-1] if setting.choices else values[setting.kind]
        assert parse(f"--{name}={text}") == {name: settings.convert(name, text, "")}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("--precision=float32 --use_bfloat16", "--use_bfloat16"),
        ("--train_steps=many", "--train_steps=many"),
        ("--use_tpu=maybe", "use_tpu"),
        ("--verbosity=loud", "--verbosity=loud"),
        ("--train_step=5", "train_steps"),
        ("--train_steps 5 6", "'6'"),
        ("--log_dir=gs://bucket/logs", "--log_dir=gs://bucket/logs"),
        ("--log_dir=/dev/null/logs", "--log_dir=/dev/null/logs"),
    ],
)
def test_wrong_flags_are_named(arguments, word):
    with pytest.raises((UserError, flags.Error), match=word):
        parse(*arguments.split())


# Help.


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help(capsys):
    text = printed(capsys, "--help")
    assert "What it does." in text and "usage: prog" in text and "logtostderr" not in text
    for title, group in settings.GROUPS.items():
        assert f"\n{title}:\n" in text
        for name, setting in group.items():
            entry = " ".join(re.split(f"\n  --{name}(?=[,\n])", text)[1][:900].split())
            assert setting.help in entry and f"(default: {setting.default_text}" in entry
            assert (setting.alias or "") in entry
    assert "with --init_checkpoint 0.008)" in " ".join(text.split())
    assert settings.ORDER in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert printed(capsys, "-?") == text
    full = printed(capsys, "--helpfull")
    assert full.startswith(text.rstrip()) and "\n  --verbosity, -v\n" in full
    xml = printed(capsys, "--helpxml")
    assert "<name>train_steps</name>" in xml and "<name>log_dir</name>" in xml
    assert printed(capsys, "--version", "--verbosity=-1").strip() == __version__


# absl's own flags.


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("-v=1", "verbosity", 1),
        ("--noalsologtostderr", "alsologtostderr", False),
        ("--stderrthreshold=error", "stderrthreshold", "error"),
        ("--pdb", "pdb_post_mortem", True),
    ],
)
def test_flags_reach_absl_and_are_no_settings(argument, name, value):
    assert parse(argument, "--train_steps=5") == {"train_steps": 5}
    assert flags.FLAGS[name].value == value


def test_a_file_of_flags_and_unknown_flags_that_are_allowed(tmp_path):
    (tmp_path / "flags").write_text("--train_steps=5\n")
    given = parse(f"--flagfile={tmp_path}/flags", "--undefok=other", "--other=1")
    assert given == {"train_steps": 5}


def test_the_log_goes_to_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parse(f"--log_dir={tmp_path}/none", "--logtostderr")
    assert os.listdir(tmp_path) == []
    parse("--log_dir=~/a/logs", "--nologtostderr")
    handler = logging.get_absl_handler()
    handler.handle(logging.get_absl_logger().makeRecord("absl", 20, "x.py", 1, "line", (), None))
    handler.flush()
    (path,) = glob.glob(f"{tmp_path}/a/logs/prog.*.INFO.*")
    content = pathlib.Path(path).read_text()
    assert content.startswith("I") and content.endswith("x.py:1] line\n")
    assert "line" not in capsys.readouterr().err


def test_a_call_is_as_absls():
    parse()
    seen = []
    loading.call_as_absl_does(seen.append, 3)
    assert seen == [3]
    with pytest.raises(ZeroDivisionError):
        loading.call_as_absl_does(lambda x: 1 / x, 0)
    with pytest.raises(SystemExit):
        loading.call_as_absl_does(sys.exit, 2)
    parse("--only_check_args")
    loading.call_as_absl_does(pytest.fail, "it was called")


def test_debugger_and_profiler(monkeypatch, tmp_path):
    seen, registered = [], []
    monkeypatch.setattr(pdb, "post_mortem", lambda: seen.append(sys.exc_info()[0]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    parse("--pdb_post_mortem", f"--profile_file={tmp_path}/profile")
    with pytest.raises(ZeroDivisionError):
        loading.call_as_absl_does(lambda x: 1 / x, 0)
    assert seen == [ZeroDivisionError]
    ((dump, path),) = registered
    dump(path)
    assert os.path.getsize(tmp_path / "profile") > 0
    parse(f"--profile_file={tmp_path}/missing/profile")
    with pytest.raises(UserError, match="--profile_file="):
        loading.call_as_absl_does(pytest.fail, "it was called")


# YAML.


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ('{"a": null, "b": [true, 2.5]}', {"a": None, "b": [True, 2.5]}),
        ("run: 2026-01-01", {"run": "2026-01-01"}),
        ("a: &x {c: 1, d: 2}\nb: {<<: *x, c: 3}\n", {"a": {"c": 1, "d": 2}, "b": {"c": 3, "d": 2}}),
    ],
)
def test_what_is_read(text, content):
    assert loading.load_yaml(text, "a.yaml") == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [\n", "line 2, column 1"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: a is given twice"),
        ("a: !!python/name:os.system\n", "line 1"),
    ],
)
def test_what_cannot_be_read_names_the_place(text, words):
    with pytest.raises(UserError, match=f"^a.yaml is not valid YAML: .*{words}") as error:
        loading.load_yaml(text, "a.yaml")
    assert "\n" not in str(error.value)
