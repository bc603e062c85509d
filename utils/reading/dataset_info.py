"""Reads, writes and checks `dataset_info.json`, which describes the TFRecords next to it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import labels, records

FILE_NAME = "dataset_info.json"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Describes a data set.

    Attributes:
      name: name of the data set.
      num_train_images: number of records in the `train-*` files.
      num_eval_images: number of records in the `validation-*` files.
      num_label_classes: number of classes; labels in the files are 1..num_label_classes.
      label_names: one name for each class, in order; empty if unknown.
      shards: number of records by file name; empty if unknown.
      shard_bytes: size in bytes by file name; empty if unknown.
      features: names of the records' features.
      builder: name and version of the program that wrote the files.
      images_by_class: number of records of each class, in order, by split ('train',
        'validation'); empty if unknown.
    """

    name: str
    num_train_images: int
    num_eval_images: int
    num_label_classes: int
    label_names: tuple[str, ...] = ()
    shards: dict[str, int] = dataclasses.field(default_factory=dict)
    shard_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    features: tuple[str, ...] = ("image/encoded", "image/class/label")
    builder: str = ""
    images_by_class: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def write(self, data_dir: str) -> None:
        """Writes dataset_info.json and, if the names are known, labels.txt."""
        if self.label_names:
            labels.write(data_dir, self.label_names)
        files.write_json(os.path.join(data_dir, FILE_NAME), dataclasses.asdict(self))


def load(data_dir: str | None) -> DatasetInfo | None:
    """Reads the description in a folder; returns None if there is none.

    Raises:
      UserError: dataset_info.json is not a description of a data set.
    """
    if data_dir is None or not records.has_files(data_dir):
        return None
    path = os.path.join(data_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "correct it, or copy the data set again"
    return files.read_json(path, "a data set description", remedy, _checked)


def label_names(data_dir: str | None) -> list[str]:
    """Returns the names of the classes of a data set, in order; empty if they are unknown."""
    info = load(data_dir)
    return list(info.label_names) if info else []


def _checked(content: Any) -> DatasetInfo:
    known: dict[str, Any] = {"name": files.member(content, "name", str)}
    for key in ("num_train_images", "num_eval_images", "num_label_classes"):
        known[key] = _count(content, key)
    for key in {"label_names", "features"} & set(content):
        known[key] = _texts(content, key)
    for key in {"shards", "shard_bytes"} & set(content):
        numbers = files.member(content, key, dict)
        known[key] = {name: _count(numbers, name) for name in numbers}
    if "builder" in content:
        known["builder"] = files.member(content, "builder", str)
    if "images_by_class" in content:
        counts = files.member(content, "images_by_class", dict)
        known["images_by_class"] = {split: _counts(counts, split) for split in counts}
    info = DatasetInfo(**known)
    if info.label_names and len(info.label_names) != info.num_label_classes:
        raise ValueError(
            f"it has {len(info.label_names)} label_names for num_label_classes="
            f"{info.num_label_classes}"
        )
    for split, counts in info.images_by_class.items():
        if len(counts) != info.num_label_classes:
            raise ValueError(
                f"it has {len(counts)} counts under images_by_class, {split}, for "
                f"num_label_classes={info.num_label_classes}"
            )
    return info


def _count(mapping: Any, key: str) -> int:
    number = files.member(mapping, key, int)
    if number < 0:
        raise ValueError(f"{key} is {number}, which is not a count")
    return number


def _counts(mapping: Any, key: str) -> tuple[int, ...]:
    numbers = files.member(mapping, key, list)
    return tuple(_count({key: number}, key) for number in numbers)


def _texts(mapping: Any, key: str) -> tuple[str, ...]:
    texts = files.member(mapping, key, list)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{key} are not all texts")
    return tuple(texts)


def damaged_files(info: DatasetInfo, data_dir: str) -> list[str]:
    """Returns the names of listed files that are missing or have another size, sorted."""
    there = {*files.names(data_dir)}
    paths = [os.path.join(data_dir, name) for name in sorted(info.shards) if name in there]
    sizes = {os.path.basename(s.path): s.size for s in records.states(paths)} if paths else {}
    return [
        name
        for name in sorted(info.shards)
        if name not in sizes or sizes[name] != info.shard_bytes.get(name, sizes[name])
    ]


def check_files(info: DatasetInfo, file_prefix: str, paths: list[str], num_images: int) -> None:
    """Checks that the files of a split are those that the description lists.

    Sizes are compared and contents are not, so that 1,024 files take a fraction of a second.

    Args:
      info: the description.
      file_prefix: the split, `records.TRAIN_PREFIX` or `records.EVAL_PREFIX`.
      paths: paths of the split's files that were found.
      num_images: number of images in the split, as the description says.

    Raises:
      UserError: a file is missing, is not listed or has another size, or the counts do not agree.
    """
    folder = os.path.dirname(paths[0])
    listed = {name: n for name, n in info.shards.items() if name.startswith(file_prefix)}
    description = os.path.join(folder, FILE_NAME)
    again = "copy the data set again, or build it again"
    found = {os.path.basename(path) for path in paths}
    if listed and found != set(listed):
        missing, extra = sorted(set(listed) - found), sorted(found - set(listed))
        raise UserError(
            f"{folder} lacks {missing[0]}, which {FILE_NAME} lists ({len(missing)} files are "
            f"missing): {again}."
            if missing
            else f"{folder} has {extra[0]}, which {FILE_NAME} does not list ({len(extra)} files "
            "too many): remove it, or build the data set again."
        )
    for state in records.states(paths) if info.shard_bytes else ():
        expected = info.shard_bytes.get(os.path.basename(state.path), state.size)
        if state.size != expected:
            raise UserError(
                f"{state.path} has {state.size} bytes but {FILE_NAME} says {expected}: {again}."
            )
    total = sum(listed.values()) if listed else records.count(paths)
    if total is not None and total != num_images:
        raise UserError(
            f"{description} says {num_images} images for {file_prefix}* but the files hold {total}:"
            " correct it, or build the data set again."
        )
