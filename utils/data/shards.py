"""Writes the TFRecord files of a data set: in parallel, resumable, always the same bytes.

A file NAME of the data set passes through these names in the output folder:

  NAME.tmp-<random>  is being written;
  NAME.tmp-done      is finished; NAME.tmp-made tells what it was made from and what it holds;
  NAME               is published, after all are finished; dataset_info.json comes last.

So an interrupted build goes on with the files that are missing, and nobody reads half a data set
(`records.list_files` leaves out names with ".tmp-"). Where files of a finished data set are gone
later, the same command builds these alone, if the input still gives what dataset_info.json says.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging

import utils.base.tensorflow_version  # noqa: F401
from utils.base import files, folder_lock, memory
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.version import __version__
from utils.data.pictures import Unreadable
from utils.reading import dataset_info, labels
from utils.reading.dataset_info import DatasetInfo

import tensorflow.compat.v1 as tf  # isort: skip

TRAIN, VALIDATION = "train", "validation"
UNREADABLE_FILE_NAME = "unreadable.txt"
MAX_BAD_SHARE = 0.01
_TEMPORARY, _DONE, _MADE = ".tmp-", ".tmp-done", ".tmp-made"
_OURS = re.compile(
    rf"(({TRAIN}|{VALIDATION})-\d+-of-\d+|{dataset_info.FILE_NAME}|{labels.FILE_NAME}"
    rf"|{UNREADABLE_FILE_NAME})({_TEMPORARY}.*)?"
)
_LOGGED = 20  # unreadable pictures named in the log; the file names all
# Renaming in a bucket is a request, so many are made at a time.
_REQUESTS = 32


class Item(NamedTuple):
    """What one record is made from.

    Attributes:
      key: names it, such as the picture's path below the input folder.
      label: 1-based.
      stamp: changes when the item does.
    """

    key: str
    label: int
    stamp: tuple[int, ...] = ()


class Shard(NamedTuple):
    """A file of the data set, with what goes into it, in order."""

    name: str
    items: Sequence[Item]


class Made(NamedTuple):
    """A serialized example, and why its picture is not the original one (None if it is)."""

    example: bytes
    changed: str | None = None


@dataclasses.dataclass(frozen=True)
class _Report:
    """What a finished file holds.

    Attributes:
      fingerprint: of all that determines its bytes.
      records: their number.
      num_bytes: size of the file.
      unreadable: [key, reason] of items that gave no record.
      changed: reason -> number of pictures that were encoded anew.
    """

    fingerprint: str
    records: int
    num_bytes: int
    unreadable: list[list[str]]
    changed: dict[str, int]


class _Stopped(Exception):
    """The build is over, for another reason."""


def builder(command: str, **arguments: object) -> str:
    """The text of `DatasetInfo.builder`: program, version, and what determines the bytes."""
    text = "".join(f" --{name}={value}" for name, value in arguments.items())
    return f"mnasnet-data {command} {__version__}{text}"


def describe(
    name: str,
    builder: str,
    label_names: Sequence[str] = (),
    features: Sequence[str] = DatasetInfo.features,
) -> DatasetInfo:
    """The description of a data set that is yet to be built: without counts."""
    return DatasetInfo(
        name=name,
        num_train_images=0,
        num_eval_images=0,
        num_label_classes=len(label_names),
        label_names=tuple(label_names),
        features=tuple(features),
        builder=builder,
    )


def _recipe(info: DatasetInfo) -> tuple[str, ...]:
    """What tells two data sets apart: name and builder, but for the version."""
    words = info.builder.split(" ")
    return (info.name, *words[:2], *words[3:])


def split(prefix: str, items: Sequence[Item], count: int) -> list[Shard]:
    """Cuts items into `count` files of equal size, in order; fewer if there are fewer items."""
    count = max(1, min(count, len(items)))
    ends = [len(items) * number // count for number in range(count + 1)]
    return [
        Shard(f"{prefix}-{number:05d}-of-{count:05d}", items[ends[number] : ends[number + 1]])
        for number in range(count)
    ]


def is_finished(output_dir: str, description: DatasetInfo) -> bool:
    """Whether the folder holds this data set, complete; the log says so, or what is missing.

    Raises:
      UserError: it holds another one.
    """
    info = dataset_info.load(output_dir)
    if info is None:
        return False
    if _recipe(info) != _recipe(description):
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
    for name in _names(output_dir):
        if _is_ours(name) and _TEMPORARY in name:  # the build was killed while it cleaned up
            tf.io.gfile.remove(os.path.join(output_dir, name))
    logging.info(
        "%s is there already: %s. To build it from changed input, delete it first.",
        output_dir, _summary(info),
    )  # fmt: skip
    return True


def _summary(info: DatasetInfo) -> str:
    return (
        f"{info.num_train_images} images for training, {info.num_eval_images} for evaluation, "
        f"{info.num_label_classes} classes"
    )


def build(
    output_dir: str,
    description: DatasetInfo,
    shards: Sequence[Shard],
    make: Callable[[Item], Made],
    max_bad_share: float = MAX_BAD_SHARE,
    num_threads: int | None = None,
) -> DatasetInfo:
    """Writes a data set, goes on with one that was interrupted, or mends one that lacks files.

    Args:
      output_dir: folder or bucket.
      description: of the data set; counts and files are filled in here.
      shards: the files; their names begin with 'train-' or 'validation-'.
      make: makes one record; called from several threads. It raises Unreadable for an item that
        gives none.
      max_bad_share: more unreadable items than this share are an error.
      num_threads: files written at a time; None for two a core.

    Returns:
      The description as written.

    Raises:
      UserError: the folder cannot be written or holds something else, or too much is unreadable;
        finished files are then kept for the next try, but not published. Or files of a finished
        data set are gone, and the input gives others now.
    """
    files.make_writable_dir(output_dir, "output_dir")
    num_threads = num_threads or 2 * memory.cores()
    try:
        with folder_lock.hold(output_dir, "output_dir", "build"):
            known = dataset_info.load(output_dir)
            if known and known.shards and _recipe(known) == _recipe(description):
                return _mend(output_dir, known, description, shards, make, num_threads)
            work = _Work(output_dir, shards, make, _recipe(description))
            reports = work.run(num_threads)
            _check_unreadable(output_dir, description, shards, reports, max_bad_share)
            work.publish()
            info = _filled_in(description, reports)
            info.write(output_dir)
            work.clean_up()
    except tf.errors.OpError as e:
        raise UserError(f"--output_dir={output_dir} cannot be written: {files.reason(e)}.") from e
    changed = sum((collections.Counter(r.changed) for r in reports.values()), collections.Counter())
    if changed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(changed.items()))
        logging.info("%d pictures were encoded anew: %s.", changed.total(), kinds)
    logging.info("%s: %s.", output_dir, _summary(info))
    return info


def _mend(
    output_dir: str,
    info: DatasetInfo,
    description: DatasetInfo,
    shards: Sequence[Shard],
    make: Callable[[Item], Made],
    num_threads: int,
) -> DatasetInfo:
    """Builds the files alone that a finished data set lacks; returns its description.

    Raises:
      UserError: the input gives other files now, which would not go with those that are there.
    """
    damaged = dataset_info.damaged_files(info, output_dir)
    same = {shard.name for shard in shards} == set(info.shards)
    if not same or description.label_names != info.label_names:
        raise _changed_input(output_dir, damaged or sorted(info.shards))
    missing = [shard for shard in shards if shard.name in damaged]
    work = _Work(output_dir, missing, make, _recipe(info), info)
    reports = work.run(num_threads)
    for name, report in reports.items():
        size = info.shard_bytes.get(name, report.num_bytes)
        if (report.records, report.num_bytes) != (info.shards[name], size):
            raise _changed_input(output_dir, [name])
    work.publish()
    work.clean_up()
    logging.info("%s: %d files were built again.", output_dir, len(missing))
    return info


def _changed_input(output_dir: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"--output_dir={output_dir} lacks {names[0]}, and the input gives another file now than "
        "the one it was: delete the folder to build all of it again."
    )


def _filled_in(description: DatasetInfo, reports: dict[str, _Report]) -> DatasetInfo:
    """The description with counts and files."""
    return dataclasses.replace(
        description,
        num_train_images=_count(reports, TRAIN),
        num_eval_images=_count(reports, VALIDATION),
        shards={name: reports[name].records for name in sorted(reports)},
        shard_bytes={name: reports[name].num_bytes for name in sorted(reports)},
    )


def _names(folder: str) -> set[str]:
    try:
        return {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    except tf.errors.NotFoundError:  # an empty "folder" of a bucket
        return set()


def _is_ours(name: str) -> bool:
    """Whether a file of this name is part of a data set, finished or not."""
    return _OURS.fullmatch(name) is not None


def _is_published(name: str) -> bool:
    """Whether training or evaluation would read a file of this name."""
    return name.startswith((f"{TRAIN}-", f"{VALIDATION}-")) and _TEMPORARY not in name


class _Work:
    """The files of one build; `info` describes the data set that it mends, if it does."""

    def __init__(self, output_dir, shards, make, recipe, info: DatasetInfo | None = None):
        self._output_dir, self._shards, self._make = output_dir, shards, make
        self._known = set(info.shards) if info else set()
        self._fingerprints = {shard.name: _fingerprint(shard, recipe) for shard in shards}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = 0

    def _path(self, name: str) -> str:
        return os.path.join(self._output_dir, name)

    def run(self, num_threads: int) -> dict[str, _Report]:
        """Writes what is missing; returns the reports of all files by name."""
        reports = self._finished()
        missing = [shard for shard in self._shards if shard.name not in reports]
        total = sum(len(shard.items) for shard in self._shards)
        self._done = total - sum(len(shard.items) for shard in missing)
        bar = Progress("build", total, "image", self._done, log_every=max(1000, total // 20))
        pool = concurrent.futures.ThreadPoolExecutor(num_threads)
        try:
            pending = {pool.submit(self._write, shard): shard.name for shard in missing}
            while pending:
                finished, _ = concurrent.futures.wait(
                    pending, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in finished:
                    reports[pending.pop(future)] = future.result()
                bar.update(self._done)
        except SystemExit:  # a signal
            logging.info(
                "Stopped: %d of %d files are finished; the same command goes on from here.",
                len(reports), len(self._shards),
            )  # fmt: skip
            raise
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            bar.close()
        return reports

    def _finished(self) -> dict[str, _Report]:
        """Reports of files that an earlier run finished; removes what is of no use."""
        names = _names(self._output_dir)
        for name in sorted(filter(_is_published, names)):
            if name + _MADE not in names and name not in self._known:
                raise UserError(
                    f"--output_dir={self._output_dir} holds {name}, which is not of this build: "
                    "choose another folder or delete it."
                )
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            found = pool.map(lambda shard: self._report(shard, names), self._shards)
            reports = {
                shard.name: report
                for shard, report in zip(self._shards, found, strict=True)
                if report
            }
            kept = {name + ending for name in reports for ending in ("", _DONE, _MADE)}
            if self._known:
                kept |= {name for name in names if _TEMPORARY not in name}
            useless = [name for name in names - kept if _is_ours(name)]
            list(pool.map(lambda name: tf.io.gfile.remove(self._path(name)), useless))
        if reports:
            logging.info("Going on: %d of %d files are finished.", len(reports), len(self._shards))
        elif any(name.endswith(_MADE) for name in useless):
            logging.info("Starting again: the input or the arguments are not those of before.")
        return reports

    def _report(self, shard: Shard, names: set[str]) -> _Report | None:
        """What an earlier run says of a file; None if it is not there or not what it would be."""
        name = shard.name
        there = name if name in names else name + _DONE
        if name + _MADE not in names or there not in names:
            return None
        path = self._path(name + _MADE)
        try:
            report = files.read_json(path, "what a file holds", "remove it", _checked_report)
        except UserError:
            return None
        same = report.fingerprint == self._fingerprints[name]
        size = tf.io.gfile.stat(self._path(there)).length
        same = same and report.num_bytes == size and self._still_unreadable(shard, report)
        return report if same else None

    def _still_unreadable(self, shard: Shard, report: _Report) -> bool:
        """Whether the items that gave no record still give none, for the same reasons.

        A permission changes without a change of the stamp.
        """
        reasons = dict(report.unreadable)
        return all(
            self._why_unreadable(item) == reasons[item.key]
            for item in shard.items
            if item.key in reasons
        )

    def _why_unreadable(self, item: Item) -> str | None:
        try:
            self._make(item)
        except Unreadable as e:
            return str(e)
        return None

    def _write(self, shard: Shard) -> _Report:
        """Writes one file."""
        beside = self._path(f"{shard.name}{_TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            unreadable, changed = self._write_records(shard, beside)
            size = tf.io.gfile.stat(beside).length
            records = len(shard.items) - len(unreadable)
            report = _Report(
                self._fingerprints[shard.name], records, size, unreadable, dict(changed)
            )
            text = json.dumps(dataclasses.asdict(report))
            files.write_text(self._path(shard.name + _MADE), text)
            tf.io.gfile.rename(beside, self._path(shard.name + _DONE), overwrite=True)
        except BaseException:
            with contextlib.suppress(tf.errors.OpError):
                tf.io.gfile.remove(beside)
            raise
        return report

    def _write_records(self, shard: Shard, path: str):
        unreadable: list[list[str]] = []
        changed: collections.Counter[str] = collections.Counter()
        with tf.io.TFRecordWriter(path) as writer:
            for item in shard.items:
                if self._stop.is_set():
                    raise _Stopped
                try:
                    made = self._make(item)
                except Unreadable as e:
                    unreadable.append([item.key, str(e)])
                else:
                    writer.write(made.example)
                    if made.changed:
                        changed[made.changed] += 1
                with self._lock:
                    self._done += 1
        return unreadable, changed

    def publish(self) -> None:
        """Gives all files their names."""
        names = _names(self._output_dir)

        def rename(name: str) -> None:
            if name + _DONE in names:
                tf.io.gfile.rename(self._path(name + _DONE), self._path(name), overwrite=True)

        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(rename, self._fingerprints))

    def clean_up(self) -> None:
        """Removes what only a later run of an unfinished build would need."""
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            made = (self._path(name + _MADE) for name in self._fingerprints)
            list(pool.map(tf.io.gfile.remove, made))


def _checked_report(content: Any) -> _Report:
    kinds = dict(fingerprint=str, records=int, num_bytes=int, unreadable=list, changed=dict)
    report = _Report(**{name: files.member(content, name, kind) for name, kind in kinds.items()})
    dict(report.unreadable)  # pairs
    collections.Counter(report.changed).total()
    return report


def _fingerprint(shard: Shard, recipe: Sequence[str]) -> str:
    """Of all that determines a file's bytes."""
    text = json.dumps([__version__, recipe, shard])
    return hashlib.sha256(text.encode()).hexdigest()


