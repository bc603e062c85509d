"""Keeps the folders in which the tasks of one build leave what they have written.

Task I of N has a folder of its own in the output folder, where these names stand for:

  tasks.tmp/I-of-N/task.json   what the task was given; all tasks must agree (`task_input`);
  tasks.tmp/I-of-N/NAME.tmp-*  its files, as `shards` explains;
  tasks.tmp/I-of-N/done.json   what its files hold, once all are finished;
  tasks.tmp/publishing         the files began to move to the output folder.

A folder with done.json changes only while the lock of the output folder is held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.building import file_reports, shards, task_input
from utils.building.file_reports import Reports
from utils.building.shard_writer import in_parallel
from utils.building.shards import DONE, Shard
from utils.reading.dataset_info import DatasetInfo

MOST_TASKS = 10_000
_INPUT_FILE, _DONE_FILE, _PUBLISHING_FILE = "task.json", "done.json", "publishing"
_FOLDER = re.compile(r"(\d+)-of-(\d+)")


class Task(NamedTuple):
    """One of the tasks that build a data set together; numbers start at 0."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


class LostFile(UserError):
    """Says that a finished file of a task is missing or was changed."""


def root(output_dir: str) -> str:
    """Returns the folder of the tasks' folders."""
    return os.path.join(output_dir, shards.TASKS_DIR)


def begun(output_dir: str) -> list[Task]:
    """Returns the tasks that have a folder, sorted."""
    matches = map(_FOLDER.fullmatch, shards.names(root(output_dir)))
    return sorted(Task(int(match[1]), int(match[2])) for match in matches if match)


def check_count(output_dir: str, count: int) -> None:
    """Raises UserError if a task of another number of tasks has begun."""
    others = sorted({task.total for task in begun(output_dir)} - {count})
    if others:
        raise UserError(
            f"--output_dir={output_dir} is being built by {others[0]} tasks and not by {count}: "
            f"give each task the same number of tasks, or delete {root(output_dir)} to start again."
        )


