"""Says what the finished files of a data set hold, and checks that the data set is of use so."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.building import shards
from utils.building.shards import PREFIXES, UNREADABLE_FILE_NAME, Shard
from utils.reading.dataset_info import DatasetInfo

_LOGGED = 20  # unreadable pictures named in the log; the file names all


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What a finished file holds.

    Attributes:
      fingerprint: of all that determines the file's bytes.
      records: number of records.
      num_bytes: size of the file.
      unreadable: (place among the shard's items, reason) of items that gave no record.
      changed: reason -> number of pictures that were encoded anew.
    """

    fingerprint: str
    records: int
    num_bytes: int
    unreadable: list[tuple[int, str]]
    changed: dict[str, int]


Reports = dict[str, FileReport]  # by the name of the file


def parse(content: Any) -> FileReport:
    """Returns the report in parsed JSON; raises what `files.read_json` expects for any other."""
    pairs = files.member(content, "unreadable", list)
    changed = files.member(content, "changed", dict)
    return FileReport(
        fingerprint=files.member(content, "fingerprint", str),
        records=files.member(content, "records", int),
        num_bytes=files.member(content, "num_bytes", int),
        unreadable=[(int(place), str(reason)) for place, reason in pairs],
        changed={kind: files.member(changed, kind, int) for kind in changed},
    )


class _Unreadable(NamedTuple):
    """An item of a shard that gave no record.

    Attributes:
      shard: the file that lacks the item.
      place: of the item among the shard's items.
      reason: why it cannot be read.
    """

    shard: Shard
    place: int
    reason: str

    @property
    def key(self) -> str:
        """The item's key."""
        return self.shard.items[self.place].key


def lacking(reports: Reports) -> set[str]:
    """Returns the names of the files that lack records of unreadable items."""
    return {name for name, report in reports.items() if report.unreadable}


def check(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    reports: Reports,
    max_bad_share: float,
) -> None:
    """Checks that a data set is of use without its unreadable items, and lists these.

    They are listed in unreadable.txt, and the first of them in the log.

    Args:
      output_dir: folder of the data set.
      description: of the data set.
      plan: all its files.
      reports: of all its files.
      max_bad_share: more unreadable items than this share are an error.

    Raises:
      UserError: more than the share `max_bad_share` are unreadable, or all of a class in a split.
    """
    found = [
        _Unreadable(shard, place, reason)
        for shard in plan
        for place, reason in reports[shard.name].unreadable
    ]
    if not found:
        return
    path = os.path.join(output_dir, UNREADABLE_FILE_NAME)
    total = sum(len(shard.items) for shard in plan)
    _list(path, found, total)
    share = len(found) / total
    if share > max_bad_share:
        raise UserError(
            f"{len(found)} of {total} pictures ({share:.1%}) are unreadable, such as "
            f"{found[0].key} ({found[0].reason}): repair or remove the pictures that {path} lists, "
            f"or allow more than --max_bad_share={max_bad_share:g}."
        )
    lost = {(item.shard.name, item.place) for item in found}
    for split in PREFIXES:
        _check_classes(description, plan, split, lost)


def _list(path: str, found: Sequence[_Unreadable], total: int) -> None:
    """Writes unreadable items to a file, and the first of them to the log."""
    lines = "".join(f"{item.key}\t{item.reason}\n" for item in sorted(found, key=lambda i: i.key))
    files.write_text(path, lines.encode("utf-8", "replace").decode())
    for item in found[:_LOGGED]:
        logging.info("Unreadable: %s: %s.", item.key, item.reason)
    logging.info("%d of %d pictures are unreadable; %s lists them.", len(found), total, path)


def _check_classes(description, plan, split: str, lost: set[tuple[str, int]]) -> None:
    """Raises UserError for a class of which nothing is readable in a split."""
    wanted: set[int] = set()
    left: set[int] = set()
    for shard in plan:
        if shards.is_in(shard.name, split):
            for place, item in enumerate(shard.items):
                wanted.add(item.label)
                if (shard.name, place) not in lost:
                    left.add(item.label)
    if wanted - left:
        name = description.label_names[min(wanted - left) - 1]
        raise UserError(
            f"No picture of class {name!r} is readable for {split}: repair its pictures or remove "
            "the class."
        )


def conclude(
    output_dir: str, description: DatasetInfo, plan: Sequence[Shard], reports: Reports
) -> DatasetInfo:
    """Writes dataset_info.json and labels.txt next to the published files, and logs the counts.

    Returns:
      The description as written, with counts and files.
    """
    info = _filled_in(description, plan, reports)
    info.write(output_dir)
    _log_changed(reports.values())
    logging.info("%s: %s.", output_dir, shards.summary(info))
    return info


def _filled_in(description: DatasetInfo, plan: Sequence[Shard], reports: Reports) -> DatasetInfo:
    """Returns the description with counts and files."""

    def count(split: str) -> int:
        return sum(report.records for name, report in reports.items() if shards.is_in(name, split))

    by_class = {split: [0] * description.num_label_classes for split in PREFIXES}
    for shard in plan:
        (counts,) = (by_class[split] for split in PREFIXES if shards.is_in(shard.name, split))
        lost = {place for place, _ in reports[shard.name].unreadable}
        for place, item in enumerate(shard.items):
            counts[item.label - 1] += place not in lost
    return dataclasses.replace(
        description,
        num_train_images=count(shards.TRAIN),
        num_eval_images=count(shards.VALIDATION),
        images_by_class={split: tuple(counts) for split, counts in by_class.items()},
        shards={name: reports[name].records for name in sorted(reports)},
        shard_bytes={name: reports[name].num_bytes for name in sorted(reports)},
    )


def _log_changed(reports: Iterable[FileReport]) -> None:
    """Logs how many pictures were encoded anew, and why."""
    changed: collections.Counter[str] = collections.Counter()
    for report in reports:
        changed.update(report.changed)
    if changed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(changed.items()))
        logging.info("%d pictures were encoded anew: %s.", changed.total(), kinds)
