"""Writes files of a data set to a folder: in parallel, resumable, always the same bytes.

`utils.building.shards` explains the names of the files.
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
from typing import TypeVar

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.tensorflow_version import tf
from utils.base.version import __version__
from utils.building import file_reports, shards
from utils.building.file_reports import FileReport, Reports
from utils.building.shards import DONE, MADE, TEMPORARY, Item, Made, Shard
from utils.reading.pictures import Unreadable

_REQUESTS = 32  # made of a bucket at a time
_Value = TypeVar("_Value")
_Result = TypeVar("_Result")

Maker = Callable[[Item], Made]


def in_parallel(function: Callable[[_Value], _Result], values: Iterable[_Value]) -> list[_Result]:
    """Returns what a function makes of each value, in order; a bucket is asked many at a time."""
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, values))


class _Stopped(Exception):
    """Ends a thread after the build has ended for another reason."""


class Writer:
    """Writes the files of one build, several at a time, and knows which are finished."""

    def __init__(
        self,
        output_dir: str,
        plan: Sequence[Shard],
        make: Maker,
        recipe: Sequence[str],
        published: Iterable[str] = (),
        what: str = "build",
    ):
        """Keeps what to write.

        Args:
          output_dir: folder or bucket.
          plan: the files.
          make: makes one record; called from several threads.
          recipe: of the data set (`shards.recipe`).
          published: names of the files of the data set that is repaired, if any.
          what: names the work to those who see its progress.
        """
        self._output_dir, self._plan, self._make = output_dir, plan, make
        self._published, self._what = set(published), what
        self._fingerprints = {shard.name: _fingerprint(shard, recipe) for shard in plan}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = 0

    def _path(self, name: str) -> str:
        return os.path.join(self._output_dir, name)

    def run(self, num_threads: int) -> Reports:
        """Writes the files that are missing; returns the reports of all files."""
        reports = self._finished()
        missing = [shard for shard in self._plan if shard.name not in reports]
        total = sum(len(shard.items) for shard in self._plan)
        self._done = total - sum(len(shard.items) for shard in missing)
        bar = Progress(self._what, total, "image", self._done, log_every=max(1000, total // 20))
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

    def _write_all(self, missing, num_threads: int, reports: Reports, bar: Progress) -> None:
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

    def _finished(self) -> Reports:
        """Returns the reports of files that an earlier run finished; removes useless files."""
        names = shards.names(self._output_dir)
        self._check_foreign(names)
        found = in_parallel(lambda shard: self._report(shard.name, names), self._plan)
        reports = {
            shard.name: report for shard, report in zip(self._plan, found, strict=True) if report
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
        published = filter(shards.is_published, names)
        foreign = {n for n in published if n + MADE not in names and n not in self._published}
        shards.check_no_foreign(self._output_dir, foreign)

    def _report(self, name: str, names: set[str]) -> FileReport | None:
        """Returns what an earlier run says of a file; None if the file has to be written."""
        there = name if name in names else name + DONE
        if name + MADE not in names or there not in names:
            return None
        path = self._path(name + MADE)
        try:
            report = files.read_json(path, "a report on a file", "remove it", file_reports.parse)
        except UserError:
            return None
        size = tf.io.gfile.stat(self._path(there)).length
        same = (report.fingerprint, report.num_bytes) == (self._fingerprints[name], size)
        return report if same else None

    def _write(self, shard: Shard) -> FileReport:
        """Writes one file, and then its report next to it."""
        unfinished = self._path(f"{shard.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            unreadable, changed = self._write_records(shard, unfinished)
            report = FileReport(
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

        in_parallel(rename, self._fingerprints)

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
        in_parallel(lambda name: tf.io.gfile.remove(self._path(name)), names)


def _fingerprint(shard: Shard, recipe: Sequence[str]) -> str:
    """Returns a hash of all that determines a file's bytes."""
    text = json.dumps([__version__, recipe, shard])
    return hashlib.sha256(text.encode()).hexdigest()
