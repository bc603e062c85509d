"""The files of a data set: from a plan to their publication.

A plan is a list of `Shard`s, each a file's name and the items of its records. `write_shard` makes
one file of it, the same bytes each time; nothing is shared between files, so they may be written in
any order by any number of workers. `build` does so in threads, resumes what was interrupted, and
describes the result in dataset_info.json.

A file NAME passes through these names in the output folder:

  NAME.tmp-<random>  is being written;
  NAME.tmp-done      is finished; NAME.tmp-made tells what it was made from and what it holds;
  NAME               is published, after all are finished; dataset_info.json comes last.

So nobody reads half a data set: `records.list_files` leaves out names with ".tmp-".
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
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import logging

from utils.base import files, folder_lock, memory
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.tensorflow_version import tf
from utils.base.version import __version__
from utils.reading import dataset_info, records
from utils.reading.dataset_info import DatasetInfo
from utils.reading.pictures import Unreadable

PREFIXES = records.SPLIT_PREFIXES
TRAIN, VALIDATION = PREFIXES
UNREADABLE_FILE_NAME = "unreadable.txt"
MAX_BAD_SHARE = 0.01
TEMPORARY, DONE, MADE = ".tmp-", ".tmp-done", ".tmp-made"
_OURS = re.compile(
    rf"(({'|'.join(PREFIXES.values())})\d+-of-\d+|{dataset_info.FILE_NAME}|{dataset_info.LABELS_FILE}"
    rf"|{UNREADABLE_FILE_NAME})({TEMPORARY}.*)?"
)
_LOGGED = 20  # unreadable pictures named in the log; the file names all
_REQUESTS = 32  # made of a bucket at a time
_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


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

    @property
    def split(self) -> str:
        """The split that the file belongs to."""
        return next(split for split, prefix in PREFIXES.items() if self.name.startswith(prefix))


class Made(NamedTuple):
    """A serialized example, and why its picture is not the original one (None if it is)."""

    example: bytes
    changed: str | None = None


# Makes the record of an item; raises Unreadable for an item that gives none.
Maker = Callable[[Item], Made]


class ShardReport(NamedTuple):
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


def file_name(split: str, number: int, count: int) -> str:
    """Returns the name of one of a split's `count` files; numbers start at 0."""
    return f"{PREFIXES[split]}{number:05d}-of-{count:05d}"


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


# What a data set is.


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


def _recipe(info: DatasetInfo) -> tuple[str, ...]:
    """Returns what tells two data sets apart: name and builder without the version."""
    words = info.builder.split(" ")
    return (info.name, *words[:2], *words[3:])


def _summary(info: DatasetInfo) -> str:
    return (
        f"{info.num_train_images} images for training, {info.num_eval_images} for evaluation, "
        f"{info.num_label_classes} classes"
    )


