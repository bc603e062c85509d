"""Runs the program: its flags, its process, its sentences."""

import logging as python_logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import warnings

import pytest

from utils.base import program

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parent.parent
TINY_NETWORK = ROOT / "tests" / "tiny_network.yaml"

TINY = {
    "model_spec": TINY_NETWORK,
    "input_image_size": 32,
    "train_batch_size": 16,
    "eval_batch_size": 100,
    "base_learning_rate": 0.1,
    "train_steps": 8,
    "steps_per_eval": 8,
    "log_step_count_steps": 1,
    "add_summaries": False,
}


def flags(**values):
    """Flags of a short training of the tiny network; a value replaces or adds one."""
    return [f"--{name}={value}" for name, value in {**TINY, **values}.items()]


def start(*arguments, cwd=None, environment=None, stderr=subprocess.PIPE, **more):
    environment = {**os.environ, **(environment or {})}
    environment.pop("TPU_NAME", None)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "mnasnet_main.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=cwd,
        env=environment,
        **more,
    )


def run(*arguments, cwd=None, environment=None):
    process = start(*arguments, cwd=cwd, environment=environment)
    out, err = process.communicate()
    return process.returncode, out, err


def wait_for_line(process, text):
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    pytest.fail(f"the process ended without {text!r}:\n{''.join(lines)}")


def sentence(status, err):
    """The error of a failed run: one line, no trace."""
    assert status == 1, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    return errors[0]


@pytest.fixture
def run_as_program(capsys, monkeypatch):
    """Runs a main function as a program does; returns (status, stderr)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = python_logging.getLogger()
    kept, filters = list(root.handlers), list(warnings.filters)
    level = tf.get_logger().level, tf.get_logger().propagate
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # is put back at the end
    # It would close the stream of absl's handler, which here is pytest's.
    monkeypatch.setattr(python_logging, "shutdown", lambda: None)

    def run_main(main, *arguments):
        with pytest.raises(SystemExit) as stop:
            program.run(main, ["prog", *arguments])
        return stop.value.code, capsys.readouterr().err

    yield run_main
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root.handlers[:] = kept
    warnings.filters[:] = filters
    tf.get_logger().setLevel(level[0])
    tf.get_logger().propagate = level[1]
