"""Puts a finished export in its folder so that the folder holds a whole export at any moment.

A process may be killed at every step, and others may read the folder meanwhile. Therefore:

1. The new files are completed in a folder inside export_dir, next to copies of those earlier files
   that they will replace.
2. `placing.json` is written there: the plan of what is left to do. After a kill from here on, the
   next start does the rest.
3. Every file is replaced by renaming: readers see the old file or the new one, never a part.
4. The report follows the files, so that the files that a report lists are there.
5. Files that only the earlier export had are moved to earlier/ last.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.exporting import measure

import tensorflow.compat.v1 as tf

UNFINISHED_DIR = "unfinished-mnasnet-export"
EARLIER_DIR = "earlier"
_PLAN_FILE = "placing.json"


@contextlib.contextmanager
def unfinished(export_dir: str) -> Iterator[str]:
    """Yields an empty folder inside export_dir for unfinished files, and removes it afterwards.

    Files that a killed run left there are removed first. If `place` was interrupted, the folder
    stays for `finish`.
    """
    folder = os.path.join(export_dir, UNFINISHED_DIR)
    files.remove(folder)
    files.make_dirs(folder)
    try:
        yield folder
    finally:
        if not tf.io.gfile.exists(os.path.join(folder, _PLAN_FILE)):
            files.remove(folder)


def place(export_dir: str, report: dict[str, Any], earlier: Mapping[str, Any] | None) -> None:
    """Puts the files in the folder of `unfinished` in place.

    Args:
      export_dir: the folder of the export.
      report: the new export's report.
      earlier: the report of the export that is in export_dir; None if there is none.
    """
    folder = os.path.join(export_dir, UNFINISHED_DIR)
    measure.write(folder, report)
    placing = [*report["files"], measure.FILE_NAME]  # the report comes last
    plan: dict[str, Any] = {"placing": placing, "leaving": [], "earlier": None}
    if earlier:
        step = earlier["identity"]["global_step"]
        plan["earlier"] = _new_name(os.path.join(export_dir, EARLIER_DIR), f"step-{step}")
        plan["leaving"] = sorted({*earlier["files"]} - {*report["files"]})
        _copy_replaced(export_dir, [*earlier["files"], measure.FILE_NAME], plan["leaving"])
    files.write_json(os.path.join(folder, _PLAN_FILE), plan)
    finish(export_dir)


def _new_name(folder: str, start: str) -> str:
    """Returns a name with the time in it that nothing in a folder has."""
    seconds = int(time.time())
    while tf.io.gfile.exists(os.path.join(folder, name := f"{start}-{seconds}")):
        seconds += 1
    return name


def _copy_replaced(export_dir: str, names: list[str], leaving: list[str]) -> None:
    """Copies the files that will be replaced; `finish` moves those that only leave."""
    kept = os.path.join(export_dir, UNFINISHED_DIR, EARLIER_DIR)
    files.make_dirs(kept)
    for name in names:
        source = os.path.join(export_dir, name)
        if name not in leaving and tf.io.gfile.exists(source):
            files.copy(source, os.path.join(kept, name))


def finish(export_dir: str) -> None:
    """Does what is left of the plan of `place`, if there is one, whoever wrote it.

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
        files.make_dirs(target)
        if tf.io.gfile.exists(kept):
            files.rename(kept, os.path.join(target, plan["earlier"]))
            logging.info("The earlier export is now in %s.", os.path.join(target, plan["earlier"]))
    files.remove(path)  # first: without a plan, the next start removes the folder
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