def is_finished(output_dir: str, description: DatasetInfo) -> bool:
    """Whether the folder holds this data set, complete; logs what is there or missing.

    Raises:
      UserError: the folder holds another data set.
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
        what = f"{len(damaged)} of its {len(info.shards)} files, such as {damaged[0]}"
        logging.info("%s lacks %s.", output_dir, what)
        return False
    _clean_up_after_kill(output_dir)
    logging.info(
        "%s is there already: %s. To build it from changed input, delete it first.",
        output_dir,
        _summary(info),
    )
    return True


def _clean_up_after_kill(output_dir: str) -> None:
    """Removes what a build leaves that is killed after the data set is finished."""
    found = files.names(output_dir)
    useless = [name for name in found if _OURS.fullmatch(name) and TEMPORARY in name]
    if useless or folder_lock.FILE_NAME in found:
        with (
            contextlib.suppress(folder_lock.Held),  # another program removes it
            folder_lock.hold(output_dir, "output_dir", "build"),  # removes its file at the end
        ):
            for name in useless:
                files.remove(os.path.join(output_dir, name))


# Writing.


def build(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    make: Maker,
    max_bad_share: float = MAX_BAD_SHARE,
    num_threads: int | None = None,
) -> DatasetInfo:
    """Writes a data set, resumes one that was interrupted, or repairs one that lacks files.

    Args:
      output_dir: folder or bucket.
      description: of the data set; counts and files are filled in here.
      plan: the files; their names begin with 'train-' or 'validation-'.
      make: makes one record; called from several threads.
      max_bad_share: more unreadable items than this share are an error.
      num_threads: files written at a time; None for two a core.

    Returns:
      The description as written.

    Raises:
      UserError: the folder cannot be written or holds something else, or too much is unreadable:
        nothing is published, and files without unreadable items are kept for the next try. Or files
        of a finished data set are lost, and the input gives other files now.
    """
    files.make_writable_dir(output_dir, "output_dir")
    num_threads = num_threads or 2 * memory.cores()
    try:
        with folder_lock.hold(output_dir, "output_dir", "build"):
            known = dataset_info.load(output_dir)
            if known and known.shards and _recipe(known) == _recipe(description):
                return _repair(output_dir, known, description, plan, make, num_threads)
            return _build(output_dir, description, plan, make, max_bad_share, num_threads)
    except tf.errors.OpError as e:
        raise UserError(f"--output_dir={output_dir} cannot be written: {files.reason(e)}.") from e


def _build(output_dir, description, plan, make, max_bad_share, num_threads) -> DatasetInfo:
    """Writes all files that are not finished, and publishes the data set."""
    reports = _write_missing(output_dir, plan, make, description, num_threads)
    try:
        _check_unreadable(output_dir, description, plan, reports, max_bad_share)
    except UserError:
        # The same command has to see which pictures were repaired.
        _discard(output_dir, [name for name, report in reports.items() if report.unreadable])
        raise
    _publish(output_dir, plan)
    info = _filled_in(description, plan, reports)
    info.write(output_dir)
    _log_changed(reports.values())
    logging.info("%s: %s.", output_dir, _summary(info))
    _remove(output_dir, [shard.name + MADE for shard in plan])
    return info


def _repair(output_dir, info, description, plan, make, num_threads) -> DatasetInfo:
    """Builds just the files that a finished data set lacks; returns its description.

    Raises:
      UserError: the input gives other files now, which would not fit those that are there.
    """
    damaged = dataset_info.damaged_files(info, output_dir)
    same = {shard.name for shard in plan} == set(info.shards)
    if not same or description.label_names != info.label_names:
        raise _changed_input(output_dir, damaged or sorted(info.shards))
    missing = [shard for shard in plan if shard.name in damaged]
    reports = _write_missing(output_dir, missing, make, info, num_threads, info.shards)
    for name, report in reports.items():
        size = info.shard_bytes.get(name, report.num_bytes)
        if (report.records, report.num_bytes) != (info.shards[name], size):
            raise _changed_input(output_dir, [name])
    _publish(output_dir, missing)
    _remove(output_dir, [shard.name + MADE for shard in missing])
    logging.info("%s: %d files were built again.", output_dir, len(missing))
    return info


def _changed_input(output_dir: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"--output_dir={output_dir} lacks {names[0]}, and the input has changed since that file "
        "was built: delete the folder to build all of it again."
    )


def write_shard(
    output_dir: str,
    shard: Shard,
    make: Maker,
    fingerprint: str,
    on_record: Callable[[], None] = lambda: None,
) -> ShardReport:
    """Writes one file aside, gives it its finished name, and a report next to it.

    Args:
      output_dir: folder or bucket.
      shard: the file.
      make: makes one record.
      fingerprint: of all that determines the file's bytes.
      on_record: called before each record; what it raises ends the file.
    """
    unfinished = os.path.join(output_dir, f"{shard.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
    unreadable: list[tuple[int, str]] = []
    changed: collections.Counter[str] = collections.Counter()
    try:
        with tf.io.TFRecordWriter(unfinished) as writer:
            for place, item in enumerate(shard.items):
                on_record()
                try:
                    made = make(item)
                except Unreadable as e:
                    unreadable.append((place, str(e)))
                    continue
                writer.write(made.example)
                if made.changed:
                    changed[made.changed] += 1
        num_bytes = tf.io.gfile.stat(unfinished).length
        num_records = len(shard.items) - len(unreadable)
        report = ShardReport(fingerprint, num_records, num_bytes, unreadable, dict(changed))
        path = os.path.join(output_dir, shard.name)
        files.write_json(path + MADE, report._asdict(), None)
        tf.io.gfile.rename(unfinished, path + DONE, overwrite=True)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(unfinished)
        raise
    return report


def _fingerprint(shard: Shard, info: DatasetInfo) -> str:
    """Returns a hash of all that determines a file's bytes."""
    text = json.dumps([__version__, _recipe(info), shard])
    return hashlib.sha256(text.encode()).hexdigest()


