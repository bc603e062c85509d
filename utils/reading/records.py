"""Finds, reads and checks the TFRecord files of a data set, and names the record that is bad.

A data set has two splits, one for training and one for evaluation. Functions of `utils.reading`
take a split as `file_prefix`, with which the names of its files begin: `TRAIN_PREFIX` or
`EVAL_PREFIX`. The settings train_files and eval_files name files of other names.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

from utils.base import files, memory
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import examples, foreign, framing
from utils.reading.examples import PUBLISHED, RecordFormat

TRAIN_PREFIX = "train-"
EVAL_PREFIX = "validation-"
SPLIT_PREFIXES = {"train": TRAIN_PREFIX, "validation": EVAL_PREFIX}  # by the split's name
_FILES_SETTINGS = {TRAIN_PREFIX: "train_files", EVAL_PREFIX: "eval_files"}
NULL_DATA = "null"  # the data_dir that feeds black images, to measure a model alone
# The published program names this bucket for made-up images. It is not read: black ones do.
FAKE_DATA_DIR = "gs://cloud-tpu-test-datasets/fake_imagenet"
_FAKE = "fake"  # short for FAKE_DATA_DIR
BEYOND_END = "the record ends beyond the file's end"
MOST_COUNTED = 200_000  # counting so many records takes half a second
MOST_INFLATED_BYTES = 500_000_000  # and decompressing so many bytes some seconds
_REMOTE_REQUESTS = 32  # states asked of a bucket at a time


def has_files(data_dir: str | None) -> bool:
    """Returns whether a data_dir names TFRecord files, else its images are black.

    They are black if it is None, empty, 'null' or `FAKE_DATA_DIR`, or if it is 'fake' and there is
    no such folder.
    """
    if data_dir == _FAKE:
        return tf.io.gfile.isdir(data_dir)
    return bool(data_dir) and data_dir not in (NULL_DATA, FAKE_DATA_DIR)


def list_files(
    data_dir: str, file_prefix: str, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Returns the paths of a split's files, sorted.

    Args:
      data_dir: folder or bucket.
      file_prefix: the split.
      settings: train_files and eval_files, which may name other files; None for the usual ones.

    Raises:
      UserError: there are none.
    """
    files.check_no_pattern(data_dir, "data_dir")
    paths = find_files(data_dir, file_prefix, settings)
    if paths:
        return paths
    patterns = file_patterns(file_prefix, settings)
    if patterns != file_patterns(file_prefix):
        flag = f"--{_FILES_SETTINGS[file_prefix]}={','.join(patterns)}"
        raise UserError(f"{flag} matches no file of --data_dir={data_dir}: correct the pattern.")
    what = foreign.advice(data_dir) or "is it a folder of TFRecords? (mnasnet-data makes one.)"
    raise UserError(f"--data_dir={data_dir} has no files {file_prefix}*: {what}")


