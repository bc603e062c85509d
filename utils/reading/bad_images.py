"""Finds the records of a data set that --skip_bad_images leaves out, and remembers them.

The list in model_dir, `bad_images.json`, is valid as long as the names, sizes and dates of the
files stay the same.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import examples, records, scan
from utils.reading.records import Problem
from utils.reading.segments import Segment

FILE_NAME = "bad_images.json"
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class GoodRecords:
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
        """Counts the records of the split, good and bad ones."""
        return sum(segment.count for segment in self.segments) + len(self.problems)


def of_split(params: Mapping[str, Any], file_prefix: str) -> GoodRecords | None:
    """Returns the good records of a split; None without --skip_bad_images, when all are read.

    Args:
      params: all settings.
      file_prefix: 'train-' or 'validation-'.

    Raises:
      UserError: as `of_files`, or there are no files.
    """
    if not params["skip_bad_images"] or not records.has_files(params["data_dir"]):
        return None
    paths = records.list_files(params["data_dir"], file_prefix, params)
    return of_files(params, file_prefix, records.states(paths))


def of_files(
    params: Mapping[str, Any], file_prefix: str, states: Sequence[records.FileState]
) -> GoodRecords:
    """Returns the good records of files, from the list in model_dir or else from a scan.

    Args:
      params: all settings.
      file_prefix: 'train-' or 'validation-': the name of the split in the list.
      states: of all files of the split; at least one.

    Raises:
      UserError: a label is out of range, which is not damage; or a file is cut short, so that
        nobody knows how many records are lost; or no good record is left; or the list cannot be
        written to model_dir.
    """
    model_dir = params["model_dir"]
    known = _load(model_dir)
    if file_prefix in known and known[file_prefix].files == tuple(states):
        return known[file_prefix]
    # The scan may take an hour: a folder that cannot hold its list is found out before it.
    files.make_writable_dir(model_dir, "model_dir")
    paths = [state.path for state in states]
    form = examples.record_format(params)
    found = scan.scan(paths, params["num_label_classes"], f"look at {file_prefix}*", form)
    _check_kept(found)
    good = GoodRecords(
        tuple(segment for one in found for segment in one.segments),
        tuple(problem for one in found for problem in one.unreadable),
        tuple(states),
    )
    if not good.num_records:
        raise records.no_record(paths)
    if not good.segments:
        raise UserError(f"{file_prefix}*: no record is good; the first: {good.problems[0]}")
    _log(f"{file_prefix}*", good, model_dir)
    _save(model_dir, {**known, file_prefix: good})
    return good


def _check_kept(found: Sequence[scan.FileScan]) -> None:
    """UserError for what must not be left out in silence: labels, and the rest of a file."""
    for mislabelled in (problem for one in found for problem in one.mislabelled):
        raise UserError(str(mislabelled))
    for cut in (one for one in found if one.broken_off):
        raise UserError(
            f"{cut.path}, record {cut.num_records - 1}: the file is cut short or damaged here, and "
            "what follows cannot be counted: copy the file again (--skip_bad_images leaves out bad "
            "records, not the rest of a file)."
        )


def _log(name: str, good: GoodRecords, model_dir: str) -> None:
    if not good.problems:
        logging.info("%s: all %d records are good.", name, good.num_records)
        return
    logging.info(
        "%s: %d of %d records are bad and will be left out (%s lists them):",
        name, len(good.problems), good.num_records, os.path.join(model_dir, FILE_NAME),
    )  # fmt: skip
    for problem in good.problems[:SHOWN]:
        logging.info("  %s", problem)


def _load(model_dir: str) -> dict[str, GoodRecords]:
    path = os.path.join(model_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return {}
    remedy = "remove it to have the records looked at again"
    return files.read_json(path, "a list of bad images", remedy, _checked)


def _checked(content: Any) -> dict[str, GoodRecords]:
    if not isinstance(content, dict):
        raise TypeError("it is not a mapping")
    return {key: _checked_split(files.member(content, key, dict)) for key in content}


def _checked_split(content: Mapping[str, Any]) -> GoodRecords:
    states = [records.FileState(*row) for row in _rows(content, "files", (str, int, int))]
    segments = [Segment(*row) for row in _rows(content, "segments", (str, int, int, int))]
    problems = []
    for problem in files.member(content, "problems", list):
        files.member(problem, "path", str)
        files.member(problem, "record", int)
        files.member(problem, "reason", str)
        files.member(problem, "offset", int, type(None))
        problems.append(Problem(**problem))
    return GoodRecords(tuple(segments), tuple(problems), tuple(states))


def _rows(content: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> list[list[Any]]:
    rows = files.member(content, key, list)
    for row in rows:
        if not isinstance(row, list) or tuple(map(type, row)) != kinds:
            raise TypeError(f"{key} has the row {row!r:.60}")
    return rows


def _save(model_dir: str, splits: dict[str, GoodRecords]) -> None:
    content = {
        key: {
            "problems": [dataclasses.asdict(problem) for problem in split.problems],
            "segments": [dataclasses.astuple(segment) for segment in split.segments],
            "files": split.files,
        }
        for key, split in splits.items()
    }
    files.write_json(os.path.join(model_dir, FILE_NAME), content, indent=1)