class _Stopped(Exception):
    """Ends a thread after the build has ended for another reason."""


def _write_missing(
    output_dir: str,
    plan: Sequence[Shard],
    make: Maker,
    info: DatasetInfo,
    num_threads: int,
    published: Collection[str] = (),
) -> dict[str, ShardReport]:
    """Writes the files that no earlier run finished; returns the reports of all, by name.

    Args:
      output_dir: folder or bucket.
      plan: the files.
      make: makes one record.
      info: describes the data set.
      num_threads: files written at a time.
      published: names of the files of the data set that is repaired, if any.
    """
    fingerprints = {shard.name: _fingerprint(shard, info) for shard in plan}
    reports = _kept_reports(output_dir, fingerprints, published)
    missing = [shard for shard in plan if shard.name not in reports]
    total = sum(len(shard.items) for shard in plan)
    done = total - sum(len(shard.items) for shard in missing)
    stop, lock = threading.Event(), threading.Lock()

    def count_record() -> None:
        nonlocal done
        if stop.is_set():
            raise _Stopped
        with lock:
            done += 1

    bar = Progress("build", total, "image", done, log_every=max(1000, total // 20))
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    try:
        running = {
            pool.submit(
                write_shard, output_dir, shard, make, fingerprints[shard.name], count_record
            ): shard.name
            for shard in missing
        }
        while running:
            ended, _ = concurrent.futures.wait(
                running, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                reports[running.pop(future)] = future.result()
            bar.update(done)
    except SystemExit:  # a signal
        count = f"{len(reports)} of {len(plan)}"
        logging.info("Stopped: %s files are finished; the same command resumes here.", count)
        raise
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        bar.close()
    return reports


def _kept_reports(
    output_dir: str, fingerprints: dict[str, str], published: Collection[str]
) -> dict[str, ShardReport]:
    """Returns the reports of files that an earlier run finished; removes useless files.

    Raises:
      UserError: the folder has a file that training would read but this build did not write.
    """
    names = set(files.names(output_dir))
    for name in sorted(names):
        is_read = name.startswith(tuple(PREFIXES.values())) and TEMPORARY not in name
        if is_read and name + MADE not in names and name not in published:
            raise UserError(
                f"--output_dir={output_dir} holds {name}, which is not of this build: choose "
                "another folder or delete it."
            )
    found = _in_parallel(lambda name: _report(output_dir, name, names), fingerprints)
    reports = {
        name: report
        for name, report in zip(fingerprints, found, strict=True)
        if report and report.fingerprint == fingerprints[name]
    }
    kept = {name + ending for name in reports for ending in ("", DONE, MADE)}
    if published:
        kept |= {name for name in names if TEMPORARY not in name}
    useless = [name for name in names - kept if _OURS.fullmatch(name)]
    _remove(output_dir, useless)
    if reports:
        logging.info("Resuming: %d of %d files are finished.", len(reports), len(fingerprints))
    elif any(name.endswith(MADE) for name in useless):
        logging.info("Starting over: the input or the arguments have changed.")
    return reports


def _report(output_dir: str, name: str, names: set[str]) -> ShardReport | None:
    """Returns what an earlier run says of a file; None if the file is missing or was cut."""
    there = name if name in names else name + DONE
    if name + MADE not in names or there not in names:
        return None
    path = os.path.join(output_dir, name + MADE)
    try:
        report = files.read_json(path, "a report on a file", "remove it", _parse)
    except UserError:
        return None
    size = tf.io.gfile.stat(os.path.join(output_dir, there)).length
    return report if report.num_bytes == size else None


def _parse(content: Any) -> ShardReport:
    return ShardReport(
        fingerprint=files.member(content, "fingerprint", str),
        records=files.member(content, "records", int),
        num_bytes=files.member(content, "num_bytes", int),
        unreadable=[(int(place), str(reason)) for place, reason in content["unreadable"]],
        changed=dict(files.member(content, "changed", dict)),
    )


def _in_parallel(function: Callable[[_Value], _Result], values: Iterable[_Value]) -> list[_Result]:
    """Returns what a function makes of each value, in order; a bucket is asked many at a time."""
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, values))


def _publish(output_dir: str, plan: Sequence[Shard]) -> None:
    """Gives all files their names."""
    names = set(files.names(output_dir))

    def rename(shard: Shard) -> None:
        if shard.name + DONE in names:
            path = os.path.join(output_dir, shard.name)
            tf.io.gfile.rename(path + DONE, path, overwrite=True)

    _in_parallel(rename, plan)


def _discard(output_dir: str, names: Collection[str]) -> None:
    """Removes finished files, so that a later run writes them again."""
    there = set(files.names(output_dir))
    _remove(output_dir, {name + ending for name in names for ending in ("", DONE)} & there)
    # Last, for a published file without a report is taken for another data set's.
    _remove(output_dir, [name + MADE for name in names])


def _remove(output_dir: str, names: Iterable[str]) -> None:
    _in_parallel(lambda name: tf.io.gfile.remove(os.path.join(output_dir, name)), names)


# What was written.


def _check_unreadable(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    reports: dict[str, ShardReport],
    max_bad_share: float,
) -> None:
    """Lists unreadable items in unreadable.txt, and the first of them in the log.

    Raises:
      UserError: more than the share `max_bad_share` are unreadable, or all of a class in a split.
    """
    found = [
        (shard.items[place].key, reason)
        for shard in plan
        for place, reason in reports[shard.name].unreadable
    ]
    if not found:
        return
    path = os.path.join(output_dir, UNREADABLE_FILE_NAME)
    total = sum(len(shard.items) for shard in plan)
    lines = "".join(f"{key}\t{reason}\n" for key, reason in sorted(found))
    files.write_text(path, lines.encode("utf-8", "replace").decode())
    for key, reason in found[:_LOGGED]:
        logging.info("Unreadable: %s: %s.", key, reason)
    logging.info("%d of %d pictures are unreadable; %s lists them.", len(found), total, path)
    if len(found) / total > max_bad_share:
        key, reason = found[0]
        raise UserError(
            f"{len(found)} of {total} pictures ({len(found) / total:.1%}) are unreadable, such as "
            f"{key} ({reason}): repair or remove the pictures that {path} lists, or allow more "
            f"than --max_bad_share={max_bad_share:g}."
        )
    readable = _class_counts(description, plan, reports)
    for shard in plan:
        for item in shard.items:
            if not readable[shard.split][item.label - 1]:
                raise UserError(
                    f"No picture of class {description.label_names[item.label - 1]!r} is readable "
                    f"for {shard.split}: repair its pictures or remove the class."
                )


def _class_counts(description, plan, reports) -> dict[str, list[int]]:
    """Returns the number of records of each class, by split."""
    counts = {split: [0] * description.num_label_classes for split in PREFIXES}
    for shard in plan:
        lost = {place for place, _ in reports[shard.name].unreadable}
        for place, item in enumerate(shard.items):
            counts[shard.split][item.label - 1] += place not in lost
    return counts


def _filled_in(
    description: DatasetInfo, plan: Sequence[Shard], reports: dict[str, ShardReport]
) -> DatasetInfo:
    """Returns the description with counts and files."""
    by_class = _class_counts(description, plan, reports)
    return dataclasses.replace(
        description,
        num_train_images=sum(by_class[TRAIN]),
        num_eval_images=sum(by_class[VALIDATION]),
        images_by_class={split: tuple(counts) for split, counts in by_class.items()},
        shards={name: reports[name].records for name in sorted(reports)},
        shard_bytes={name: reports[name].num_bytes for name in sorted(reports)},
    )


def _log_changed(reports: Iterable[ShardReport]) -> None:
    """Logs how many pictures were encoded anew, and why."""
    changed: collections.Counter[str] = collections.Counter()
    for report in reports:
        changed.update(report.changed)
    if changed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(changed.items()))
        logging.info("%d pictures were encoded anew: %s.", changed.total(), kinds)