def find_files(
    data_dir: str, file_prefix: str, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Returns the paths as `list_files` does; none if there are no files."""
    found: set[str] = set()
    for pattern in file_patterns(file_prefix, settings):
        pattern = files.expand_home(pattern)
        whole = pattern if files.is_remote(pattern) else os.path.join(data_dir, pattern)
        found.update(tf.io.gfile.glob(whole))
    return sorted(path for path in found if ".tmp-" not in os.path.basename(path))


def file_patterns(file_prefix: str, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the patterns of the names of a split's files, relative to data_dir or absolute."""
    given = settings and settings[_FILES_SETTINGS[file_prefix]]
    return [part.strip() for part in given.split(",")] if given else [f"{file_prefix}*"]


def is_of_split(
    file_name: str, file_prefix: str, settings: Mapping[str, Any] | None = None
) -> bool:
    """Tells whether a file is one of a split by its name, without that of its folder."""
    patterns = file_patterns(file_prefix, settings)
    return any(fnmatch.fnmatchcase(file_name, os.path.basename(p)) for p in patterns)


class FileState(NamedTuple):
    """What tells a file from a changed one.

    Attributes:
      path: path of the file.
      size: its size in bytes.
      changed: time of its last change in nanoseconds since 1970.
    """

    path: str
    size: int
    changed: int


def states(paths: list[str]) -> list[FileState]:
    """Returns the state of each file; a bucket is asked for many at a time.

    Raises:
      UserError: names the file that cannot be read.
    """
    workers = _REMOTE_REQUESTS if files.is_remote(paths[0]) else 1
    with futures.ThreadPoolExecutor(workers) as pool:
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
    """Returns whether files together take at most a quarter of the free memory."""
    return memory.fits_bytes(sum(state.size for state in states(paths)))


def counts(paths: list[str]) -> list[int] | None:
    """Returns the number of records in each file, counted by the lengths in their frames.

    Returns None if that would take long: in a bucket, or beyond `MOST_COUNTED` records or, in
    compressed files, `MOST_INFLATED_BYTES`.
    """
    if files.is_remote(paths[0]):
        return None
    found: list[int] = []
    left, bytes_left = MOST_COUNTED, MOST_INFLATED_BYTES
    for path in paths:
        bytes_left -= os.path.getsize(path) if framing.compression(path) else 0
        if bytes_left < 0:
            return None
        found.append(sum(1 for _ in itertools.islice(framing.frames(path), left + 1)))
        left -= found[-1]
        if left < 0:
            return None
    return found


def count(paths: list[str]) -> int | None:
    """Returns the number of records in all files; None if `counts` returns None."""
    found = counts(paths)
    return None if found is None else sum(found)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A record that cannot be used.

    Attributes:
      path: path of its file.
      record: its number in the file; the first is 0.
      reason: what is wrong with it, and what to do.
      offset: the byte at which it begins, if known.
    """

    path: str
    record: int
    reason: str
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.path}, record {self.record}: {self.reason}"


def read_records(path: str) -> Iterator[bytes]:
    """Yields the records of a file.

    Raises:
      UserError: the file cannot be opened, or is damaged; then the record is named.
    """
    size = _state(path).size
    number = end = 0
    try:
        compression = framing.compression(path)
        options = tf.python_io.TFRecordOptions(compression_type=compression)
        following = tf.python_io.tf_record_iterator(path, options)
        if compression or not files.is_remote(path):
            following = _whole_records(path, following)
        for record in following:
            yield record
            number += 1
            end += len(record) + framing.FRAME_BYTES
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as e:
        raise _damaged(path, number, files.reason(e)) from e
    except (tf.errors.OpError, OSError) as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    if end < size and not compression:
        raise _damaged(path, number, BEYOND_END)


def _whole_records(path: str, following: Iterator[bytes]) -> Iterator[bytes]:
    """Yields what TensorFlow's reader yields, but lets it read only records that end in the file.

    It overlooks half a length at the end of a file, and a length of terabytes makes it end the
    process.
    """
    for number, (_, is_whole) in enumerate(framing.checked_frames(path)):
        if not is_whole:
            raise _damaged(path, number, BEYOND_END)
        yield from itertools.islice(following, 1)


def _damaged(path: str, number: int, reason: str) -> UserError:
    return UserError(
        f"{path}, record {number}: the file is truncated or damaged ({reason}); copy it again."
    )


def unpack(
    serialized: bytes, path: str, number: int, form: RecordFormat = PUBLISHED
) -> tuple[bytes, int]:
    """Returns (encoded picture, label, counted from 1) of a record.

    Raises:
      UserError: the record is not a usable example; `path` and `number` name it.
    """
    features, reason = examples.features(serialized, form)
    if reason:
        raise UserError(str(Problem(path, number, reason)))
    (image_bytes,) = features[form.image_key].bytes_list.value
    return image_bytes, examples.label_of(features, form)


def check_first_records(
    paths: list[str],
    num_classes: int,
    num_files: int = 8,
    num_records: int = 4,
    form: RecordFormat = PUBLISHED,
) -> None:
    """Checks the first `num_records` records of `num_files` files from all over a split.

    Raises:
      UserError: names the file, the record and what is wrong with it; or the split has no record.
    """
    step = max(1, len(paths) // num_files)
    decoding = examples.Decoding()

    def check(path: str) -> bool:
        return _check_first(path, num_classes, num_records, decoding, form)

    found = [check(path) for path in paths[::step][:num_files]]
    if not any(found) and not any(check(path) for path in paths):
        raise no_record(paths)


def _check_first(
    path: str, num_classes: int, num_records: int, decoding: examples.Decoding, form: RecordFormat
) -> bool:
    """Checks the first records of a file; returns whether the file has any."""
    number = -1
    for number, record in enumerate(itertools.islice(read_records(path), num_records)):
        reason = examples.problem_of(record, num_classes, form) or decoding.problem_of(record, form)
        if reason:
            raise UserError(str(Problem(path, number, reason)))
    return number >= 0


def no_record(paths: list[str]) -> UserError:
    """Returns the error to raise if all files of a split are empty."""
    folder, name = os.path.split(paths[0])
    return UserError(
        f"--data_dir={folder}: its {name.partition('-')[0]}-* hold no record: build or copy the "
        "data set again."
    )
