"""What an export says of itself: `export_report.json`, written last of its files.

It maps `identity` to what makes two exports the same, and `files` to the name of each file (or
folder) with its `kind` and what was measured.
"""

from __future__ import annotations

import os
from typing import Any

from utils.base import files

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "export_report.json"
LABELS_KIND = "names of the classes"


def read(export_dir: str) -> dict[str, Any] | None:
    """The report of the export in a folder; None where there is none.

    Raises:
      UserError: the file is there but is not such a report.
    """
    path = os.path.join(export_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "remove it, or choose another --export_dir"
    return files.read_json(path, "a report of this program", remedy, _checked)


def _checked(content: Any) -> dict[str, Any]:
    """The report, if it has all that its readers take for granted."""
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
    for name in ("largest_logit_difference", "latency_ms"):
        files.member(row, name, int, float)
    for name in ("top_1_accuracy", "top_5_accuracy", "agreement"):
        files.member(row, name, int, float, type(None))


def write(export_dir: str, report: dict[str, Any]) -> None:
    """Writes the report: the export is complete."""
    files.write_json(os.path.join(export_dir, FILE_NAME), report)


def table(rows: dict[str, dict]) -> str:
    """The measurements of files as a table for people."""
    lines = [
        f"{'file':<36} {'MB':>6} {'top-1 %':>8} {'top-5 %':>8} {'agree %':>8} {'logits':>8} "
        f"{'ms':>7}"
    ]
    for name, row in rows.items():
        shares = [
            f"{100 * row[key]:8.2f}" if row[key] is not None else f"{'-':>8}"
            for key in ("top_1_accuracy", "top_5_accuracy", "agreement")
        ]
        lines.append(
            f"{name:<36} {row['bytes'] / 1e6:6.2f} {' '.join(shares)} "
            f"{row['largest_logit_difference']:8.1g} {row['latency_ms']:7.2f}"
        )
    return "\n".join(lines)
