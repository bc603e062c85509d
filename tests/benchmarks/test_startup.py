"""Tests of the benchmark of trainings."""

import re

import pytest

from utils.base.errors import UserError
from utils.benchmarks import startup


def measured(monkeypatch, ends):
    """Lets trainings end after so many seconds, one after the other."""
    trainings = iter(startup.Training(1.0, 0.1, end, 10**9) for end in ends)
    monkeypatch.setattr(startup, "measure_training", lambda *_: next(trainings))


def test_the_end_of_trainings(monkeypatch, capsys):
    measured(monkeypatch, [1.0, 2.9, 1.4])
    startup.bench_end("data", 3)
    first, row = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"mnasnet-small at \d+, \d+ steps of \d+, 3 runs", first)
    assert row.split(maxsplit=7)[7] == "1.4 s (median)  2.9 s (most)"


def test_a_late_end_is_said(monkeypatch, capsys):
    measured(monkeypatch, [1.0, 3.1, 1.4])
    startup.bench_end("data", 3)
    assert capsys.readouterr().out.endswith("3.1 s (most)  MORE THAN 3 s\n")


def test_no_run_is_refused():
    with pytest.raises(UserError, match="--runs=0 is invalid: it must be at least 1"):
        startup.main(["benchmark", "--runs=0"])
