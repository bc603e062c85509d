"""Says what a data set's files are: names, items, what tells one data set from another.

A file NAME of a data set passes through these names in the output folder:

  NAME.tmp-<random>  is being written;
  NAME.tmp-done      is finished; NAME.tmp-made tells what it was made from and what it holds;
  NAME               is published, after all are finished; dataset_info.json comes last.

So nobody reads half a data set: `records.list_files` leaves out names with ".tmp-".
`utils.building.shard_writer` writes the files. If several tasks build a data set, each has a folder
of its own for the first two names (`utils.building.tasks`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from absl import logging

from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.base.version import __version__
from utils.reading import dataset_info, labels, records
from utils.reading.dataset_info import DatasetInfo

PREFIXES = records.SPLIT_PREFIXES
TRAIN, VALIDATION = PREFIXES
UNREADABLE_FILE_NAME = "unreadable.txt"
MAX_BAD_SHARE = 0.01
TEMPORARY, DONE, MADE = ".tmp-", ".tmp-done", ".tmp-made"
TASKS_DIR = "tasks.tmp"  # the folder of the tasks' folders, next to the files
_OURS = re.compile(
    rf"(({'|'.join(PREFIXES.values())})\d+-of-\d+|{dataset_info.FILE_NAME}|{labels.FILE_NAME}"
    rf"|{UNREADABLE_FILE_NAME})({TEMPORARY}.*)?"
)


class Item(NamedTuple):
    """What one record is made from.

    Attributes:
      key: identifies the item, such as the picture's path below the input folder.
      label: 1-based.
      stamp: changes when the item changes; its first number is the size in bytes, if known.
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


def finished(output_dir: str, description: DatasetInfo) -> DatasetInfo | None:
    """Returns what describes this data set if the folder holds it, complete; else None.

    Raises:
      UserError: the folder holds another data set.
    """
    info = _described(output_dir, description)
    return None if info is None or dataset_info.damaged_files(info, output_dir) else info


def is_finished(output_dir: str, description: DatasetInfo) -> bool:
    """Says whether the folder holds this data set, complete; logs what is there or missing.

    Raises:
      UserError: the folder holds another data set.
    """
    info = _described(output_dir, description)
    if info is None:
        return False
    damaged = dataset_info.damaged_files(info, output_dir)
    if damaged:
        logging.info(
            "%s lacks %d of its %d files, such as %s.",
            output_dir, len(damaged), len(info.shards), damaged[0],
        )  # fmt: skip
        return False
    _clean_up_after_kill(output_dir)
    log_there(output_dir, info)
    return True


def _described(output_dir: str, description: DatasetInfo) -> DatasetInfo | None:
    """Returns what describes this data set in a folder; UserError if that is another data set."""
    info = dataset_info.load(output_dir)
    if info and recipe(info) != recipe(description):
        raise UserError(
            f"--output_dir={output_dir} holds another data set ({info.name!r} by {info.builder!r}; "
            f"this is {description.name!r} by {description.builder!r}): choose another folder or "
            "delete that one."
        )
    return info


def log_there(output_dir: str, info: DatasetInfo) -> None:
    """Logs that a folder holds the data set already."""
    logging.info(
        "%s is there already: %s. To build it from changed input, delete it first.",
        output_dir, summary(info),
    )  # fmt: skip


def _clean_up_after_kill(output_dir: str) -> None:
    """Removes what a build leaves that is killed after the data set is finished."""
    found = names(output_dir)
    useless = [name for name in found if is_ours(name) and TEMPORARY in name]
    useless += [TASKS_DIR] * (TASKS_DIR in found)
    if useless or folder_lock.FILE_NAME in found:
        with (
            contextlib.suppress(folder_lock.Held),  # another program removes it
            folder_lock.hold(output_dir, "output_dir", "build"),  # removes its file at the end
        ):
            for name in useless:
                files.remove(os.path.join(output_dir, name))


def names(folder: str) -> set[str]:
    """Returns the names of all that is in a folder."""
    return {*files.names(folder)}


def is_ours(name: str) -> bool:
    """Says whether a file of this name is part of a data set, finished or not."""
    return _OURS.fullmatch(name) is not None


def is_shard(name: str) -> bool:
    """Says whether a file of this name belongs to a split, finished or not."""
    return name.startswith(tuple(PREFIXES.values()))


def is_published(name: str) -> bool:
    """Says whether training or evaluation would read a file of this name."""
    return is_shard(name) and TEMPORARY not in name


def check_no_foreign(output_dir: str, foreign: Iterable[str]) -> None:
    """Raises UserError for files that training would read but that are not of this build."""
    for name in sorted(foreign):
        raise UserError(
            f"--output_dir={output_dir} holds {name}, which is not of this build: choose another "
            "folder or delete it."
        )
