"""Reads and writes `export_report.json`, in which an export says what it holds.

The file maps `identity` to what the export was made of (model, checkpoint, step, settings), and
`files` to the name of each file or folder with its `kind` and its measurements.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from utils.base import files, tables
from utils.base.tensorflow_version import tf
from utils.exporting import measure

FILE_NAME = "export_report.json"
LABELS_KIND = "names of the classes"
# Top-1 on pictures that are squeezed whole into the input, as MediaPipe prepares them.
SQUEEZED = "squeezed_top_1_accuracy"


def read(export_dir: str) -> dict[str, Any] | None:
    """Returns the report of the export in a folder; None if there is none.

    Raises:
      UserError: the file is not a report of this program.
    """
    path = os.path.join(export_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "remove it, or choose another --export_dir"
    return files.read_json(path, "a report of this program", remedy, _checked)


def _checked(content: Any) -> dict[str, Any]:
    """Returns the report if it has all that its readers take for granted."""
    identity = files.member(content, "identity", dict)
    files.member(identity, "global_step", int)
    for name, row in files.member(content, "files", dict).items():
        files.name_in_folder(name)
        files.member(row, "kind", str)
        if row["kind"] != LABELS_KIND:
            _check_measured(identity, row)
    return content


def _check_measured(identity: dict[str, Any], row: dict[str, Any]) -> None:
    files.member(identity, "model_name", str)
    files.member(row, "bytes", int)
    for name in (_difference(row), "latency_ms"):
        files.member(row, name, int, float)
    for name in ("top_1_accuracy", "top_5_accuracy", "agreement"):
        files.member(row, name, int, float, type(None))
    if SQUEEZED in row:  # only float32 files have it, and none of before
        files.member(row, SQUEEZED, int, float, type(None))


def _difference(row: Mapping[str, Any]) -> str:
    """Returns the name of a file's largest difference, which says what was compared."""
    return measure.DIFFERENCES[measure.DIFFERENCES[True] in row]


def write(export_dir: str, report: dict[str, Any]) -> None:
    """Writes the report, which makes the export in a folder count as complete."""
    files.write_json(os.path.join(export_dir, FILE_NAME), report)


MEASURED = ("MB", "top-1 %", "top-5 %", "squeezed %", "agreement %", "difference", "ms")


def measured(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells under the titles MEASURED for one file of a report."""
    shares = [
        "-" if row.get(name) is None else f"{100 * row[name]:.2f}"
        for name in ("top_1_accuracy", "top_5_accuracy", SQUEEZED, "agreement")
    ]
    return [
        f"{row['bytes'] / 1e6:.2f}", *shares,
        f"{row[_difference(row)]:.1g}", f"{row['latency_ms']:.2f}",
    ]  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the measurements of files, by their names, as a table for a terminal."""
    return tables.plain(["file", *MEASURED], ([name, *measured(row)] for name, row in rows.items()))
