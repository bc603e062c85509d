"""Builds a data set: on this machine alone, or as one of several tasks.

A build that was interrupted resumes with the files that are missing. If files of a finished data
set are lost later, the same command builds just these again, as long as the input still gives what
dataset_info.json says.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import logging

from utils.base import files, folder_lock, memory
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.building import file_reports, shards, tasks
from utils.building.shard_writer import Maker, Writer
from utils.building.shards import Shard
from utils.building.task_folders import Task
from utils.reading import dataset_info
from utils.reading.dataset_info import DatasetInfo


def build(
    output_dir: str,
    description: DatasetInfo,
    plan: Sequence[Shard],
    make: Maker,
    max_bad_share: float = shards.MAX_BAD_SHARE,
    num_threads: int | None = None,
    task: Task | None = None,
    finish: bool = False,
) -> DatasetInfo | None:
    """Writes a data set, resumes one that was interrupted, or repairs one that lacks files.

    Args:
      output_dir: folder or bucket.
      description: of the data set; counts and files are filled in here.
      plan: the files; their names begin with 'train-' or 'validation-'.
      make: makes one record; called from several threads. It raises Unreadable for an item that
        gives none.
      max_bad_share: more unreadable items than this share are an error.
      num_threads: files written at a time; None for two a core.
      task: write the files of this task alone (`tasks.build`).
      finish: write none, but publish what all tasks have written (`tasks.finish`).

    Returns:
      The description as written; None if other tasks are not done.

    Raises:
      UserError: the folder cannot be written or holds something else, or too much is unreadable:
        nothing is published, and files without unreadable items are kept for the next try. Or files
        of a finished data set are lost, and the input gives other files now.
    """
    if not finish:
        files.make_writable_dir(output_dir, "output_dir")
    num_threads = num_threads or 2 * memory.cores()
    try:
        if finish:
            return tasks.finish(output_dir, description, plan, max_bad_share)
        if task:
            return tasks.build(
                task, output_dir, description, plan, make, max_bad_share, num_threads
            )
        with folder_lock.hold(output_dir, "output_dir", "build"):
            known = dataset_info.load(output_dir)
            if known and known.shards and shards.recipe(known) == shards.recipe(description):
                return _repair(output_dir, known, description, plan, make, num_threads)
            tasks.check_none(output_dir)
            return _build(output_dir, description, plan, make, max_bad_share, num_threads)
    except tf.errors.OpError as e:
        raise UserError(f"--output_dir={output_dir} cannot be written: {files.reason(e)}.") from e


def _build(output_dir, description, plan, make, max_bad_share, num_threads) -> DatasetInfo:
    """Writes all files that are not finished, and publishes the data set."""
    writer = Writer(output_dir, plan, make, shards.recipe(description))
    reports = writer.run(num_threads)
    try:
        file_reports.check(output_dir, description, plan, reports, max_bad_share)
    except UserError:
        # The same command has to see which pictures were repaired.
        writer.discard(file_reports.lacking(reports))
        raise
    writer.publish()
    info = file_reports.conclude(output_dir, description, plan, reports)
    writer.clean_up()
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
    writer = Writer(output_dir, missing, make, shards.recipe(info), info.shards)
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
