"""Tests of trainings that end early or run next to an evaluation: real processes and signals."""

import fcntl
import glob
import os
import pty
import re
import signal
import termios
import threading
import time

import pytest
from main_runs import log_of
from programs import flags, start, wait_for_line
from terminal import screen

from utils.training import checkpoints, evaluations


def read_terminal(descriptor, until=None):
    """What a process writes to a terminal, to its end or until a pattern is there."""
    text = ""
    while until is None or not re.search(until, text):
        try:
            text += os.read(descriptor, 10000).decode()
        except OSError:  # the process has ended
            break
    return text


def test_sigterm_saves_first(digits_dir, tmp_path):
    process = start(
        *flags(data_dir=digits_dir, model_dir=tmp_path, train_steps=100000, mode="train")
    )
    wait_for_line(process, "train step 3/")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    step = checkpoints.step_of(checkpoints.latest(str(tmp_path)))
    assert step >= 3
    saved = f"Saved step {step} in {tmp_path}: the same command resumes from there."
    assert err.splitlines()[-1].endswith(saved)


def test_ctrl_c_on_a_terminal_saves_first_and_says_so(digits_dir, tmp_path):
    main, other = pty.openpty()

    def take_terminal():  # in the child: keys then send signals, as they do to a user's program
        os.setsid()
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)

    arguments = flags(data_dir=digits_dir, model_dir=tmp_path, train_steps=100000, mode="train")
    process = start(*arguments, stderr=other, preexec_fn=take_terminal)
    os.close(other)
    limit = threading.Timer(300, process.kill)
    limit.start()
    try:
        text = read_terminal(main, until=r"train step [1-9]")
        os.write(main, b"\x03")
        text += read_terminal(main)
        process.communicate()
    finally:
        limit.cancel()
        process.kill()
        os.close(main)
    assert process.returncode == 128 + signal.SIGINT, text
    step = checkpoints.step_of(checkpoints.latest(str(tmp_path)))
    request, live, saved, end = screen(text)[-4:]
    assert re.fullmatch(
        r"[\d:]{8} SIGINT: finishing this step and saving a checkpoint; .*", request
    )
    # The terminal's ^C is gone.
    assert "^C" in text
    assert re.fullmatch(rf"train step {step}/100000  loss [\d.]+(  images/s .*ETA [\d:]+)?", live)
    assert saved[9:] == f"Saved step {step} in {tmp_path}: the same command resumes from there."
    assert end == ""


@pytest.mark.parametrize(
    "delays", [(0.05,), pytest.param((0.0, 0.02, 0.09, 0.13), marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_the_next_run_resumes(digits_dir, tmp_path, caplog, delays):
    arguments = flags(
        data_dir=digits_dir,
        model_dir=tmp_path,
        mode="train",
        train_steps=100000,
        save_checkpoints_steps=1,
    )
    reached = 0
    # A checkpoint every step: most of the time is spent in saving.
    for delay in delays:
        process = start(*arguments)
        wait_for_line(process, f"train step {reached + 4}/")
        time.sleep(delay)
        process.kill()
        process.communicate()
        latest = checkpoints.latest(str(tmp_path))
        assert checkpoints.is_complete(latest)
        assert checkpoints.step_of(latest) >= reached + 3
        reached = checkpoints.step_of(latest)
    arguments = [a for a in arguments if "train_steps" not in a] + [f"--train_steps={reached + 1}"]
    assert f"Resuming from step {reached} " in log_of(caplog, *arguments)
    assert not glob.glob(str(tmp_path / "*_temp*"))


def test_eval_mode_follows_a_training_run(digits_dir, tmp_path, caplog):
    training = start(
        *flags(
            data_dir=digits_dir,
            model_dir=tmp_path,
            mode="train",
            train_steps=40,
            save_checkpoints_steps=20,
        )
    )
    arguments = flags(
        data_dir=digits_dir, model_dir=tmp_path, mode="eval", train_steps=40, eval_timeout=120
    )
    try:
        assert "Evaluated the last step, 40." in log_of(caplog, *arguments)
    finally:
        training.communicate()
    assert training.returncode == 0
    steps = [e["global_step"] for e in evaluations.read(str(tmp_path))]
    assert steps[-1] == 40 and len(steps) == len(set(steps))
