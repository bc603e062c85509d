"""TFRecord files of examples: finding, parsing and checking them, and naming the bad record."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

import utils.base.tensorflow_version  # noqa: F401
from utils.base import files, memory
from utils.base.errors import UserError
from utils.reading import examples

import tensorflow.compat.v1 as tf  # isort: skip

# A record is framed by its length and the length's checksum before, and a checksum behind.
LENGTH_BYTES, HEADER_BYTES, FRAME_BYTES = 8, 12, 16
MOST_COUNTED = 200_000  # half a second's work
READ_BUFFER_BYTES = 256 * 1024
BEYOND_END = "the record ends behind the file's end"
# The two splits of a data set: functions of utils.reading take one of these as `file_prefix`.
TRAIN_PREFIX = "train-"
EVAL_PREFIX = "validation-"
NULL_DATA = "null"  # the data_dir that feeds black images, to measure a model alone


def has_files(data_dir: str | None) -> bool:
    """Returns whether a data_dir names TFRecord files: it is given and is not `NULL_DATA`."""
    return bool(data_dir) and data_dir != NULL_DATA


def list_files(data_dir: str, prefix: str) -> list[str]:
    """The files of a split in order; UserError if there are none."""
    files.check_no_pattern(data_dir, "data_dir")
    paths = sorted(tf.io.gfile.glob(os.path.join(data_dir, prefix + "*")))
    paths = [path for path in paths if ".tmp-" not in os.path.basename(path)]
    if not paths:
        raise UserError(
            f"--data_dir={data_dir} has no files {prefix}*: is it a folder of TFRecords? "
            "(mnasnet-data makes one.)"
        )
    return paths


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive records of a file.

    Attributes:
      path: of the file.
      offset: bytes before the first record to read.
      count: number of records; -1 for all that follow.
      skip: records to pass over first.
    """

    path: str
    offset: int = 0
    count: int = -1
    skip: int = 0


def segment_columns(segments: Sequence[Segment]) -> tuple[tf.Tensor, ...]:
    """Segments as four vectors: paths (string), offsets, counts and records to skip (int64)."""
    columns = list(zip(*(dataclasses.astuple(segment) for segment in segments), strict=True))
    paths, *numbers = columns
    return tf.constant(paths), *(tf.constant(column, tf.int64) for column in numbers)


def segment_list(segments: Sequence[Segment]) -> tf.data.Dataset:
    """A dataset of segments, each as four scalars, for `segment_dataset`."""
    return tf.data.Dataset.from_tensor_slices(segment_columns(segments))


def segment_dataset(
    path: tf.Tensor, offset: tf.Tensor, count: tf.Tensor, skip: tf.Tensor
) -> tf.data.Dataset:
    """The records of a `Segment`, given as its scalars (string, then int64).

    For `flat_map` and `interleave`: outside a function TensorFlow fails to copy this dataset.
    """
    # tf.data.TFRecordDataset reads files from their beginning alone.
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=READ_BUFFER_BYTES,
        byte_offsets=[offset],
    )
    dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return dataset.skip(skip).take(count)


def share(segments: Sequence[Segment], index: int, num_shares: int) -> list[Segment]:
    """A contiguous share of segments of known counts; shares differ by one record at most."""
    total = sum(segment.count for segment in segments)
    first, end = total * index // num_shares, total * (index + 1) // num_shares
    taken, start = [], 0
    for segment in segments:
        low, high = max(first, start), min(end, start + segment.count)
        if low < high:
            skip = segment.skip + low - start
            taken.append(dataclasses.replace(segment, skip=skip, count=high - low))
        start += segment.count
    return taken


