"""Runs sections and prints a table of what failed.

The exit status is 1 if anything failed. A failure is a stack trace, an error without a sentence, a
wrong exit status, a hang, a crash, or something lost. The fork server needs Linux.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from campaign import (
    cases,
    commands,
    file_system,
    kills,
    records,
    settings,
    state,
    weights,
)
from campaign.base import Base, make_base

import tensorflow.compat.v1 as tf  # isort: skip

SECTIONS = {
    "settings": settings.cases,
    "weights": weights.cases,
    "records": records.cases,
    "kills": kills.cases,
    "state": state.cases,
    "file_system": file_system.cases,
    "commands": commands.cases,
}


def main(argv: list[str]) -> int:
    """Runs the sections that the arguments name, by default all; returns the exit status."""
    arguments = _parse(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory(prefix="campaign-base-") as folder:
        base = make_base(Path(folder) / "base")
        for name in arguments.sections or SECTIONS:
            rows.append((name, *_run_section(name, arguments.sample, base)))
            print("{:12} {:5} attempts, {} failures".format(*rows[-1]), flush=True)
    _print_table(rows)
    return int(any(failures for _, _, failures in rows))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m campaign", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "sections", nargs="*", help=f"sections to run, of {', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--sample", type=int, help="cases to run of each section (default: all)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    return arguments


def _run_section(name: str, count: int | None, base: Base) -> tuple[int, int]:
    """Returns the numbers of attempts and failures; prints each failure when it happens."""
    found = SECTIONS[name]()
    chosen = cases.sample(found, count) if count else found
    attempts, failures = cases.carry_out(
        chosen, base, lambda failure: print(*failure, sep=": ", flush=True)
    )
    return attempts, len(failures)


def _print_table(rows: list[tuple[str, int, int]]) -> None:
    print(f"\n{'section':12} {'attempts':>8} {'failures':>8}")
    for row in [*rows, ("all", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        print("{:12} {:8} {:8}".format(*row))
