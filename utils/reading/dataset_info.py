"""Reads, writes and checks what describes a data set: dataset_info.json and labels.txt."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError, quoted
from utils.base.tensorflow_version import tf
from utils.reading import records

LABELS_FILE = "labels.txt"
IMAGENET_FILE = os.path.join(os.path.dirname(__file__), "imagenet_labels.txt")
UNEQUAL = 10  # how many times the smallest class the largest may be without a word


def write_labels(folder: str, names: Iterable[str]) -> None:
    """Writes labels.txt into a folder, one name a line in the order of the classes."""
    files.write_text(os.path.join(folder, LABELS_FILE), "".join(f"{n}\n" for n in names))


def read_labels(source: str, num_classes: int) -> list[str]:
    """Reads the names of classes.

    Args:
      source: path of a file with one name a line; 'imagenet' stands for ImageNet's 1000 names,
        which ship with the package.
      num_classes: number of names that there must be.

    Raises:
      UserError: the file cannot be read, or has another number of names.
    """
    path = IMAGENET_FILE if source == "imagenet" else source
    lines = files.read_text(path).splitlines()
    if source == "imagenet":
        lines = [line.partition("\t")[2] for line in lines]
    if len(lines) != num_classes:
        raise UserError(
            f"--labels={source} has {len(lines)} names for {num_classes} classes: name the file "
            "that belongs to these weights."
        )
    return lines


class Comparison(NamedTuple):
    """What the names of classes tell of a model and a data set.

    Attributes:
      order: for each class of the data set, its index in the model; None if the labels fit as they
        are, because the names are equal or not known, or if `difference` says why none fits.
      difference: a sentence about the first class of each that the other lacks; None if the model
        has all classes of the data set.
    """

    order: tuple[int, ...] | None = None
    difference: str | None = None


def compare_names(of_model: Sequence[str], of_data: Sequence[str]) -> Comparison:
    """Compares the names of a model's classes with those of a data set, which may lack some.

    A name that the model does not have may still be written otherwise (Unicode form, capitals,
    underscores for spaces), or be another name of a class of ImageNet, such as its synset.

    Args:
      of_model: names in the order of the model's outputs; empty if they are unknown.
      of_data: names in the order of the data set's labels; empty if they are unknown.
    """
    if not of_model or not of_data or list(of_model) == list(of_data):
        return Comparison()
    exact = _candidates(of_model, of_data, _exact_forms)
    if _is_clear(exact):
        return _in_order(exact, of_model)
    if len(of_model) == len(of_data) and all(
        _loose_forms(ours) & _loose_forms(theirs)
        for ours, theirs in zip(of_model, of_data, strict=True)
    ):
        return Comparison()
    loose = _candidates(of_model, of_data, _loose_forms)
    found = [indices or others for indices, others in zip(exact, loose, strict=True)]
    if _is_clear(found):
        return _in_order(found, of_model)
    return Comparison(difference=_difference(of_model, of_data, found))


def _candidates(
    of_model: Sequence[str], of_data: Sequence[str], forms: Callable[[str], set[str]]
) -> list[set[int]]:
    """Returns for each class of the data set the indices of the model's classes it may be."""
    places = collections.defaultdict(set)
    for index, name in enumerate(of_model):
        for form in forms(name):
            places[form].add(index)
    return [{index for form in forms(name) for index in places[form]} for name in of_data]


def _is_clear(found: list[set[int]]) -> bool:
    """Whether each class of the data set is one of the model, and no two are the same."""
    return all(len(indices) == 1 for indices in found) and len(set.union(*found)) == len(found)


def _in_order(found: list[set[int]], of_model: Sequence[str]) -> Comparison:
    order = tuple(index for indices in found for index in indices)
    return Comparison(None if order == tuple(range(len(of_model))) else order)


def _exact_forms(name: str) -> set[str]:
    return {unicodedata.normalize("NFC", name)}


def _loose_forms(name: str) -> set[str]:
    loose = _loose(name)
    return {loose, *_synsets().get(loose, ())}


