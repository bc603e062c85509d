"""Tests of progress lines: durations, the log, the terminal."""

import contextlib
import fcntl
import io
import logging as python_logging
import os
import pty
import struct
import termios
import types

import pytest
from absl import flags, logging
from terminal import screen

from utils.base import progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (3661, "1:01:01"),
        (360000, "100:00:00"),
        (-5, "0:00"),
    ],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(progress, "time", clock)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def set_stderr(monkeypatch, stream):
    # The module's alone: pytest replaces sys.stderr between a fixture and its test.
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def log_level():
    """The log level of the programs; a live line is of it, too."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)


@pytest.fixture
def terminal(monkeypatch, log_level):
    return set_stderr(monkeypatch, Terminal())


@pytest.fixture
def own_log(terminal, monkeypatch):
    """The log of the programs, on the terminal."""
    handler = logging.get_absl_handler()
    monkeypatch.setattr(handler.python_handler, "stream", terminal)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    python_logging.root.addHandler(handler)
    yield
    python_logging.root.removeHandler(handler)


@pytest.fixture
def log(monkeypatch, caplog):
    """Lines of the log where stderr is no terminal; nothing else is to be written there."""
    stream = set_stderr(monkeypatch, io.StringIO())
    caplog.set_level("INFO", "absl")
    yield lambda: [record.getMessage() for record in caplog.records]
    assert stream.getvalue() == ""


# Speed.


def test_rate_counts_from_the_first_unit_of_this_run(clock):
    bar = progress.Progress("train", 100, done=40)
    assert bar.rate() == 0
    clock.now += 2
    bar.update(50)
    assert bar.rate() == 5


def test_rate_is_that_of_the_last_half_minute(clock):
    bar = progress.Progress("train", 100000)
    done = 0
    for speed, seconds in ((1, 300), (10, 31)):
        for _ in range(seconds):
            clock.now += 1
            done += speed
            bar.update(done)
    assert bar.rate() == 10


def test_rate_of_steps_that_take_longer_than_that(clock):
    bar = progress.Progress("train", 100000)
    for done, seconds in ((100, 200), (200, 50)):
        clock.now += seconds
        bar.update(done)
    assert bar.rate() == 2


@pytest.mark.parametrize("pause", [1e-3, 0.1, 0.4])
def test_rate_of_fast_steps(clock, pause):
    bar = progress.Progress("scan", 10**9)
    for done in range(1, 2001):
        clock.now += pause
        bar.update(done)
    assert bar.rate() == pytest.approx(1 / pause)


def test_restarting_the_clock_forgets_the_first_step(clock):
    bar = progress.Progress("train", 100)
    clock.now += 60
    bar.update(1)
    bar.restart_clock()
    clock.now += 1
    bar.update(5)
    assert bar.rate() == 4


# The log.


def test_a_line_every_so_often(clock, log):
    bar = progress.Progress("train", 10, log_every=3)
    for step in range(1, 11):
        clock.now += 1
        bar.update(step, loss=1.23456)
    bar.close()
    assert log() == [
        "train step 3/10  loss 1.235  1 steps/s  ETA 0:07",
        "train step 6/10  loss 1.235  1 steps/s  ETA 0:04",
        "train step 9/10  loss 1.235  1 steps/s  ETA 0:01",
    ]


def test_lines_of_a_resumed_run_are_those_of_a_whole_one(clock, log):
    bar = progress.Progress("train", 10, done=4, log_every=3)
    for step in range(5, 11):
        clock.now += 1
        bar.update(step)
    assert [line.split()[2] for line in log()] == ["6/10", "9/10"]


def test_steps_taken_many_at_a_time_give_one_line(clock, log):
    bar = progress.Progress("train", 100, log_every=10)
    for step in (25, 26, 50):
        clock.now += 1
        bar.update(step)
    assert [line.split()[2] for line in log()] == ["25/100", "50/100"]


def test_the_end_is_logged_once_where_asked_for(clock, log):
    for steps in (2, 3, 4):
        bar = progress.Progress("train", steps, log_every=3)
        for step in range(1, steps + 1):
            clock.now += 1
            bar.update(step)
        bar.log()
    assert [line.split()[2] for line in log()] == ["2/2", "3/3", "3/4", "4/4"]


def test_no_log_without_log_every(clock, log):
    bar = progress.Progress("evaluate", 3, unit="batch")
    for step in (1, 2, 3):
        clock.now += 1
        bar.update(step)
    bar.close()
    assert log() == []


def test_no_eta_before_there_is_a_speed(clock, log):
    progress.Progress("train", 10, log_every=1).update(1)
    assert log() == ["train step 1/10"]


def test_large_numbers_have_no_exponent(clock, log):
    bar = progress.Progress("build", 10**6, unit="image", log_every=1)
    clock.now += 1
    bar.update(21654, loss=123456.78)
    assert log() == ["build image 21654/1000000  loss 123457  21654 images/s  ETA 0:45"]


# The terminal.


def test_one_line_is_rewritten(clock, terminal):
    bar = progress.Progress("train", 10, log_every=1)
    assert screen(terminal.getvalue()) == ["train step 0/10"]
    for step in (1, 2):
        clock.now += 1
        bar.update(step, loss=2.0, images=step)
    bar.close()
    last = "train step 2/10  loss 2  images 2  1 steps/s  ETA 0:08"
    assert screen(terminal.getvalue()) == [last, ""]
    before = terminal.getvalue()
    bar.close()
    assert terminal.getvalue() == before


def test_a_shorter_line_hides_the_longer(clock, terminal):
    bar = progress.Progress("train", 10)
    clock.now += 1
    bar.update(1, loss=123456.0)
    clock.now += 1
    bar.update(2)
    bar.close()
    assert screen(terminal.getvalue()) == ["train step 2/10  1 steps/s  ETA 0:08", ""]


def test_many_steps_are_few_lines_but_always_the_last(clock, terminal):
    bar = progress.Progress("train", 1000)
    for step in range(1, 1001):
        clock.now += 0.01
        bar.update(step)
    bar.close()
    assert terminal.getvalue().count("train step") < 500
    assert screen(terminal.getvalue()) == ["train step 1000/1000  100 steps/s  ETA 0:00", ""]


def test_log_lines_stand_above_the_live_line(clock, terminal, own_log):
    bar = progress.Progress("train", 10, log_every=1)
    clock.now += 1
    bar.update(1, loss=1.0)
    logging.info("saving")
    bar.log()  # the line shows it
    clock.now += 1
    bar.update(2, loss=1.0)
    bar.close()
    logging.info("saved")
    first, second, third, end = screen(terminal.getvalue())
    assert first.endswith("saving") and third.endswith("saved") and end == ""
    assert second == "train step 2/10  loss 1  1 steps/s  ETA 0:08"


def test_log_lines_of_a_file_stay_there(clock, terminal, own_log, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(logging.get_absl_handler().python_handler, "stream", file)
    bar = progress.Progress("train", 10)
    logging.info("saving")
    bar.close()
    logging.info("saved")
    assert [line[-6:] for line in file.getvalue().splitlines()] == ["saving", " saved"]
    assert "saving" not in terminal.getvalue()


def test_a_log_of_warnings_alone_has_no_line(clock, terminal):
    logging.set_verbosity(logging.WARNING)
    bar = progress.Progress("train", 10, log_every=1)
    bar.update(1)
    bar.close()
    assert terminal.getvalue() == ""


@pytest.fixture
def sized_terminal(monkeypatch, log_level):
    """Makes a terminal of so many columns; returns what closes it and returns what was written."""

    def make(columns):
        main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stream = set_stderr(monkeypatch, os.fdopen(other, "w"))

        def written():
            stream.close()
            text = b""
            with open(main, "rb", buffering=0) as f, contextlib.suppress(OSError):  # EIO: the end
                while part := f.read(1000):
                    text += part
            return text.decode()

        return written

    return make


@pytest.mark.parametrize(("columns", "least", "most"), [(30, 25, 30), (200, 48, 48), (0, 48, 48)])
def test_the_line_is_cut_to_the_width_of_the_terminal(clock, sized_terminal, columns, least, most):
    written = sized_terminal(columns)
    bar = progress.Progress("train", 10)
    clock.now += 1
    bar.update(1, loss=1.2345)
    bar.close()
    line, end = screen(written())
    assert end == "" and least <= len(line) <= most
    assert "train step 1/10  loss 1.234  1 steps/s  ETA 0:09".startswith(line)
