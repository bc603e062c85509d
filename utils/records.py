"""TFRecord files of examples: finding, parsing and checking them, and naming the bad record."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

import preprocessing
import utils.tensorflow_version  # noqa: F401
from utils import files, memory, picture_limits
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
# A record is framed by its length and the length's checksum before, and a checksum behind.
LENGTH_BYTES, HEADER_BYTES, FRAME_BYTES = 8, 12, 16
MOST_COUNTED = 200_000  # half a second's work
READ_BUFFER_BYTES = 256 * 1024
BEYOND_END = "the record ends behind the file's end"
LABEL_ERROR = "Label out of range"
GREATEST_LABEL = 2**31 - 1
# What a feature holds, by the field of tf.train.Feature.
_KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers"}


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


def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A serialized example to (encoded image, label as stored), both scalars.

    A label beyond +-`GREATEST_LABEL` becomes that.
    """
    features = tf.parse_single_example(
        serialized,
        {
            IMAGE_KEY: tf.FixedLenFeature([], tf.string),
            LABEL_KEY: tf.FixedLenFeature([], tf.int64),
        },
    )
    # A label beyond int32 must not wrap around to one that is in range.
    label = tf.clip_by_value(features[LABEL_KEY], -GREATEST_LABEL, GREATEST_LABEL)
    return features[IMAGE_KEY], tf.cast(label, tf.int32)


def label_message(label: tf.Tensor, num_classes: int) -> tf.Tensor:
    """The text of the error that the input raises for a label out of range."""
    return tf.string_join([LABEL_ERROR, ": ", tf.as_string(label), f" is not in 1..{num_classes}."])


def example(
    image_bytes: bytes, label: int, more: Mapping[str, str | bytes | int] | None = None
) -> bytes:
    """A serialized example; `label` is 1-based, `more` are further features."""
    values = {IMAGE_KEY: image_bytes, LABEL_KEY: label, **(more or {})}
    features = tf.train.Features(feature={key: _feature(v) for key, v in values.items()})
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def _feature(value: str | bytes | int) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


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
    features, reason = _features(serialized)
    if reason:
        raise UserError(str(Problem(path, number, reason)))
    return features[IMAGE_KEY].bytes_list.value[0], features[LABEL_KEY].int64_list.value[0]


def problem_of(serialized: bytes, num_classes: int) -> str | None:
    """What is wrong with an example, short of decoding its picture; None for nothing."""
    features, reason = _features(serialized)
    return reason or label_problem(features[LABEL_KEY].int64_list.value[0], num_classes)


def _features(serialized: bytes) -> tuple[Mapping[str, tf.train.Feature], str | None]:
    """Returns an example's features by name, and what is wrong with those that training reads."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # protobuf's DecodeError differs between its implementations
        return {}, "this is no tf.train.Example: build or copy the data again."
    return features, _feature_problem(features)


def _feature_problem(features: Mapping[str, tf.train.Feature]) -> str | None:
    """Says which feature is not what training reads; None if there is a picture with a label."""
    for key, kind in ((IMAGE_KEY, "bytes_list"), (LABEL_KEY, "int64_list")):
        found = features[key].WhichOneof("kind") if key in features else None
        if found is None:
            return f"the feature {key} is missing: build the data again with it."
        if found != kind:
            return (
                f"the feature {key} holds {_KINDS[found]} where {_KINDS[kind]} are expected: build "
                "the data again."
            )
        count = len(getattr(features[key], kind).value)
        if count != 1:
            return f"the feature {key} has {count} values, not one: build the data again."
    return None


def label_problem(label: int, num_classes: int) -> str | None:
    """What is wrong with a label as stored; None for nothing."""
    if 1 <= label <= num_classes:
        return None
    if abs(label) > GREATEST_LABEL:
        return (
            f"label {label} does not fit in 32 bits: labels in the files are 1 to the number of "
            "classes."
        )
    return (
        f"label {label} is not in 1..{num_classes}: labels in the files start at 1; "
        "check --num_label_classes."
    )


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
        reason = problem_of(record, num_classes) or undecodable(record)
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


def undecodable(serialized: bytes) -> str | None:
    """Why an example's picture cannot be decoded; None if it can."""
    features = tf.train.Example.FromString(serialized).features.feature
    return picture_problem(features[IMAGE_KEY].bytes_list.value[0])


def picture_problem(image_bytes: bytes) -> str | None:
    """Says why an encoded picture cannot be decoded; None if it can."""
    with tf.Graph().as_default(), tf.Session() as session:
        encoded = tf.constant(image_bytes)
        claimed = preprocessing.claimed_shape(encoded)
        image = preprocessing.decode_whole(encoded)
        try:
            too_large = picture_limits.size_problem(*session.run(claimed).tolist())
            if too_large:
                return too_large
            session.run(image)
        except tf.errors.OpError as e:
            return undecodable_because(e)
    return None


def undecodable_because(error: Exception) -> str:
    """Says that a picture cannot be decoded because of a decoder's error."""
    return f"the picture cannot be decoded ({files.reason(error)}): replace or remove it."
