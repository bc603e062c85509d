"""What an export says of itself: `export_report.json`, written last of its files.

It maps `identity` to what makes two exports the same, and `files` to the name of each file (or
folder) with its `kind` and what was measured.
"""

from __future__ import annotations

import json
import os
from typing import Any

from utils import files
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "export_report.json"


def read(export_dir: str) -> dict[str, Any] | None:
    """The report of the export in a folder; None where there is none.

    Raises:
      UserError: the file is there but is not such a report.
    """
    path = os.path.join(export_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return None
    try:
        report = json.loads(files.read_text(path))
        # What its readers take for granted.
        int(report["identity"]["global_step"])
        all(row["kind"] for row in report["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{path} is no report of this program: remove it, or choose another --export_dir."
        ) from e
    return report


def write(export_dir: str, report: dict[str, Any]) -> None:
    """Writes the report: the export is complete."""
    text = json.dumps(report, indent=2, ensure_ascii=False)
    files.write_text(os.path.join(export_dir, FILE_NAME), text + "\n")