def _loose(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


@functools.cache
def _synsets() -> dict[str, set[str]]:
    """Returns the synsets of ImageNet's classes by all their names."""
    found = collections.defaultdict(set)
    for line in files.read_text(IMAGENET_FILE).splitlines():
        synset, _, names = line.partition("\t")
        for name in (synset, names, *names.split(", ")):
            found[_loose(name)].add(synset)
    return dict(found)


def _difference(of_model: Sequence[str], of_data: Sequence[str], found: list[set[int]]) -> str:
    """Returns the first class of each that the other lacks, in words."""
    known = [index for indices in found for index in indices]
    lacking = [name for name, indices in zip(of_data, found, strict=True) if not indices]
    if not lacking:
        unclear = next(
            name
            for name, indices in zip(of_data, found, strict=True)
            if len(indices) > 1 or any(known.count(index) > 1 for index in indices)
        )
        return f"it is not clear which class of the model {quoted(unclear)} is"
    words = f"the model has no {quoted(lacking[0])}"
    missing = next((name for i, name in enumerate(of_model) if i not in known), None)
    return words if missing is None else f"{words}, and the data set no {quoted(missing)}"


def class_order(
    of_model: Sequence[str], of_data: Sequence[str], data_dir: str, remedy: str
) -> tuple[int, ...] | None:
    """Returns `Comparison.order`; UserError, with the remedy, if the classes are others."""
    found = compare_names(of_model, of_data)
    if found.difference:
        raise UserError(
            f"--data_dir={data_dir} has other names for its classes than the model: "
            f"{found.difference}: {remedy}."
        )
    return found.order


def log_order(order: Sequence[int] | None, of_model: Sequence[str], data_dir: str) -> None:
    """Logs that labels go by the names of the classes, if `order` says that they do."""
    if order is None:
        return
    lacking = [name for index, name in enumerate(of_model) if index not in order]
    why = "has the classes of the model in another order"
    if lacking:
        why = f"lacks {len(lacking)} of the model's {len(of_model)} classes, such as {lacking[0]!r}"
    logging.info("%s %s: its pictures are assigned by the names of the classes.", data_dir, why)


def unequal_sizes(names: Sequence[str], counts: Sequence[int]) -> str | None:
    """Returns words for classes of very unequal size: the smallest and the largest; else None.

    Args:
      names: of the classes, in order; empty if they are unknown.
      counts: images of each class; classes without any do not count.
    """
    sizes = [(count, number) for number, count in enumerate(counts) if count]
    if not sizes or max(sizes)[0] <= UNEQUAL * min(sizes)[0]:
        return None
    smallest, largest = (
        f"{count} ({quoted(names[number]) if names else f'class {number}'})"
        for count, number in (min(sizes), max(sizes))
    )
    return f"classes are of very unequal size, from {smallest} to {largest} images"


FILE_NAME = "dataset_info.json"
_TFDS_LABELS_FILE = "label.labels.txt"


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
            write_labels(data_dir, self.label_names)
        files.write_json(os.path.join(data_dir, FILE_NAME), dataclasses.asdict(self))


def load(data_dir: str | None) -> DatasetInfo | None:
    """Reads the description in a folder; returns None if there is none.

    What TensorFlow Datasets writes under this name is read, too, if it names classes.

    Raises:
      UserError: dataset_info.json is not a description of a data set.
    """
    if data_dir is None or not records.has_files(data_dir):
        return None
    path = os.path.join(data_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "correct it, or copy the data set again"
    return files.read_json(
        path, "a data set description", remedy, lambda content: _checked(content, data_dir)
    )


def label_names(data_dir: str | None) -> list[str]:
    """Returns the names of the classes of a data set, in order; empty if they are unknown."""
    info = load(data_dir)
    return list(info.label_names) if info else []


def of_run(params: Mapping[str, Any]) -> DatasetInfo | None:
    """Reads the description of a run's data set; it counts the files that the settings name.

    A count is 0 if they name files and none of these is listed.
    """
    info = load(params["data_dir"])
    if info and info.shards and params["train_files"]:
        listed = _listed(info, records.TRAIN_PREFIX, params)
        info = dataclasses.replace(info, num_train_images=sum(listed.values()))
    if info and info.shards and params["eval_files"]:
        listed = _listed(info, records.EVAL_PREFIX, params)
        info = dataclasses.replace(info, num_eval_images=sum(listed.values()))
    return info


def _listed(
    info: DatasetInfo, file_prefix: str, settings: Mapping[str, Any] | None
) -> dict[str, int]:
    return {
        name: count
        for name, count in info.shards.items()
        if records.is_of_split(name, file_prefix, settings)
    }


def _of_tensorflow_datasets(content: Mapping[str, Any], data_dir: str) -> DatasetInfo | None:
    """Returns what TensorFlow Datasets says of a data set; None if it does not name its classes."""
    path = os.path.join(data_dir, _TFDS_LABELS_FILE)
    if not tf.io.gfile.exists(path):
        return None
    names = files.read_text(path).splitlines()
    name = files.member(content, "name", str)
    extension = content.get("fileFormat", "tfrecord")
    there = {*files.names(data_dir)}
    counts: dict[str, int] = {}
    shards: dict[str, int] = {}
    for split in files.member(content, "splits", list):
        lengths = [int(n) for n in split.get("shardLengths", ())]
        counts[split["name"]] = sum(lengths)
        for number, length in enumerate(lengths):
            shard = f"{name}-{split['name']}.{extension}-{number:05}-of-{len(lengths):05}"
            if shard in there:
                shards[shard] = length
    num_eval = counts.get("validation") or counts.get("test", 0)
    return DatasetInfo(
        name,
        counts.get("train", 0),
        num_eval,
        len(names),
        tuple(names),
        shards,
        features=(),
        builder="TensorFlow Datasets",
    )


def _checked(content: Any, data_dir: str) -> DatasetInfo | None:
    if records.is_of_tensorflow_datasets(content):
        return _of_tensorflow_datasets(content, data_dir)
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


def check_files(
    info: DatasetInfo,
    file_prefix: str,
    paths: list[str],
    num_images: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Checks that the files of a split are those that the description lists.

    Sizes are compared and contents are not, so that 1,024 files take a fraction of a second.

    Args:
      info: the description.
      file_prefix: the split, `records.TRAIN_PREFIX` or `records.EVAL_PREFIX`.
      paths: paths of the split's files that were found.
      num_images: number of images in the split, as the description says; 0 if it does not.
      settings: as for `records.list_files`.

    Raises:
      UserError: a file is missing, is not listed or has another size, or the counts do not agree.
    """
    folder = os.path.dirname(paths[0])
    listed = _listed(info, file_prefix, settings)
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
    if total is not None and num_images and total != num_images:
        patterns = ",".join(records.file_patterns(file_prefix, settings))
        raise UserError(
            f"{description} says {num_images} images for {patterns} but the files hold {total}: "
            "correct it, or build the data set again."
        )
