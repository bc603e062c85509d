"""Says what a data set's files are: names, items, items without a record, what tells sets apart.

A file NAME of a data set passes through these names in the output folder:

  NAME.tmp-<random>  is being written;
  NAME.tmp-done      is finished; NAME.tmp-made tells what it was made from and what it holds;
  NAME               is published, after all are finished; dataset_info.json comes last.

So nobody reads half a data set: `records.list_files` leaves out names with ".tmp-".
`utils.data.shard_writer` writes the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

import utils.base.tensorflow_version  # noqa: F401
from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.base.version import __version__
from utils.reading import dataset_info, labels, records
from utils.reading.dataset_info import DatasetInfo

import tensorflow.compat.v1 as tf  # isort: skip

PREFIXES = records.SPLIT_PREFIXES
TRAIN, VALIDATION = PREFIXES
UNREADABLE_FILE_NAME = "unreadable.txt"
MAX_BAD_SHARE = 0.01
_LOGGED = 20  # unreadable pictures named in the log; the file names all
TEMPORARY, DONE, MADE = ".tmp-", ".tmp-done", ".tmp-made"
_OURS = re.compile(
    rf"(({'|'.join(PREFIXES.values())})\d+-of-\d+|{dataset_info.FILE_NAME}|{labels.FILE_NAME}"
    rf"|{UNREADABLE_FILE_NAME})({TEMPORARY}.*)?"
)


class Item(NamedTuple):
    """What one record is made from.

    Attributes:
      key: identifies the item, such as the picture's path below the input folder.
      label: 1-based.
      stamp: changes when the item changes.
    """

    key: str
    label: int
    stamp: tuple[int, ...] = ()


class Shard(NamedTuple):
    """A file of the data set, with the items of its records in order."""

    name: str
    items: Sequence[Item]


class Made(NamedTuple):
    """A serialized example, and why its picture is not the original one (None if it is)."""

    example: bytes
    changed: str | None = None


def file_name(split: str, number: int, count: int) -> str:
    """Returns the name of one of a split's `count` files; numbers start at 0."""
    return f"{PREFIXES[split]}{number:05d}-of-{count:05d}"


def is_in(name: str, split: str) -> bool:
    """Says whether a file of this name belongs to a split."""
    return name.startswith(PREFIXES[split])


def split(name: str, items: Sequence[Item], count: int) -> list[Shard]:
    """Cuts a split's items into `count` files of equal size, in order.

    There are never more files than items, but at least one file.
    """
    count = max(1, min(count, len(items)))
    ends = [len(items) * number // count for number in range(count + 1)]
    return [
        Shard(file_name(name, number, count), items[ends[number] : ends[number + 1]])
        for number in range(count)
    ]


def builder(command: str, **arguments: object) -> str:
    """Returns the text of `DatasetInfo.builder`: program, version and what determines the bytes."""
    text = "".join(f" --{name}={value}" for name, value in arguments.items())
    return f"mnasnet-data {command} {__version__}{text}"


def describe(
    name: str,
    builder: str,
    label_names: Sequence[str] = (),
    features: Sequence[str] = DatasetInfo.features,
) -> DatasetInfo:
    """Returns the description of a data set that is not yet built: without counts."""
    return DatasetInfo(
        name=name,
        num_train_images=0,
        num_eval_images=0,
        num_label_classes=len(label_names),
        label_names=tuple(label_names),
        features=tuple(features),
        builder=builder,
    )


def recipe(info: DatasetInfo) -> tuple[str, ...]:
    """Returns what tells two data sets apart: name and builder without the version."""
    words = info.builder.split(" ")
    return (info.name, *words[:2], *words[3:])


def summary(info: DatasetInfo) -> str:
    """Returns the counts of a data set as the log shows them."""
    return (
        f"{info.num_train_images} images for training, {info.num_eval_images} for evaluation, "
        f"{info.num_label_classes} classes"
    )


def is_finished(output_dir: str, description: DatasetInfo) -> bool:
    """Says whether the folder holds this data set, complete; logs what is there or missing.

    Raises:
      UserError: the folder holds another data set.
    """
    info = dataset_info.load(output_dir)
    if info is None:
        return False
    if recipe(info) != recipe(description):
        raise UserError(
            f"--output_dir={output_dir} holds another data set ({info.name!r} by {info.builder!r}; "
            f"this is {description.name!r} by {description.builder!r}): choose another folder or "
            "delete that one."
        )
    damaged = dataset_info.damaged_files(info, output_dir)
    if damaged:
        logging.info(
            "%s lacks %d of its %d files, such as %s: building them again.",
            output_dir, len(damaged), len(info.shards), damaged[0],
        )  # fmt: skip
        return False
    _clean_up_after_kill(output_dir)
    logging.info(
        "%s is there already: %s. To build it from changed input, delete it first.",
        output_dir, summary(info),
    )  # fmt: skip
    return True


def _clean_up_after_kill(output_dir: str) -> None:
    """Removes what a build leaves that is killed after the data set is finished."""
    found = names(output_dir)
    temporary = [name for name in found if is_ours(name) and TEMPORARY in name]
    if temporary or folder_lock.FILE_NAME in found:
        with folder_lock.hold(output_dir, "output_dir", "build"):  # removes its file at the end
            for name in temporary:
                tf.io.gfile.remove(os.path.join(output_dir, name))


def names(folder: str) -> set[str]:
    """Returns the names of all that is in a folder."""
    return {*files.names(folder)}


def is_ours(name: str) -> bool:
    """Says whether a file of this name is part of a data set, finished or not."""
    return _OURS.fullmatch(name) is not None


def is_published(name: str) -> bool:
    """Says whether training or evaluation would read a file of this name."""
    return name.startswith(tuple(PREFIXES.values())) and TEMPORARY not in name


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


def list_unreadable(
    output_dir: str, plan: Sequence[Shard], found: Sequence[UnreadableItem]
) -> None:
    """Lists unreadable items in unreadable.txt, and the first of them in the log."""
    path = _list_path(output_dir)
    lines = "".join(f"{item.key}\t{item.reason}\n" for item in sorted(found, key=lambda i: i.key))
    files.write_text(path, lines.encode("utf-8", "replace").decode())
    for item in found[:_LOGGED]:
        logging.info("Unreadable: %s: %s.", item.key, item.reason)
    total = _count(plan)
    logging.info("%d of %d pictures are unreadable; %s lists them.", len(found), total, path)


def check_unreadable(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    found: Sequence[UnreadableItem],
    max_bad_share: float,
) -> None:
    """Checks that a data set is of use without its unreadable items.

    Raises:
      UserError: more than the share `max_bad_share` are unreadable, or all of a class in a split.
    """
    total = _count(plan)
    share = len(found) / total
    if share > max_bad_share:
        raise UserError(
            f"{len(found)} of {total} pictures ({share:.1%}) are unreadable, such as "
            f"{found[0].key} ({found[0].reason}): repair or remove the pictures that "
            f"{_list_path(output_dir)} lists, or allow more than --max_bad_share={max_bad_share:g}."
        )
    lost = {(item.shard.name, item.place) for item in found}
    for split in PREFIXES:
        _check_classes(description, plan, split, lost)


def _check_classes(description, plan, split: str, lost: set[tuple[str, int]]) -> None:
    """Raises UserError for a class of which nothing is readable in a split."""
    wanted: set[int] = set()
    left: set[int] = set()
    for shard in plan:
        if is_in(shard.name, split):
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


def _list_path(output_dir: str) -> str:
    return os.path.join(output_dir, UNREADABLE_FILE_NAME)