def spread(segments: Sequence[Segment], count: int) -> list[Segment]:
    """At most so many records, from all over the segments.

    In a bucket they are the first ones of segments from all over: to pass records over costs there
    as much as to read them.
    """
    step = max(1, len(segments) // count)
    segments = segments[::step][:count]
    share = -(-count // len(segments))
    taken: list[Segment] = []
    for segment in segments:
        if files.is_remote(segment.path):
            most = share if segment.count < 0 else min(share, segment.count)
            taken.append(dataclasses.replace(segment, count=most))
            continue
        end = None if segment.count < 0 else segment.skip + segment.count
        offsets = list(itertools.islice(_frames(segment.path, segment.offset), segment.skip, end))
        picks = np.linspace(0, len(offsets), min(share, len(offsets)), endpoint=False, dtype=int)
        taken += [Segment(segment.path, offsets[pick], 1) for pick in picks]
    return taken


class FileState(NamedTuple):
    """What tells a file from a changed one: path, bytes, date of change in ns."""

    path: str
    size: int
    changed: int


def states(paths: list[str]) -> list[FileState]:
    """The state of each file; in a bucket many are asked for at a time.

    Raises:
      UserError: names the file that cannot be read.
    """
    with futures.ThreadPoolExecutor(32 if files.is_remote(paths[0]) else 1) as pool:
        return list(pool.map(_state, paths))


def _state(path: str) -> FileState:
    try:
        found = tf.io.gfile.stat(path)
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    if found.is_directory:
        raise UserError(f"{path} is a folder where a TFRecord file is expected: move it away.")
    return FileState(path, found.length, found.mtime_nsec)


def fits_in_memory(paths: list[str]) -> bool:
    """Whether files fit in a quarter of the free memory."""
    return memory.fits_bytes(sum(state.size for state in states(paths)))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A record that cannot be used."""

    path: str
    record: int
    reason: str
    offset: int | None = None  # where the record begins, in bytes

    def __str__(self) -> str:
        return f"{self.path}, record {self.record}: {self.reason}"


def read_records(path: str) -> Iterator[bytes]:
    """Yields a file's records; UserError names the record where it breaks off."""
    size = _state(path).size
    # TensorFlow's reader takes a length's beginning at the end of a file for nothing, and a length
    # of terabytes ends the process.
    whole = None if files.is_remote(path) else count_whole(path)
    number = end = 0
    try:
        for record in itertools.islice(tf.python_io.tf_record_iterator(path), whole):
            yield record
            number += 1
            end += len(record) + FRAME_BYTES
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as e:
        raise _damaged(path, number, files.reason(e)) from e
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    if end < size:
        raise _damaged(path, number, BEYOND_END)


def _damaged(path: str, number: int, reason: str) -> UserError:
    return UserError(
        f"{path}, record {number}: the file is truncated or damaged ({reason}); copy it again."
    )


def count_whole(path: str, offset: int = 0) -> int:
    """Counts the records of a local file, from an offset on, that end in it by their lengths."""
    begins = list(_frames(path, offset))
    if not begins:
        return 0
    with open(path, "rb") as f:
        f.seek(begins[-1])
        end = begins[-1] + int.from_bytes(f.read(LENGTH_BYTES), "little") + FRAME_BYTES
    return len(begins) - (end > os.path.getsize(path))


def counts(paths: list[str]) -> list[int] | None:
    """Records of each file by the lengths in their frames; None where that would take long.

    That is in a bucket, or beyond `MOST_COUNTED` records.
    """
    if files.is_remote(paths[0]):
        return None
    found: list[int] = []
    left = MOST_COUNTED
    for path in paths:
        found.append(sum(1 for _ in itertools.islice(_frames(path), left + 1)))
        left -= found[-1]
        if left < 0:
            return None
    return found


def count(paths: list[str]) -> int | None:
    """The number of records in files; None where `counts` is."""
    found = counts(paths)
    return None if found is None else sum(found)


def _frames(path: str, offset: int = 0) -> Iterator[int]:
    """Yields where the records of a local file begin, by the lengths in their frames."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        while offset < size:  # a damaged length leads far behind the end
            yield offset
            f.seek(offset)
            offset += int.from_bytes(f.read(LENGTH_BYTES), "little") + FRAME_BYTES


def unpack(serialized: bytes, path: str, number: int) -> tuple[bytes, int]:
    """(encoded image, label as stored) of a record; UserError names it if it is no example."""
    features, reason = examples.features(serialized)
    if reason:
        raise UserError(str(Problem(path, number, reason)))
    return features[examples.IMAGE_KEY].bytes_list.value[0], features[
        examples.LABEL_KEY
    ].int64_list.value[0]


def check_first_records(paths: list[str], num_classes: int, num_files: int = 8, count: int = 4):
    """Checks the first records of some files of a split, spread over it.

    Raises:
      UserError: names the file, the record and what is wrong with it; or there is no record at all.
    """
    step = max(1, len(paths) // num_files)
    found = [_check_first(path, num_classes, count) for path in paths[::step][:num_files]]
    if not any(found) and not any(_check_first(path, num_classes, count) for path in paths):
        raise no_record(paths)


def _check_first(path: str, num_classes: int, count: int) -> bool:
    """Checks the first records of a file; returns whether it has any."""
    number = -1
    for number, record in enumerate(itertools.islice(read_records(path), count)):
        reason = examples.problem_of(record, num_classes) or examples.undecodable(record)
        if reason:
            raise UserError(str(Problem(path, number, reason)))
    return number >= 0


def no_record(paths: list[str]) -> UserError:
    """What is wrong where all files of a split are empty."""
    folder, name = os.path.split(paths[0])
    return UserError(
        f"--data_dir={folder}: its {name.partition('-')[0]}-* hold no record: build or copy the "
        "data set again."
    )
