"""Runs the .tflite files of exports in the runtimes of today's apps, LiteRT and MediaPipe.

mnasnet-check-exports EXPORT_DIR ... --pictures picture.jpg ...

The command prints a table in Markdown. LiteRT, the successor of TensorFlow Lite, gets the same
input as TensorFlow 2.15's interpreter; the two take turns on one thread for the latencies.
MediaPipe's ImageClassifier gets the picture, squeezes it whole into the input, and is compared with
this program on a squeezed picture; it can feed files that take raw pixels. Both are installed in a
second environment (`--env`) at the first use. The exit status is 1 if a runtime is missing, fails,
or computes something else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence

from utils.base import files, program, tables
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later

with importing_later():
    from utils.check_exports import comparison
    from utils.check_exports.worker import Worker
    from utils.environments import second
    from utils.exporting import export, export_report, tflite

DEFAULT_ENV = ".venv-exports"
# A runtime -> (its packages, how much they take on the disk).
RUNTIMES = {
    "LiteRT": (("ai-edge-litert==2.3.0",), "0.2 GB"),
    "MediaPipe": (("mediapipe==1.2.3",), "0.5 GB"),
}
_NEEDS = "Linux on x86-64, Python 3.10 or later and access to PyPI"
COLUMNS = (
    "model", "file", "LiteRT: same class", "LiteRT: difference", "TF 2.15.1 ms", "LiteRT ms",
    "MediaPipe: same class", "MediaPipe: difference",
)  # fmt: skip


class _Check:
    """Keeps the process of the second environment, the runtimes that work, and what went wrong."""

    def __init__(self, worker: Worker | None, folder: str):
        self.worker = worker
        self.folder = folder
        self.runtimes: set[str] = set()
        self.problems = 0

    def report(self, problem: object) -> None:
        """Prints what is wrong, which makes the exit status 1."""
        self.problems += 1
        print(f"error: {problem}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Prints the table; returns 1 if something is missing or wrong, else 0."""
    flags = _parser().parse_args(argv[1:])
    reports = {folder: _read_report(folder) for folder in flags.export_dirs}
    with tempfile.TemporaryDirectory() as folder:
        check = _Check(None, folder)
        python = _set_up(flags.env, check)
        if python is None:
            return 1
        with Worker(python, folder) as worker:
            check.worker = worker
            _start(check)
            print(tables.markdown_head(COLUMNS, left=2), flush=True)
            for export_dir, report in reports.items():
                _check_export(export_dir, report, flags.pictures, check)
    return 1 if check.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = program.ArgumentParser(
        prog="mnasnet-check-exports", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("export_dirs", nargs="+", metavar="EXPORT_DIR")
    parser.add_argument(
        "--pictures", nargs="+", required=True, metavar="PICTURE", help="JPEG, PNG, GIF or BMP file"
    )
    parser.add_argument("--env", default=DEFAULT_ENV, help="folder of the second environment")
    return parser


def _read_report(export_dir: str) -> dict:
    report = export_report.read(export_dir)
    if report is None:
        raise UserError(f"{export_dir} holds no {export_report.FILE_NAME}: export a model there.")
    if files.is_remote(export_dir):
        raise UserError(f"{export_dir} is not on this machine: copy it to a folder here first.")
    return report


def _set_up(env: str, check: _Check) -> str | None:
    """Installs what can be installed; returns the Python of the environment, None for nothing."""
    python = None
    for name, (packages, size) in RUNTIMES.items():
        try:
            python = second.set_up(env, name, packages, _NEEDS, size)
            check.runtimes.add(name)
        except UserError as e:
            check.report(e)
    return python


def _start(check: _Check) -> None:
    """Imports the runtimes; those that cannot be imported are left out."""
    assert check.worker is not None
    for name in sorted(check.runtimes):
        try:
            check.worker.ask(f"start_{name.lower()}")
        except UserError as e:
            check.runtimes.discard(name)
            # The message names the native library that is missing, if one is.
            remedy = (
                "install the library it names (Debian: apt-get install libgl1 libegl1 libgles2)"
            )
            check.report(f"{name} does not start here ({e}): {remedy}.")


def _check_export(export_dir: str, report: dict, paths: Sequence[str], check: _Check) -> None:
    """Prints a row for each .tflite file of an export."""
    kinds = {
        os.path.join(export_dir, name): row["kind"]
        for name, row in report["files"].items()
        if row["kind"] in tflite.SUFFIXES
    }
    if not kinds:
        raise UserError(f"{export_dir} holds no .tflite file: export it again.")
    first = tflite.open_interpreter(next(iter(kinds)))
    pictures = comparison.read_pictures(paths, first, check.folder)
    for path, kind in kinds.items():
        cells = [report["identity"]["model_name"], kind, *_cells(path, kind, pictures, check)]
        print(tables.markdown_row(cells), flush=True)


def _cells(
    path: str, kind: str, pictures: Sequence[comparison.Picture], check: _Check
) -> list[str]:
    """Returns the cells for one file; '-' if a runtime is missing, fails or cannot feed it."""
    assert check.worker is not None
    file = comparison.File(path, check.worker, pictures, check.folder)
    cells = ["-"] * 6
    if "LiteRT" in check.runtimes:
        try:
            agreement = file.in_litert()
            cells[:2] = _agreement(agreement, len(pictures))
            cells[2:4] = [f"{1000 * seconds:.2f}" for seconds in file.latencies()]
            if kind == "float32" and agreement.difference > export.LARGEST_DIFFERENCE:
                check.report(f"{path} differs in LiteRT by {agreement.difference:.2g} relative.")
        except UserError as e:
            check.report(f"{path} in LiteRT: {e}")
    if "MediaPipe" in check.runtimes and file.takes_raw_pixels:
        try:
            cells[4:] = _agreement(file.in_mediapipe(), len(pictures))
        except UserError as e:
            check.report(f"{path} in MediaPipe: {e}")
    return cells


def _agreement(agreement: comparison.Agreement, total: int) -> list[str]:
    return [f"{agreement.same} of {total}", f"{agreement.difference:.1g}"]


def console() -> None:
    """Runs the console command `mnasnet-check-exports`."""
    program.run(main)


if __name__ == "__main__":
    console()
