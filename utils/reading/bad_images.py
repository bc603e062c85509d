"""--skip_bad_images: which records of a data set to leave out, found once and remembered.

The list of `bad_images.json` in model_dir holds as long as names, sizes and dates of the files do.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.reading import records, scan
from utils.reading.records import Problem
from utils.reading.segments import Segment

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "bad_images.json"
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Split:
    """The good records of a split.

    Attributes:
      segments: where they are.
      problems: the records left out.
      files: the files that were scanned.
    """

    segments: tuple[Segment, ...]
    problems: tuple[Problem, ...]
    files: tuple[records.FileState, ...]

    @property
    def num_records(self) -> int:
        """Good and bad ones."""
        return sum(segment.count for segment in self.segments) + len(self.problems)


def of_split(params: Mapping[str, Any], file_prefix: str) -> Split | None:
    """The good records of a split; None without --skip_bad_images (all are read then).

    They come from the list in model_dir, or else from a scan.

    Raises:
      UserError: a label is out of range, which is no damage, or a file breaks off, so that nobody
        knows how many records are lost, or no good record is left, or the list cannot be kept in
        model_dir.
    """
    if not params["skip_bad_images"] or params["data_dir"] in (None, "null"):
        return None
    paths = records.list_files(params["data_dir"], file_prefix)
    states = tuple(records.states(paths))
    known = _load(params["model_dir"])
    if file_prefix in known and known[file_prefix].files == states:
        return known[file_prefix]
    # Before a scan that may take an hour.
    files.make_writable_dir(params["model_dir"], "model_dir")
    found = scan.scan(paths, params["num_label_classes"], f"look at {file_prefix}*")
    for mislabelled in (problem for one in found for problem in one.mislabelled):
        raise UserError(str(mislabelled))
    for cut in (one for one in found if one.broken_off):
        raise UserError(
            f"{cut.path}, record {cut.num_records - 1}: the file is cut short or damaged here, and "
            "what follows cannot be counted: copy the file again (--skip_bad_images leaves out bad "
            "records, not the rest of a file)."
        )
    split = Split(
        tuple(segment for one in found for segment in one.segments),
        tuple(problem for one in found for problem in one.unreadable),
        states,
    )
    if not split.num_records:
        raise records.no_record(paths)
    if not split.segments:
        raise UserError(f"{file_prefix}*: no record is good; the first: {split.problems[0]}")
    _log(f"{file_prefix}*", split, split.num_records, params["model_dir"])
    _save(params["model_dir"], {**known, file_prefix: split})
    return split


def _log(name: str, split: Split, num_records: int, model_dir: str) -> None:
    if not split.problems:
        logging.info("%s: all %d records are good.", name, num_records)
        return
    logging.info(
        "%s: %d of %d records are bad and will be left out (%s lists them):",
        name, len(split.problems), num_records, os.path.join(model_dir, FILE_NAME),
    )  # fmt: skip
    for problem in split.problems[:SHOWN]:
        logging.info("  %s", problem)


def _load(model_dir: str) -> dict[str, Split]:
    path = os.path.join(model_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return {}
    remedy = "remove it, and the records are looked at again"
    return files.read_json(path, "a list of bad images", remedy, _checked)


def _checked(content: Any) -> dict[str, Split]:
    if not isinstance(content, dict):
        raise TypeError("it is not a mapping")
    return {key: _checked_split(files.member(content, key, dict)) for key in content}


def _checked_split(content: Mapping[str, Any]) -> Split:
    states = [records.FileState(*row) for row in _rows(content, "files", (str, int, int))]
    segments = [Segment(*row) for row in _rows(content, "segments", (str, int, int, int))]
    problems = []
    for problem in files.member(content, "problems", list):
        files.member(problem, "path", str)
        files.member(problem, "record", int)
        files.member(problem, "reason", str)
        files.member(problem, "offset", int, type(None))
        problems.append(Problem(**problem))
    return Split(tuple(segments), tuple(problems), tuple(states))


def _rows(content: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> list[list[Any]]:
    rows = files.member(content, key, list)
    for row in rows:
        if not isinstance(row, list) or tuple(map(type, row)) != kinds:
            raise TypeError(f"{key} has the row {row!r:.60}")
    return rows


def _save(model_dir: str, splits: dict[str, Split]) -> None:
    content = {
        key: {
            "problems": [dataclasses.asdict(problem) for problem in split.problems],
            "segments": [dataclasses.astuple(segment) for segment in split.segments],
            "files": split.files,
        }
        for key, split in splits.items()
    }
    files.write_json(os.path.join(model_dir, FILE_NAME), content, indent=1)
