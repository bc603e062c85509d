"""Tests of progress lines: durations, the log, the terminal."""

import io
import types

import pytest

from utils import progress


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
def terminal(monkeypatch):
    return set_stderr(monkeypatch, Terminal())


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


# The terminal.


def test_one_line_is_rewritten(clock, terminal):
    bar = progress.Progress("train", 10, log_every=1)
    for step in (1, 2):
        clock.now += 1
        bar.update(step, loss=2.0, images=step)
    assert terminal.getvalue() == (
        "\rtrain step 1/10  loss 2  images 1  1 steps/s  ETA 0:09"
        "\rtrain step 2/10  loss 2  images 2  1 steps/s  ETA 0:08"
    )
    bar.close()
    assert terminal.getvalue().endswith("\n")
    before = terminal.getvalue()
    bar.close()
    assert terminal.getvalue() == before


def test_a_shorter_line_hides_the_longer(clock, terminal):
    bar = progress.Progress("train", 10)
    clock.now += 1
    bar.update(1, loss=123456.0)
    clock.now += 1
    bar.update(2)
    first, second = terminal.getvalue().split("\r")[1:]
    assert len(second) >= len(first)
    assert second.rstrip() == "train step 2/10  1 steps/s  ETA 0:08"


def test_at_most_ten_lines_a_second_but_always_the_last(clock, terminal):
    bar = progress.Progress("train", 100)
    for step in range(1, 101):
        clock.now += 0.01
        bar.update(step)
    lines = terminal.getvalue().split("\r")[1:]
    assert 5 <= len(lines) <= 11
    assert lines[-1].startswith("train step 100/100")
    assert lines[-1].rstrip().endswith("ETA 0:00")


def test_nothing_shown_nothing_to_end(terminal):
    progress.Progress("train", 10).close()
    assert terminal.getvalue() == ""
