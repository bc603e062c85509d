"""Lists the items of a data set that gave no record, and says when they are too many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.data import shards
from utils.data.shards import Shard
from utils.reading.dataset_info import DatasetInfo

MAX_SHARE = 0.01
_LOGGED = 20  # unreadable pictures named in the log; the file names all


class UnreadableItem(NamedTuple):
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


def write_list(output_dir: str, plan: Sequence[Shard], found: Sequence[UnreadableItem]) -> None:
    """Lists unreadable items in unreadable.txt, and the first of them in the log."""
    path = _path(output_dir)
    lines = "".join(f"{item.key}\t{item.reason}\n" for item in sorted(found, key=lambda i: i.key))
    files.write_text(path, lines.encode("utf-8", "replace").decode())
    for item in found[:_LOGGED]:
        logging.info("Unreadable: %s: %s.", item.key, item.reason)
    total = _count(plan)
    logging.info("%d of %d pictures are unreadable; %s lists them.", len(found), total, path)


def check(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    found: Sequence[UnreadableItem],
    max_share: float,
) -> None:
    """Checks that a data set is of use without its unreadable items.

    Raises:
      UserError: more than the share `max_share` are unreadable, or all of a class in a split.
    """
    total = _count(plan)
    share = len(found) / total
    if share > max_share:
        raise UserError(
            f"{len(found)} of {total} pictures ({share:.1%}) are unreadable, such as "
            f"{found[0].key} ({found[0].reason}): repair or remove the pictures that "
            f"{_path(output_dir)} lists, or allow more than --max_bad_share={max_share:g}."
        )
    lost = {(item.shard.name, item.place) for item in found}
    for split in shards.PREFIXES:
        _check_classes(description, plan, split, lost)


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


def _count(plan: Sequence[Shard]) -> int:
    return sum(len(shard.items) for shard in plan)


def _path(output_dir: str) -> str:
    return os.path.join(output_dir, shards.UNREADABLE_FILE_NAME)
