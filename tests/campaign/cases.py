"""Carries out cases: attempts at something that no input may break, each with a verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from campaign.base import Base

Verdicts = Iterator[str | None]  # a verdict is None, or a sentence on what went wrong


class Case(NamedTuple):
    """One or more attempts at something: `run(base, folder)` yields a verdict for each."""

    name: str
    run: Callable[[Base, Path], Verdicts]


class Failure(NamedTuple):
    """A verdict that is not None, with the case that gave it."""

    case: str
    problem: str


def sample(cases: Sequence[Case], count: int) -> list[Case]:
    """Returns at most `count` cases, spread evenly over all."""
    count = min(count, len(cases))
    return [cases[(2 * n + 1) * len(cases) // (2 * count)] for n in range(count)]


def carry_out(
    cases: Sequence[Case], base: Base, report: Callable[[Failure], None] = lambda failure: None
) -> tuple[int, list[Failure]]:
    """Runs each case in a folder of its own, which is removed; returns (attempts, failures)."""
    attempts, failures = 0, []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            for problem in case.run(base, Path(folder)):
                attempts += 1
                if problem:
                    failures.append(Failure(case.name, problem))
                    report(failures[-1])
    return attempts, failures
