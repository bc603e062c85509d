"""Says what the tasks of one build have to agree on, and names the first difference of two tasks.

Times of change are left out, because each machine may have a copy of the pictures of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from utils.base import files
from utils.building import shards
from utils.building.shards import PREFIXES, Shard
from utils.reading.dataset_info import DatasetInfo


@dataclasses.dataclass(frozen=True)
class _Class:
    """The pictures of a class in a split.

    Attributes:
      name: of the class.
      pictures: number of pictures.
      digest: of their paths and, where these are known, their sizes.
    """

    name: str
    pictures: int
    digest: str


@dataclasses.dataclass(frozen=True)
class TaskInput:
    """What a task was given.

    Attributes:
      name: of the data set.
      builder: program, version and flags, as in `DatasetInfo.builder`.
      classes: split -> its classes, in the order of their labels.
    """

    name: str
    builder: str
    classes: dict[str, list[_Class]]


def describe(description: DatasetInfo, plan: Sequence[Shard]) -> TaskInput:
    """Returns what a task was given, from the description and all files of the data set."""
    return TaskInput(
        name=description.name,
        builder=description.builder,
        classes={split: _classes(description, plan, split) for split in PREFIXES},
    )


def _classes(description: DatasetInfo, plan: Sequence[Shard], split: str) -> list[_Class]:
    """Returns the classes of a split."""
    items: list[list[tuple[Any, ...]]] = [[] for _ in description.label_names]
    for shard in plan:
        if shards.is_in(shard.name, split):
            for item in shard.items:
                items[item.label - 1].append((item.key, *item.stamp[:1]))
    return [
        _Class(name, len(found), _digest(found))
        for name, found in zip(description.label_names, items, strict=True)
    ]


def _digest(items: list[tuple[Any, ...]]) -> str:
    return hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()[:16]


def difference(here: TaskInput, there: TaskInput) -> str | None:
    """Returns a clause that names what differs between this task and another; None if nothing."""
    if here.builder != there.builder:
        return f"the command is {here.builder!r} here and {there.builder!r} there"
    if here.name != there.name:
        return (
            f"the name of the data set, which --name sets, is {here.name!r} here and "
            f"{there.name!r} there"
        )
    for split in PREFIXES:
        found = _difference(split, here.classes[split], there.classes[split])
        if found:
            return found
    return None


def _difference(split: str, here: list[_Class], there: list[_Class]) -> str | None:
    """Returns a clause that names the first difference of a split's classes."""
    names, others = [c.name for c in here], [c.name for c in there]
    if names != others:
        for place, found, missing in (("here", names, others), ("there", others, names)):
            only = sorted(set(found) - set(missing))
            if only:
                return f"the class {only[0]!r} is only {place}"
        return "the classes have another order here than there"
    for ours, theirs in zip(here, there, strict=True):
        if ours.pictures != theirs.pictures:
            return (
                f"class {ours.name!r} has {ours.pictures} pictures for {split} here and "
                f"{theirs.pictures} there"
            )
        if ours.digest != theirs.digest:
            return (
                f"the pictures of class {ours.name!r} for {split} have other names or sizes here "
                "than there"
            )
    return None


def parse(content: Any) -> TaskInput:
    """Returns what parsed JSON describes; raises what `files.read_json` expects for any other."""
    splits = files.member(content, "classes", dict)
    return TaskInput(
        name=files.member(content, "name", str),
        builder=files.member(content, "builder", str),
        classes={
            split: [
                _Class(
                    name=files.member(found, "name", str),
                    pictures=files.member(found, "pictures", int),
                    digest=files.member(found, "digest", str),
                )
                for found in files.member(splits, split, list)
            ]
            for split in PREFIXES
        },
    )
