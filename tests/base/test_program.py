"""Tests of running a command: errors in one sentence, exit statuses, standard streams."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest

from utils.base import program
from utils.base.errors import UserError
from utils.base.version import __version__
from utils.config import loading

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]


def parse(*arguments):
    return loading.parse_flags(["prog", *arguments], "What it does.")


@pytest.fixture
def run(run_as_program):
    return run_as_program


def raising(error):
    def main(argv):
        raise error

    return main


def test_status_of_a_program(run):
    seen = []
    assert run(seen.append, "--a", "b") == (0, "")
    assert seen == [["prog", "--a", "b"]]
    assert run(lambda argv: 3) == (3, "")


def test_a_users_mistake_is_one_sentence(run):
    assert run(raising(UserError("--x=1 is wrong."))) == (1, "error: --x=1 is wrong.\n")


def test_an_unknown_flag_is_one_sentence(run):
    status, err = run(lambda argv: parse("--train_step=5"))
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "train_step" in line
    assert "--help" in line


@pytest.mark.parametrize("kind", [tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError])
def test_denied_access_is_one_sentence(run, kind):
    status, err = run(raising(kind(None, None, "gs://bucket/x is not yours\n  at some place")))
    assert (status, err) == (1, "error: access denied: gs://bucket/x is not yours.\n")


def test_a_bug_is_one_sentence_and_its_trace_is_in_a_file(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, err = run(lambda argv: 1 / 0)
    (path,) = tmp_path.iterdir()
    assert status == 1
    assert err == (
        "error: this is a bug in mnasnet-tpu, not a mistake of yours: ZeroDivisionError: division "
        f"by zero; please report it with the stack trace in {path}.\n"
    )
    trace = path.read_text()
    assert "Traceback" in trace and "test_program.py" in trace and __version__ in trace


def test_a_bug_where_no_file_can_be_written_names_the_flag(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    status, err = run(raising(RuntimeError()))
    assert status == 1
    (line,) = err.splitlines()
    assert "RuntimeError: no message" in line and "--debug" in line


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), UserError("y is wrong.")])
def test_debug_shows_the_trace_and_is_not_for_the_program(run, error):
    seen = []

    def main(argv):
        seen.append(argv)
        raise error

    status, err = run(main, "--a", "--debug", "b")
    assert status == 1
    assert seen == [["prog", "--a", "b"]]
    assert err.startswith("Traceback") and "in main" in err
    assert err.splitlines()[-1].startswith("error: ")
    assert "mnasnet-error" not in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb\n" * 10_000),
        UserError("a\nb" * 10_000),
        tf.errors.InternalError(None, None, "x"),
        UnicodeEncodeError("ascii", "\xe9", 0, 1, "not in range"),
        UnicodeError(),
        KeyError(),
        RecursionError("deep"),
        BufferError("\udcff"),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_is_more_than_a_line(run, monkeypatch, tmp_path, error):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, err = run(raising(error))
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ") and len(line) < 3000


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np.core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype("float32")),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]"),
    ],
)
def test_too_little_memory_has_a_remedy(run, error):
    status, err = run(raising(error))
    assert status == 1
    (line,) = err.splitlines()
    assert "memory" in line and "--train_batch_size" in line and "bug" not in line


def test_ctrl_c_without_a_handler_keeps_its_status(run):
    assert run(raising(KeyboardInterrupt())) == (130, "")


def test_a_tilde_in_an_argument_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/b")
    parser = program.ArgumentParser(prog="prog")
    command = parser.add_subparsers().add_parser("build")
    command.add_argument("--input_dir")
    command.add_argument("--seed", type=int)
    command.add_argument("paths", nargs="*")
    arguments = parser.parse_args(["build", "--input_dir=~/p", "--seed=3", "~", "gs://~/x"])
    assert arguments.input_dir == "/home/b/p" and arguments.seed == 3
    assert arguments.paths == ["/home/b", "gs://~/x"]


def test_without_a_home_libraries_cache_among_the_temporary_files(tmp_path):
    code = (
        "from utils.base import program\n"
        "def main(argv):\n"
        "    import huggingface_hub.constants as hub, pooch\n"
        "    print(hub.HF_HUB_CACHE, pooch.os_cache('x'), sep='\\n')\n"
        "program.run(main)\n"
    )
    environment = {"HOME": "~", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    paths = finished.stdout.splitlines()
    assert len(paths) == 2 and all(path.startswith(f"{tmp_path}/mnasnet-cache-") for path in paths)


# The standard streams.


def test_letters_that_the_output_lacks_are_escapes(run, monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(lambda argv: print("Ä 1")) == (0, "")
    assert written.getvalue() == b"\\xc4 1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_program_with_their_status(run, number):
    def main(argv):
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 10)  # the handler runs before this returns

    assert run(main)[0] == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_another_signal_at_the_exit_kills_a_program_without_a_trace(number):
    code = (
        "import atexit, os, signal\n"
        "from utils.base import program\n"
        f"atexit.register(lambda: [os.kill(os.getpid(), {number}), signal.sigtimedwait([], 10)])\n"
        f"program.run(lambda argv: os.kill(os.getpid(), {number}))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert (finished.returncode, finished.stderr) == (-number, "")


def test_a_real_program_says_its_mistake_without_a_trace(tmp_path):
    finished = subprocess.run(
        [sys.executable, str(ROOT / "mnasnet_main.py"), "--mode=tests"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert finished.returncode == 1
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("error: --mode=tests")
    assert finished.stdout == ""


def test_a_long_output_that_nobody_reads_ends_a_program_quietly(run, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        status = run(lambda argv: print("line\n" * 100_000))
        monkeypatch.undo()
    assert status == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("error", "traces"), [(IndexError("/a/events; File too large"), 0), (IndexError("a bug"), 1)]
)
def test_a_thread_that_meets_a_full_disk_prints_no_trace(run, error, traces):
    def fail():
        raise error

    def main(argv):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    status, err = run(main)
    assert status == 0 and err.count("Traceback") == traces


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_stop_though_a_scope_that_it_leaves_fails(run, number):
    def main(argv):
        with tf.Graph().as_default() as graph, graph.device("/cpu:0"):
            graph._device_function_stack.pop_obj()  # as if the signal came while it was entered
            os.kill(os.getpid(), number)

    assert run(main) == (128 + number, "")
