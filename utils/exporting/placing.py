"""Putting a finished export in its folder without a moment in which there is none.

The new files are complete in a folder inside export_dir first, with copies of those of the earlier
export that they replace. `placing.json` then says what is to be done, and from there on a kill
changes nothing: the next start does the rest. Every file is replaced at once, by renaming. The
report comes after the files, and what only the earlier export had leaves after the report. So who
reads the report finds the files that it lists, and every file is at any moment the old or the new
one, whole.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.exporting import export_report

import tensorflow.compat.v1 as tf  # isort: skip

UNFINISHED_DIR = "unfinished-mnasnet-export"
EARLIER_DIR = "earlier"
_PLAN_FILE = "placing.json"


@contextlib.contextmanager
def unfinished(export_dir: str) -> Iterator[str]:
    """An empty folder inside export_dir for files on their way; gone at the end.

    It stays if `place` was interrupted, for `finish`. What a killed run left is removed.
    """
    folder = os.path.join(export_dir, UNFINISHED_DIR)
    files.remove(folder)
    tf.io.gfile.makedirs(folder)
    try:
        yield folder
    finally:
        if not tf.io.gfile.exists(os.path.join(folder, _PLAN_FILE)):
            files.remove(folder)


def place(export_dir: str, report: dict[str, Any], earlier: Mapping[str, Any] | None) -> None:
    """Puts what `unfinished` holds in place.

    Args:
      export_dir: the folder.
      report: of the new export.
      earlier: the report of the export that is there; None without one.
    """
    folder = os.path.join(export_dir, UNFINISHED_DIR)
    export_report.write(folder, report)
    placing = [*report["files"], export_report.FILE_NAME]  # the report comes last
    plan: dict[str, Any] = {"placing": placing, "leaving": [], "earlier": None}
    if earlier:
        step = earlier["identity"]["global_step"]
        plan["earlier"] = f"step-{step}-{int(time.time())}"
        plan["leaving"] = sorted({*earlier["files"]} - {*report["files"]})
        _copy_replaced(export_dir, [*earlier["files"], export_report.FILE_NAME], plan["leaving"])
    files.write_json(os.path.join(folder, _PLAN_FILE), plan)
    finish(export_dir)


def _copy_replaced(export_dir: str, names: list[str], leaving: list[str]) -> None:
    """Keeps what is going to be replaced; what only leaves is moved later."""
    kept = os.path.join(export_dir, UNFINISHED_DIR, EARLIER_DIR)
    tf.io.gfile.makedirs(kept)
    for name in names:
        source = os.path.join(export_dir, name)
        if name not in leaving and tf.io.gfile.exists(source):
            files.copy(source, os.path.join(kept, name))


def finish(export_dir: str) -> None:
    """Does what is left of `place`, after a kill, too; nothing where nothing is left.

    Raises:
      UserError: the plan is damaged.
    """
    folder = os.path.join(export_dir, UNFINISHED_DIR)
    path = os.path.join(folder, _PLAN_FILE)
    if not tf.io.gfile.exists(path):
        return
    remedy = f"remove the folder {folder}, and run the same command again"
    plan = files.read_json(path, "a plan of this program", remedy, _checked_plan)
    for name in plan["placing"]:
        _move(name, folder, export_dir)
    if plan["earlier"]:
        kept = os.path.join(folder, EARLIER_DIR)
        for name in plan["leaving"]:
            _move(name, export_dir, kept)
        target = os.path.join(export_dir, EARLIER_DIR)
        tf.io.gfile.makedirs(target)
        if tf.io.gfile.exists(kept):
            files.rename(kept, os.path.join(target, plan["earlier"]))
            logging.info("The earlier export is now in %s.", os.path.join(target, plan["earlier"]))
    files.remove(path)  # first: without it the rest is only refuse
    files.remove(folder)


def _move(name: str, source: str, target: str) -> None:
    if tf.io.gfile.exists(os.path.join(source, name)):
        files.rename(os.path.join(source, name), os.path.join(target, name))


def _checked_plan(content: Any) -> dict[str, Any]:
    for key in ("placing", "leaving"):
        for name in files.member(content, key, list):
            files.name_in_folder(name)
    if content["earlier"] is not None:
        files.name_in_folder(content["earlier"])
    return content