def _count(reports: dict[str, _Report], prefix: str) -> int:
    return sum(report.records for name, report in reports.items() if name.startswith(f"{prefix}-"))


def _check_unreadable(output_dir, description, shards, reports, max_bad_share) -> None:
    """Lists unreadable items in the log and in a file; UserError if they are too many."""
    unreadable = [bad for shard in shards for bad in reports[shard.name].unreadable]
    if not unreadable:
        return
    path = os.path.join(output_dir, UNREADABLE_FILE_NAME)
    lines = "".join(f"{key}\t{reason}\n" for key, reason in sorted(unreadable))
    files.write_text(path, lines.encode("utf-8", "replace").decode())
    for key, reason in unreadable[:_LOGGED]:
        logging.info("Unreadable: %s: %s.", key, reason)
    total = sum(len(shard.items) for shard in shards)
    logging.info("%d of %d pictures are unreadable; %s lists them.", len(unreadable), total, path)
    share = len(unreadable) / total
    if share > max_bad_share:
        raise UserError(
            f"{len(unreadable)} of {total} pictures ({share:.1%}) are unreadable, such as "
            f"{unreadable[0][0]} ({unreadable[0][1]}): mend or remove those that {path} lists, or "
            f"allow more than --max_bad_share={max_bad_share:g}."
        )
    _check_classes(description, shards, {key for key, _ in unreadable})


def _check_classes(description, shards, unreadable: set[str]) -> None:
    """UserError for a class of which nothing is left in a split."""
    for prefix in (TRAIN, VALIDATION):
        items = [item for s in shards if s.name.startswith(f"{prefix}-") for item in s.items]
        left = {item.label for item in items if item.key not in unreadable}
        for label in sorted({item.label for item in items} - left):
            raise UserError(
                f"No picture of class {description.label_names[label - 1]!r} is readable for "
                f"{prefix}: mend them or remove the class."
            )