class TaskFolders:
    """Knows the folders of a data set's tasks: what each was given, and what it has built."""

    def __init__(
        self, output_dir: str, description: DatasetInfo, plan: Sequence[Shard], count: int
    ):
        """Keeps the data set, with the files of all tasks, and the number of tasks."""
        self.output_dir, self.plan, self.count = output_dir, plan, count
        self._input = task_input.describe(description, plan)
        self._publishing = os.path.join(root(output_dir), _PUBLISHING_FILE)

    def task(self, number: int) -> Task:
        """Returns the task of a number."""
        return Task(number, self.count)

    def folder(self, number: int) -> str:
        """Returns the folder of a task."""
        return os.path.join(root(self.output_dir), f"{number}-of-{self.count}")

    def _path(self, number: int, name: str) -> str:
        return os.path.join(self.folder(number), name)

    def published_path(self, name: str) -> str:
        """Returns the path of a published file."""
        return os.path.join(self.output_dir, name)

    def plan_of(self, number: int) -> Sequence[Shard]:
        """Returns the files of a task."""
        return self.plan[number :: self.count]

    # What each task was given.

    def begin(self, number: int) -> None:
        """Notes what a task was given; the caller holds the task's lock.

        Raises:
          UserError: another task was given something else.
        """
        files.write_json(self._path(number, _INPUT_FILE), dataclasses.asdict(self._input), None)
        # Of two tasks that start at the same time, at least one sees the other here.
        self.check_others(number)

    def check_others(self, number: int) -> None:
        """Checks that the first of the other tasks was given the same; the caller holds the lock.

        Raises:
          UserError: it was given something else. A folder without finished files is removed.
        """
        try:
            check_count(self.output_dir, self.count)
            for task in begun(self.output_dir):
                if task.number != number and self.check_like(task.number):
                    return
        except UserError:
            names = shards.names(self.folder(number))
            if not any(name == _DONE_FILE or name.endswith(DONE) for name in names):
                files.remove(self.folder(number))
            raise

    def check_like(self, number: int) -> bool:
        """Returns whether a task has begun; raises UserError if it was given something else."""
        given = self._given(number)
        if given is None:
            return False
        found = task_input.difference(self._input, given)
        if found:
            raise UserError(
                f"Task {self.task(number)} of --output_dir={self.output_dir} was given other input "
                f"than this command: {found}; give all the same pictures and flags, or delete "
                f"{root(self.output_dir)} to start again."
            )
        return True

    def _given(self, number: int) -> task_input.TaskInput | None:
        """Returns what a task was given; None if it has not begun."""
        path = self._path(number, _INPUT_FILE)
        if not tf.io.gfile.exists(path):
            return None
        return files.read_json(path, "the input of a task", "remove it", task_input.parse)

    # What each task has built.

    def write_done(self, number: int, reports: Reports) -> None:
        """Notes that a task is done, with the reports of its files."""
        content = {name: dataclasses.asdict(report) for name, report in reports.items()}
        files.write_json(self._path(number, _DONE_FILE), content, None)

    def remove_done(self, number: int) -> None:
        """Takes back that a task is done; the caller holds the lock of the output folder."""
        tf.io.gfile.remove(self._path(number, _DONE_FILE))

    def done(self, number: int) -> Reports | None:
        """Returns what the files of a task hold; None if the task is not done."""
        path = self._path(number, _DONE_FILE)
        if not tf.io.gfile.exists(path):
            return None
        remedy = "remove it, and run the task again"
        return files.read_json(path, "a list of a task's files", remedy, _parse_reports)

    def missing(self) -> list[int]:
        """Returns the numbers of the tasks that are not done."""
        paths = [self._path(number, _DONE_FILE) for number in range(self.count)]
        there = in_parallel(tf.io.gfile.exists, paths)
        return [number for number, is_there in enumerate(there) if not is_there]

    def is_complete(self, number: int) -> bool:
        """Says whether a task is done, of the same input, and its files are there and whole."""
        reports = self.done(number)
        if reports is None or file_reports.lacking(reports):
            return False
        try:
            self.places(number, reports)
        except LostFile:
            return False
        return self._given(number) == self._input

    def places(self, number: int, reports: Reports) -> dict[str, str]:
        """Returns the path of each finished file of a task: in its folder, or published.

        Raises:
          LostFile: a file is missing, or has another size than its report says.
        """
        waiting = shards.names(self.folder(number))
        found = {}
        for shard in self.plan_of(number):
            name = shard.name
            path = self._path(number, name + DONE)
            if name + DONE not in waiting:
                path = self.published_path(name)
            if name not in reports or self._size(path, name) != reports[name].num_bytes:
                raise LostFile(
                    f"{self._path(number, name + DONE)} is missing or was changed: run the command "
                    f"with --task={self.task(number)} again."
                )
            found[name] = path
        return found

    def _size(self, path: str, name: str) -> int | None:
        """Returns the size of a finished file, which another task may publish now; None if lost."""
        for place in (path, self.published_path(name)):
            with contextlib.suppress(tf.errors.NotFoundError):
                return tf.io.gfile.stat(place).length
        return None

    # Publishing.

    def is_publishing(self) -> bool:
        """Says whether the files began to move to the output folder."""
        return tf.io.gfile.exists(self._publishing)

    def begin_publishing(self) -> None:
        """Notes that the files begin to move to the output folder."""
        files.write_text(self._publishing, "The files move to the folder above.\n")

    def remove(self) -> None:
        """Removes the folders of all tasks, unless another task writes or removes there now.

        That task removes them in the end, or the next command does.
        """
        with contextlib.suppress(tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
            files.remove(root(self.output_dir))


def _parse_reports(content: Any) -> Reports:
    """Returns the reports in parsed JSON; raises what `files.read_json` expects for any other."""
    if not isinstance(content, dict):
        raise TypeError("it is not a mapping")
    return {name: file_reports.parse(report) for name, report in content.items()}
