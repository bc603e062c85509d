"""Recognizes splits by the names that people give them, and TFRecord files of other programs."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import examples, framing

_RECORD_FILE = re.compile(r"\.(tfrec(ord)?s?|records?)\b|-\d+-of-\d+")
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# The words by which people name splits: seg_train, Training Set, val2017.
_SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN,
    "validation": VALIDATION, "val": VALIDATION, "valid": VALIDATION,
    "dev": VALIDATION, "eval": VALIDATION, "evaluation": VALIDATION,
    "test": TEST, "testing": TEST,
}  # fmt: skip
# Words that any split's name may have; _SET takes off the ends of trainset and traindata.
_FILLERS = {"", "data", "image", "images", "img", "imgs", "picture", "pictures", "photos", "split"}
_SET = re.compile(r"(set|data)$")
_FIRST_RECORDS = 100  # which show whether labels count from 0


def split_of(name: str) -> tuple[str | None, frozenset[str]]:
    """Returns the split that a folder's name tells, if any, and the words it has besides.

    seg_train is (train, {seg}), and so is Seg-TrainSet 2; val2017 is (validation, {}).
    """
    found = {_SET.sub("", word) for word in words(name) if not word.isdigit()}
    splits = {_SPLIT_WORDS[word] for word in found if word in _SPLIT_WORDS}
    return (
        splits.pop() if len(splits) == 1 else None,
        frozenset(found - _SPLIT_WORDS.keys() - _FILLERS),
    )


def words(name: str) -> list[str]:
    """Returns the words and numbers of a name in lower case: train, set and 2 of TrainSet_2."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def is_of_tensorflow_datasets(description: Any) -> bool:
    """Whether the content of a dataset_info.json is what TensorFlow Datasets writes."""
    return isinstance(description, dict) and isinstance(description.get("splits"), list)


def advice(data_dir: str) -> str | None:
    """Returns a sentence on the records in a folder that lacks the usual files; None without any.

    It names the folder below that has the usual files, or else the flags that read what is there.
    """
    paths = list(_record_files(data_dir))
    names = [os.path.relpath(path, data_dir) for path in paths]
    by_split = collections.defaultdict(list)
    for name in names:
        by_split[split_of(name)[0]].append(name)
    patterns = {
        "train_files": _pattern(by_split[TRAIN]),
        "eval_files": _pattern(by_split[VALIDATION] or by_split[TEST]),
    }
    if not paths:
        return None
    folder, name = os.path.split(patterns["train_files"] or "")
    if name == "train-*":
        return f"name the folder with these files, --data_dir={os.path.join(data_dir, folder)}."
    first = by_split[TRAIN] or names
    found = list(_first_features(os.path.join(data_dir, first[0])))
    if found and examples.is_for_detection(found[0]):
        return (
            f"{first[0]} holds records for object detection, with a label for each box, and a "
            "classifier needs one label a picture."
        )
    of_tfds = _is_tfds_folder(data_dir)
    flags = [f"--{flag}='{pattern or 'PATTERN'}'" for flag, pattern in patterns.items()]
    flags += _format_flags(found, of_tfds)
    if of_tfds:
        return f"{first[0]} is of TensorFlow Datasets: add {' '.join(flags)}."
    return (
        f"{first[0]} is of another program: add {' '.join(flags)} (to a training also "
        "--num_train_images, --num_eval_images and --num_label_classes)."
    )


def _record_files(data_dir: str) -> Iterator[str]:
    """Yields the paths of what seem to be TFRecord files in a folder, and in those below it."""
    for depth in ("*", os.path.join("*", "*")):
        with contextlib.suppress(tf.errors.OpError):
            for path in sorted(tf.io.gfile.glob(os.path.join(data_dir, depth))):
                if _RECORD_FILE.search(os.path.basename(path)) and not tf.io.gfile.isdir(path):
                    yield path


def _pattern(names: Sequence[str]) -> str | None:
    """Returns a pattern of the names, which differ in numbers; None if there are none."""
    if len(names) < 2:
        return names[0] if names else None
    extension = re.search(r"\.[a-z]+$", names[0])
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in same).rstrip("0123456789")
    return f"{start}*{extension[0] if extension else ''}"


def _first_features(path: str) -> Iterator[Mapping[str, Any]]:
    """Yields the features of the first records of a file, as far as they are examples."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        for frame, is_whole in itertools.islice(framing.checked_frames(path), _FIRST_RECORDS):
            found, _ = examples.features(framing.content(path, frame)) if is_whole else ({}, "")
            if not found:
                return
            yield found


def _format_flags(found: Sequence[Mapping[str, Any]], of_tfds: bool) -> list[str]:
    """Returns the flags that describe records as far as they are unlike the published ones."""
    if not found:
        return []
    flags = []
    label_key = examples.LABEL_KEY
    if not {examples.IMAGE_KEY, examples.LABEL_KEY} <= set(found[0]):
        flags.append(examples.keys_flag(found[0]))
        label_key = flags[0].rpartition("=")[2]
    if of_tfds or any(0 in features[label_key].int64_list.value for features in found):
        flags.append("--first_label=0")
    return flags


def _is_tfds_folder(data_dir: str) -> bool:
    path = os.path.join(data_dir, "dataset_info.json")
    with contextlib.suppress(UserError, ValueError):
        return tf.io.gfile.exists(path) and is_of_tensorflow_datasets(
            json.loads(files.read_text(path))
        )
    return False
