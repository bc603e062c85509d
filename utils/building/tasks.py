"""Builds a data set by several tasks, which run side by side on one machine or on many.

Of N tasks, task I writes the files I, I + N, I + 2N and so on, to a folder of its own
(`task_folders`). The task that finds all others done publishes: it moves the files to the output
folder, writes dataset_info.json and removes the tasks' folders. Each step may be done twice. So the
next task or `finish` ends what a kill interrupted, and two tasks that publish at once do no harm,
as they may in a bucket, whose lock is weaker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from absl import logging

from utils.base import files, folder_lock
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.building import file_reports, shards, task_folders
from utils.building.file_reports import Reports
from utils.building.shard_writer import Maker, Writer, in_parallel
from utils.building.shards import TEMPORARY, Shard
from utils.building.task_folders import Task, TaskFolders
from utils.reading import dataset_info
from utils.reading.dataset_info import DatasetInfo

_NAMED = 10  # missing tasks named in a sentence
# Another task publishes in seconds, in a bucket in minutes.
_PATIENCE_SECONDS, _LOOK_SECONDS = 3600.0, 0.2


def build(
    task: Task,
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    make: Maker,
    max_bad_share: float,
    num_threads: int,
) -> DatasetInfo | None:
    """Writes the files of one task, and publishes the data set if all other tasks are done.

    Args:
      task: which of the tasks this is.
      output_dir: existing folder or bucket.
      description: of the data set, without counts.
      plan: the files of all tasks.
      make: makes one record, as `data_set.build` explains.
      max_bad_share: more unreadable items of all tasks than this share are an error.
      num_threads: files written at a time.

    Returns:
      The description as written; None if other tasks are not done.

    Raises:
      UserError: the folder cannot be used, the same task is running, another task was given
        something else, or too much is unreadable.
    """
    tasks = _Tasks(output_dir, description, plan, task.total)
    try:
        tasks.check_output()
        tasks.write(task, make, num_threads)
        return tasks.publish_if_last(max_bad_share)
    except (UserError, tf.errors.NotFoundError) as e:
        return tasks.published_by_another(e)


def finish(
    output_dir: str, description: DatasetInfo, plan: Sequence[Shard], max_bad_share: float
) -> DatasetInfo:
    """Publishes the data set that tasks have built; returns its description.

    Raises:
      UserError: there are no tasks, some are not done, they or this command differ in what they
        were given, a file was lost, or too much is unreadable.
    """
    _check_not_damaged(output_dir)
    begun = task_folders.begun(output_dir)
    if not begun:
        raise UserError(
            f"--output_dir={output_dir} has no files of tasks to publish: run the command with "
            "--task=0/N to --task=N-1/N first."
        )
    task_folders.check_count(output_dir, begun[0].total)
    tasks = _Tasks(output_dir, description, plan, begun[0].total)
    try:
        return tasks.publish(max_bad_share)
    except (UserError, tf.errors.NotFoundError) as e:
        return tasks.published_by_another(e)


def check_none(output_dir: str) -> None:
    """Raises UserError if tasks build a data set in a folder, where one machine would disturb."""
    begun = task_folders.begun(output_dir)
    if begun:
        count = begun[0].total
        raise UserError(
            f"--output_dir={output_dir} is being built by {count} tasks: run them "
            f"(--task=0/{count} to --task={count - 1}/{count}), publish what they have built with "
            f"--finish, or delete {task_folders.root(output_dir)} to build without tasks."
        )


def _check_not_damaged(output_dir: str) -> None:
    """Raises UserError for a data set that has lost files; a complete one has ended the command."""
    info = dataset_info.load(output_dir)
    damaged = dataset_info.damaged_files(info, output_dir) if info else []
    if damaged:
        raise UserError(
            f"--output_dir={output_dir} lacks {damaged[0]}: run the command without --task and "
            "--finish to build its lost files again."
        )


@contextlib.contextmanager
def _turn(output_dir: str) -> Iterator[None]:
    """Locks the output folder while the block runs; first waits while another task publishes.

    Raises:
      folder_lock.Held: the other program does not end.
    """
    end, waiting = time.monotonic() + _PATIENCE_SECONDS, False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(folder_lock.hold(output_dir, "output_dir", "build"))
                break
            except folder_lock.Held:
                if time.monotonic() > end:
                    raise
                if not waiting:
                    logging.info("Waiting for another task, which publishes the data set.")
                waiting = True
            time.sleep(_LOOK_SECONDS)
        yield


class _Tasks:
    """Writes the files of tasks and publishes them."""

    def __init__(
        self, output_dir: str, description: DatasetInfo, plan: Sequence[Shard], count: int
    ):
        """Keeps the data set, with the files of all tasks, and the number of tasks."""
        self._output_dir, self._description, self._plan = output_dir, description, plan
        self._folders = TaskFolders(output_dir, description, plan, count)

    def check_output(self) -> None:
        """Checks that tasks may use the output folder.

        Raises:
          UserError: it holds files of another build, or tasks of another number.
        """
        task_folders.check_count(self._output_dir, self._folders.count)
        _check_not_damaged(self._output_dir)
        names = shards.names(self._output_dir)
        unfinished = sorted(n for n in names if shards.is_shard(n) and TEMPORARY in n)
        if unfinished:
            raise UserError(
                f"--output_dir={self._output_dir} holds {unfinished[0]} of a build without tasks: "
                "resume that build without --task, or delete its files."
            )
        self._check_foreign()

    def _check_foreign(self) -> None:
        """Raises UserError for a file that training would read but no task has written."""
        names = set(filter(shards.is_published, shards.names(self._output_dir)))
        if self._folders.is_publishing():
            names -= {shard.name for shard in self._plan}
        shards.check_no_foreign(self._output_dir, names)

    def write(self, task: Task, make: Maker, num_threads: int) -> None:
        """Writes the files of a task that are not finished.

        Raises:
          UserError: the task is running, or another task was given something else.
        """
        folder, plan = self._folders.folder(task.number), self._folders.plan_of(task.number)
        files.make_writable_dir(folder, "output_dir")
        with folder_lock.hold(folder, "output_dir", f"run of --task={task}"):
            recipe = shards.recipe(self._description)
            writer = Writer(folder, plan, make, recipe, what=f"task {task}")
            self._folders.check_others(task.number)
            if self._is_settled(task, writer):
                logging.info("Task %s is done already.", task)
                return
            self._folders.begin(task.number)
            reports = writer.run(num_threads)
            self._folders.write_done(task.number, reports)
        images = sum(report.records for report in reports.values())
        logging.info(
            "Task %s is done: %d of the data set's %d files, with %d images.",
            task, len(plan), len(self._plan), images,
        )  # fmt: skip

    def _is_settled(self, task: Task, writer: Writer) -> bool:
        """Says whether nothing is left for a task to write; else no longer counts it as done.

        A task that lacks unreadable items reads these again.
        """
        if self._folders.done(task.number) is None:
            return False
        if self._folders.is_complete(task.number):
            return True
        with _turn(self._output_dir):
            # Meanwhile another task may have published, and removed this one's folder.
            if shards.finished(self._output_dir, self._description):
                return True
            reports = self._folders.done(task.number) or {}
            self._folders.remove_done(task.number)
            writer.discard(file_reports.lacking(reports))
        return False

    def publish_if_last(self, max_bad_share: float) -> DatasetInfo | None:
        """Publishes the data set if all tasks are done; else logs which are missing."""
        missing = self._folders.missing()
        if not missing:
            return self.publish(max_bad_share)
        info = shards.finished(self._output_dir, self._description)
        if info:  # by another task, which has removed the folders
            shards.log_there(self._output_dir, info)
        else:
            logging.info("%s; the last one publishes the data set.", self._progress(missing))
        return info

    def _progress(self, missing: Sequence[int]) -> str:
        """Returns how many tasks are done, and which are missing."""
        named = ", ".join(map(str, missing[:_NAMED]))
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        which = f"task {named} is" if len(missing) == 1 else f"tasks {named}{more} are"
        count = self._folders.count
        return f"{count - len(missing)} of {count} tasks are done: {which} missing"

    def published_by_another(self, error: Exception) -> DatasetInfo:
        """Returns the description of the data set if another task has published it meanwhile.

        It then removed the folders that this task was using, which gave an error.

        Raises:
          UserError: the error itself, if no other task has published.
        """
        info = shards.finished(self._output_dir, self._description)
        if info is None:
            raise error
        shards.log_there(self._output_dir, info)
        return info

    def publish(self, max_bad_share: float) -> DatasetInfo:
        """Moves the files of all tasks to the output folder, and describes the data set.

        Raises:
          UserError: tasks are missing or differ in what they were given, a file was lost, or too
            much is unreadable; nothing is published.
        """
        with _turn(self._output_dir):
            info = shards.finished(self._output_dir, self._description)
            if info:
                shards.log_there(self._output_dir, info)
            else:
                info = self._publish(max_bad_share)
            self._folders.remove()
            return info

    def _publish(self, max_bad_share: float) -> DatasetInfo:
        self._check_foreign()
        reports, places = self._collected()
        if not file_reports.lacking(reports):
            # An earlier try may have listed pictures that were repaired since.
            files.remove(self._folders.published_path(shards.UNREADABLE_FILE_NAME))
        file_reports.check(self._output_dir, self._description, self._plan, reports, max_bad_share)
        self._folders.begin_publishing()
        in_parallel(lambda name: self._move(places[name], name), places)
        return file_reports.conclude(self._output_dir, self._description, self._plan, reports)

    def _collected(self) -> tuple[Reports, dict[str, str]]:
        """Returns the report and the place of every file of the data set.

        Raises:
          UserError: tasks are missing or differ in what they were given, or a file was lost.
        """
        missing = self._folders.missing()
        if missing:
            raise UserError(
                f"{self._progress(missing)}; run each missing one, such as "
                f"--task={self._folders.task(missing[0])}: the last one publishes the data set."
            )
        reports: Reports = {}
        places: dict[str, str] = {}

        def collect(number: int) -> None:
            self._folders.check_like(number)
            of_task = self._folders.done(number) or {}
            places.update(self._folders.places(number, of_task))
            reports.update(of_task)

        in_parallel(collect, range(self._folders.count))
        return reports, places

    def _move(self, path: str, name: str) -> None:
        """Gives a finished file its name in the output folder, unless it has the name already."""
        target = self._folders.published_path(name)
        if path == target:
            return
        try:
            tf.io.gfile.rename(path, target, overwrite=True)
        except tf.errors.NotFoundError:
            if not tf.io.gfile.exists(target):  # another task has moved it
                raise
