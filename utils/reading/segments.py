"""Chooses runs of consecutive records of TFRecord files, and reads those alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from utils.base import files
from utils.reading import framing

import tensorflow.compat.v1 as tf

_READ_BUFFER_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive records of a file.

    Attributes:
      path: path of the file.
      offset: the byte of the content at which reading begins; a record begins there.
      count: number of records in the segment; -1 stands for all that follow.
      skip: records between `offset` and the segment's first record.
    """

    path: str
    offset: int = 0
    count: int = -1
    skip: int = 0


def columns(segments: Sequence[Segment]) -> tuple[tf.Tensor, ...]:
    """Returns segments as vectors: the four fields, of which all but the paths are int64.

    A fifth vector of strings says how the files are compressed.
    """
    paths, *numbers = zip(*(dataclasses.astuple(segment) for segment in segments), strict=True)
    columns = [tf.constant(column, tf.int64) for column in numbers]
    return tf.constant(paths), *columns, tf.constant(_compressions(paths))


def _compressions(paths: Sequence[str]) -> list[str]:
    """Returns how files are compressed; in a bucket the first tells, as each takes a request."""
    if files.is_remote(paths[0]):
        return [framing.compression(paths[0])] * len(paths)
    found = {path: framing.compression(path) for path in set(paths)}
    return [found[path] for path in paths]


def dataset(segments: Sequence[Segment]) -> tf.data.Dataset:
    """Returns the records of segments, one segment after the other, as scalar strings."""
    return tf.data.Dataset.from_tensor_slices(columns(segments)).flat_map(records_of)


def records_of(
    path: tf.Tensor, offset: tf.Tensor, count: tf.Tensor, skip: tf.Tensor, compression: tf.Tensor
) -> tf.data.Dataset:
    """Returns the records of one segment, given as scalars: an entry of each of its `columns`.

    Call it inside `flat_map` or `interleave`: TensorFlow fails to copy this dataset elsewhere.
    """
    # tf.data.TFRecordDataset cannot begin in the middle of a file.
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type=compression,
        buffer_size=_READ_BUFFER_BYTES,
        byte_offsets=[offset],
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return records.skip(skip).take(count)


def share(segments: Sequence[Segment], index: int, num_shares: int) -> list[Segment]:
    """Returns share `index` of segments whose counts are known.

    Shares are contiguous, and none has more than one record more than another.
    """
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
    """Returns segments of at most `count` records in all, taken from all over the given ones.

    Of a segment in a bucket the first records are taken, because skipping a record costs there as
    much as reading it. From a local file single records at even distances are taken.
    """
    step = max(1, len(segments) // count)
    segments = segments[::step][:count]
    most = -(-count // len(segments))
    taken: list[Segment] = []
    for segment in segments:
        if files.is_remote(segment.path):
            first_records = most if segment.count < 0 else min(most, segment.count)
            taken.append(dataclasses.replace(segment, count=first_records))
            continue
        end = None if segment.count < 0 else segment.skip + segment.count
        frames = framing.frames(segment.path, segment.offset)
        offsets = [frame.begin for frame in itertools.islice(frames, segment.skip, end)]
        picks = np.linspace(0, len(offsets), min(most, len(offsets)), endpoint=False, dtype=int)
        taken += [Segment(segment.path, offsets[pick], 1) for pick in picks]
    return taken
