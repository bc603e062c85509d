"""Tests that absl's own flags are known and mean what absl means."""

import atexit
import glob
import os
import pathlib
import pdb
import sys

import pytest
from absl import flags, logging

from utils.base.errors import UserError
from utils.base.version import __version__
from utils.config import absl_flags, setting_flags

OWN = (
    "logtostderr", "alsologtostderr", "log_dir", "verbosity", "stderrthreshold",
    "showprefixforinfo", "run_with_pdb", "pdb_post_mortem", "run_with_profiling", "profile_file",
    "only_check_args",
)  # fmt: skip


def parse(*arguments):
    return setting_flags.parse_settings(["prog.py", *arguments], "What it does.")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Puts back absl's flags and its handler, which are those of the process."""
    before = {name: flags.FLAGS[name].value for name in OWN}
    handler = logging.get_absl_handler().python_handler
    stream, formatter = handler.stream, handler.formatter
    yield
    for name, value in before.items():
        flags.FLAGS[name].value = value
    if handler.stream is not stream:
        handler.stream.close()
        handler.stream = stream
    handler.setFormatter(formatter)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--verbosity=-1", "verbosity", -1),
        ("-v=1", "verbosity", 1),
        ("--v=-2", "verbosity", -2),
        ("--logtostderr", "logtostderr", True),
        ("--alsologtostderr", "alsologtostderr", True),
        ("--noalsologtostderr", "alsologtostderr", False),
        ("--stderrthreshold=error", "stderrthreshold", "error"),
        ("--noshowprefixforinfo", "showprefixforinfo", False),
        ("--pdb_post_mortem", "pdb_post_mortem", True),
        ("--pdb", "pdb_post_mortem", True),
        ("--run_with_pdb", "run_with_pdb", True),
        ("--run_with_profiling", "run_with_profiling", True),
        ("--only_check_args", "only_check_args", True),
    ],
)
def test_flags_reach_absl_and_are_no_settings(argument, name, value):
    assert parse(argument, "--train_steps=5") == {"train_steps": 5}
    assert flags.FLAGS[name].value == value


def test_a_file_of_flags_and_unknown_flags_that_are_allowed(tmp_path):
    (tmp_path / "flags").write_text("--train_steps=5\n")
    given = parse(f"--flagfile={tmp_path}/flags", "--undefok=other", "--other=1")
    assert given == {"train_steps": 5}


def test_a_wrong_value_is_named():
    with pytest.raises(flags.Error, match="--verbosity=loud"):
        parse("--verbosity=loud")


@pytest.mark.parametrize(
    ("verbosity", "shown"), [(1, "dwie"), (0, "wie"), (-1, "we"), (-2, "e"), (None, "wie")]
)
def test_verbosity_chooses_the_lines_of_the_log(verbosity, shown, caplog):
    logging.set_verbosity(logging.INFO)  # as the shell of a program does
    parse(*([] if verbosity is None else [f"--verbosity={verbosity}"]))
    logging.debug("d")
    logging.warning("w")
    logging.info("i")
    logging.error("e")
    assert "".join(record.getMessage() for record in caplog.records) == shown


# Help.


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--helpshort", "-?"])
def test_short_help_is_the_help(capsys, flag):
    assert printed(capsys, flag) == printed(capsys, "--help")


def test_full_help_adds_absls_flags(capsys):
    text = printed(capsys, "--helpfull")
    assert text.startswith(printed(capsys, "--help").rstrip())
    for name in OWN:
        assert f"\n  --{name}" in text
    assert "\n  --verbosity, -v\n" in text


def test_help_as_xml(capsys):
    text = printed(capsys, "--helpxml")
    assert "<name>train_steps</name>" in text and "<name>log_dir</name>" in text


def test_the_version_is_no_log_line(capsys):
    assert printed(capsys, "--version", "--verbosity=-1").strip() == __version__


# The log file.


def test_the_log_goes_to_a_file(tmp_path, capsys):
    folder = tmp_path / "a" / "logs"
    parse(f"--log_dir={folder}", "--verbosity=0")
    handler = logging.get_absl_handler()
    handler.handle(logging.get_absl_logger().makeRecord("absl", 20, "x.py", 1, "line", (), None))
    handler.flush()
    (path,) = glob.glob(f"{folder}/prog.*.INFO.*")
    content = pathlib.Path(path).read_text()
    assert content.startswith("I") and content.endswith("x.py:1] line\n")
    assert os.path.samefile(f"{folder}/prog.INFO", path)
    assert "line" not in capsys.readouterr().err


def test_a_log_folder_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parse("--log_dir=~/logs")
    assert os.path.exists(tmp_path / "logs" / "prog.INFO")


def test_there_is_no_file_with_logtostderr(tmp_path):
    parse(f"--log_dir={tmp_path}", "--logtostderr")
    assert os.listdir(tmp_path) == []


def test_a_log_folder_that_cannot_be_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--log_dir={tmp_path}/file"):
        parse(f"--log_dir={tmp_path}/file")
    with pytest.raises(UserError, match="name a folder of this machine"):
        parse("--log_dir=gs://bucket/logs")


# Running.


def test_call_calls_and_raises():
    parse()
    seen = []
    absl_flags.call(seen.append, 3)
    assert seen == [3]
    with pytest.raises(ZeroDivisionError):
        absl_flags.call(lambda x: 1 / x, 0)
    with pytest.raises(SystemExit):
        absl_flags.call(sys.exit, 2)


def test_arguments_can_be_checked_alone():
    parse("--only_check_args")
    absl_flags.call(pytest.fail, "it was called")


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_an_error_starts_the_debugger_on_a_terminal(monkeypatch, capsys, is_terminal, asked):
    started = []
    monkeypatch.setattr(pdb, "post_mortem", lambda: started.append(sys.exc_info()[0]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    parse(*(["--pdb_post_mortem"] if asked else []))
    with pytest.raises(ZeroDivisionError):
        absl_flags.call(lambda x: 1 / x, 0)
    assert started == ([ZeroDivisionError] if asked and is_terminal else [])


def test_the_debugger_runs_the_program(monkeypatch):
    seen = []

    def runcall(function, argv):
        seen.append("pdb")
        return function(argv)

    monkeypatch.setattr(pdb, "runcall", runcall)
    parse("--run_with_pdb")
    absl_flags.call(seen.append, 3)
    assert seen == ["pdb", 3]


def test_a_profile_is_written_at_the_end(monkeypatch, tmp_path):
    registered = []
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    parse(f"--profile_file={tmp_path}/profile")
    absl_flags.call(str, 3)
    ((dump, path),) = registered
    dump(path)
    assert os.path.getsize(tmp_path / "profile") > 0


def test_a_profile_that_cannot_be_written_is_a_sentence(tmp_path):
    parse(f"--profile_file={tmp_path}/missing/profile")
    with pytest.raises(UserError, match="--profile_file="):
        absl_flags.call(pytest.fail, "it was called")
