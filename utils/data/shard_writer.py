"""Writes the files of a data set: in parallel, resumable, always the same bytes.

A build that was interrupted resumes with the files that are missing. If files of a finished data
set are lost later, the same command builds just these again, as long as the input still gives what
dataset_info.json says. `utils.data.shards` explains the names of the files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import logging

from utils.base import files, folder_lock, memory
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.tensorflow_version import tf
from utils.base.version import __version__
from utils.data import shards
from utils.data.shards import DONE, MADE, TEMPORARY, Item, Made, Shard, UnreadableItem
from utils.pictures.opening import Unreadable
from utils.reading import dataset_info
from utils.reading.dataset_info import DatasetInfo

# Renaming in a bucket is a request, so many are made at a time.
_REQUESTS = 32

Maker = Callable[[Item], Made]


@dataclasses.dataclass(frozen=True)
class _Report:
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


_Reports = dict[str, _Report]  # by the name of the file


class _Stopped(Exception):
    """Ends a thread after the build has ended for another reason."""


def build(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    make: Maker,
    max_bad_share: float = shards.MAX_BAD_SHARE,
    num_threads: int | None = None,
) -> DatasetInfo:
    """Writes a data set, resumes one that was interrupted, or repairs one that lacks files.

    Args:
      output_dir: folder or bucket.
      description: of the data set; counts and files are filled in here.
      plan: the files; their names begin with 'train-' or 'validation-'.
      make: makes one record; called from several threads. It raises Unreadable for an item that
        gives none.
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
            if known and known.shards and shards.recipe(known) == shards.recipe(description):
                return _repair(output_dir, known, description, plan, make, num_threads)
            return _build(output_dir, description, plan, make, max_bad_share, num_threads)
    except tf.errors.OpError as e:
        raise UserError(f"--output_dir={output_dir} cannot be written: {files.reason(e)}.") from e


def _build(output_dir, description, plan, make, max_bad_share, num_threads) -> DatasetInfo:
    """Writes all files that are not finished, and publishes the data set."""
    writer = _Writer(output_dir, plan, make, shards.recipe(description))
    reports = writer.run(num_threads)
    unreadable = [
        UnreadableItem(shard, place, reason)
        for shard in plan
        for place, reason in reports[shard.name].unreadable
    ]
    if unreadable:
        shards.list_unreadable(output_dir, plan, unreadable)
        try:
            shards.check_unreadable(output_dir, description, plan, unreadable, max_bad_share)
        except UserError:
            # The same command has to see which pictures were repaired.
            writer.discard({item.shard.name for item in unreadable})
            raise
    writer.publish()
    info = _filled_in(description, reports)
    info.write(output_dir)
    writer.clean_up()
    _log_changed(reports.values())
    logging.info("%s: %s.", output_dir, shards.summary(info))
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
    writer = _Writer(output_dir, missing, make, shards.recipe(info), info.shards)
    for name, report in writer.run(num_threads).items():
        size = info.shard_bytes.get(name, report.num_bytes)
        if (report.records, report.num_bytes) != (info.shards[name], size):
            raise _changed_input(output_dir, [name])
    writer.publish()
    writer.clean_up()
    logging.info("%s: %d files were built again.", output_dir, len(missing))
    return info


def _changed_input(output_dir: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"--output_dir={output_dir} lacks {names[0]}, and the input has changed since that file "
        "was built: delete the folder to build all of it again."
    )


def _filled_in(description: DatasetInfo, reports: _Reports) -> DatasetInfo:
    """Returns the description with counts and files."""

    def count(split: str) -> int:
        return sum(report.records for name, report in reports.items() if shards.is_in(name, split))

    return dataclasses.replace(
        description,
        num_train_images=count(shards.TRAIN),
        num_eval_images=count(shards.VALIDATION),
        shards={name: reports[name].records for name in sorted(reports)},
        shard_bytes={name: reports[name].num_bytes for name in sorted(reports)},
    )


def _log_changed(reports: Iterable[_Report]) -> None:
    """Logs how many pictures were encoded anew, and why."""
    changed: collections.Counter[str] = collections.Counter()
    for report in reports:
        changed.update(report.changed)
    if changed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(changed.items()))
        logging.info("%d pictures were encoded anew: %s.", changed.total(), kinds)


