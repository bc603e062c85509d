"""Runs benchmarks: `make bench SECTIONS="step input"`, or `python -m bench step input`.

Speed depends on the machine and on what else it does, so a section compares works with each other:
they take turns, medians count, and the ratio to the first one is what can be compared with other
runs.
"""

from __future__ import annotations

import tempfile

from absl import logging

from bench import measuring, reading, training, writing
from utils.base import program
from utils.base.errors import UserError

SECTIONS = {
    "step": training.step,
    "intervals": training.intervals,
    "input": reading.reading,
    "export": writing.export,
    "commands": writing.commands,
    "growth": training.growth,
    "workers": training.workers,
    "build": reading.building,
    "bigtable": reading.bigtable_rows,
    "report": writing.reports,
    "tflite": writing.tflite_files,
}
DEFAULT = ("step", "intervals", "input", "export", "commands")


def main(argv: list[str]) -> None:
    """Prints the tables of the sections that the arguments name."""
    described = ", ".join(SECTIONS)
    parser = program.ArgumentParser(prog="python -m bench", description="Runs benchmarks.")
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"of {described} (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument("--turns", type=int, default=3, help="turns of each work (default: 3)")
    arguments = parser.parse_args(argv[1:])
    for name in arguments.sections:
        if name not in SECTIONS:
            raise UserError(f"{name} is not a section: choose from {described}.")
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns} is invalid: it must be at least 1.")
    logging.set_verbosity(logging.WARNING)
    print(measuring.machine(), flush=True)
    for name in arguments.sections or DEFAULT:
        with tempfile.TemporaryDirectory(prefix="mnasnet-bench-") as folder:
            SECTIONS[name](folder, arguments.turns)


if __name__ == "__main__":
    program.run(main)