class _Writer:
    """Writes the files of one build, several at a time, and knows which are finished."""

    def __init__(
        self,
        output_dir: str,
        plan: Sequence[Shard],
        make: Maker,
        recipe: Sequence[str],
        published: Iterable[str] = (),
    ):
        """Keeps the plan; `published` names the files of the data set that is repaired, if any."""
        self._output_dir, self._plan, self._make = output_dir, plan, make
        self._published = set(published)
        self._fingerprints = {shard.name: _fingerprint(shard, recipe) for shard in plan}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = 0

    def _path(self, name: str) -> str:
        return os.path.join(self._output_dir, name)

    def run(self, num_threads: int) -> _Reports:
        """Writes the files that are missing; returns the reports of all files."""
        reports = self._finished()
        missing = [shard for shard in self._plan if shard.name not in reports]
        total = sum(len(shard.items) for shard in self._plan)
        self._done = total - sum(len(shard.items) for shard in missing)
        bar = Progress("build", total, "image", self._done, log_every=max(1000, total // 20))
        try:
            self._write_all(missing, num_threads, reports, bar)
        except SystemExit:  # a signal
            logging.info(
                "Stopped: %d of %d files are finished; the same command resumes here.",
                len(reports), len(self._plan),
            )  # fmt: skip
            raise
        finally:
            bar.close()
        return reports

    def _write_all(self, missing, num_threads: int, reports: _Reports, bar: Progress) -> None:
        """Writes files in threads; adds each report as soon as its file is finished."""
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
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _finished(self) -> _Reports:
        """Returns the reports of files that an earlier run finished; removes useless files."""
        names = shards.names(self._output_dir)
        self._check_foreign(names)
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            found = pool.map(lambda shard: self._report(shard.name, names), self._plan)
            reports = {
                shard.name: report
                for shard, report in zip(self._plan, found, strict=True)
                if report
            }
        kept = {name + ending for name in reports for ending in ("", DONE, MADE)}
        if self._published:
            kept |= {name for name in names if TEMPORARY not in name}
        useless = [name for name in names - kept if shards.is_ours(name)]
        self._remove(useless)
        if reports:
            logging.info("Resuming: %d of %d files are finished.", len(reports), len(self._plan))
        elif any(name.endswith(MADE) for name in useless):
            logging.info("Starting over: the input or the arguments have changed.")
        return reports

    def _check_foreign(self, names: set[str]) -> None:
        """Raises UserError for a file that training would read but this build did not write."""
        for name in sorted(filter(shards.is_published, names)):
            if name + MADE not in names and name not in self._published:
                raise UserError(
                    f"--output_dir={self._output_dir} holds {name}, which is not of this build: "
                    "choose another folder or delete it."
                )

    def _report(self, name: str, names: set[str]) -> _Report | None:
        """Returns what an earlier run says of a file; None if the file has to be written."""
        there = name if name in names else name + DONE
        if name + MADE not in names or there not in names:
            return None
        path = self._path(name + MADE)
        try:
            report = files.read_json(path, "a report on a file", "remove it", _checked_report)
        except UserError:
            return None
        size = tf.io.gfile.stat(self._path(there)).length
        same = (report.fingerprint, report.num_bytes) == (self._fingerprints[name], size)
        return report if same else None

    def _write(self, shard: Shard) -> _Report:
        """Writes one file, and then its report next to it."""
        unfinished = self._path(f"{shard.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            unreadable, changed = self._write_records(shard, unfinished)
            report = _Report(
                fingerprint=self._fingerprints[shard.name],
                records=len(shard.items) - len(unreadable),
                num_bytes=tf.io.gfile.stat(unfinished).length,
                unreadable=unreadable,
                changed=dict(changed),
            )
            files.write_json(self._path(shard.name + MADE), dataclasses.asdict(report), None)
            tf.io.gfile.rename(unfinished, self._path(shard.name + DONE), overwrite=True)
        except BaseException:
            with contextlib.suppress(tf.errors.OpError):
                tf.io.gfile.remove(unfinished)
            raise
        return report

    def _write_records(
        self, shard: Shard, path: str
    ) -> tuple[list[tuple[int, str]], collections.Counter[str]]:
        """Writes the records of a file; returns a report's `unreadable` and `changed`."""
        unreadable: list[tuple[int, str]] = []
        changed: collections.Counter[str] = collections.Counter()
        with tf.io.TFRecordWriter(path) as writer:
            for place, item in enumerate(shard.items):
                if self._stop.is_set():
                    raise _Stopped
                try:
                    made = self._make(item)
                except Unreadable as e:
                    unreadable.append((place, str(e)))
                else:
                    writer.write(made.example)
                    if made.changed:
                        changed[made.changed] += 1
                with self._lock:
                    self._done += 1
        return unreadable, changed

    def publish(self) -> None:
        """Gives all files their names."""
        names = shards.names(self._output_dir)

        def rename(name: str) -> None:
            if name + DONE in names:
                tf.io.gfile.rename(self._path(name + DONE), self._path(name), overwrite=True)

        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(rename, self._fingerprints))

    def clean_up(self) -> None:
        """Removes the reports, which only a later run of an unfinished build would need."""
        self._remove(name + MADE for name in self._fingerprints)

    def discard(self, names: Iterable[str]) -> None:
        """Removes finished files, so that a later run writes them again."""
        there = shards.names(self._output_dir)
        self._remove({name + ending for name in names for ending in ("", DONE)} & there)
        # Last, for a published file without a report is taken for another data set's.
        self._remove(name + MADE for name in names)

    def _remove(self, names: Iterable[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda name: tf.io.gfile.remove(self._path(name)), names))


def _checked_report(content: Any) -> _Report:
    """Returns the report in parsed JSON; raises what `files.read_json` expects for any other."""
    pairs = files.member(content, "unreadable", list)
    changed = files.member(content, "changed", dict)
    return _Report(
        fingerprint=files.member(content, "fingerprint", str),
        records=files.member(content, "records", int),
        num_bytes=files.member(content, "num_bytes", int),
        unreadable=[(int(place), str(reason)) for place, reason in pairs],
        changed={kind: files.member(changed, kind, int) for kind in changed},
    )


def _fingerprint(shard: Shard, recipe: Sequence[str]) -> str:
    """Returns a hash of all that determines a file's bytes."""
    text = json.dumps([__version__, recipe, shard])
    return hashlib.sha256(text.encode()).hexdigest()
