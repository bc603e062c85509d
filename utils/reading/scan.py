"""Scans TFRecord files record by record: damaged files, bad examples, labels, pictures.

A scan finds what training would stumble over, and where the good records are. It names the record
at which a run stopped, is what `mnasnet-data inspect` shows, and tells --skip_bad_images what to
leave out.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import struct
import threading
from collections.abc import Callable, Iterator

import numpy as np

import preprocessing
from utils.base import files, memory
from utils.base.progress import Progress
from utils.reading import dataset_options, examples, picture_limits, records
from utils.reading.records import Problem, Segment

import tensorflow.compat.v1 as tf  # isort: skip

# What reading a bad record raises. An error that quotes the bytes of a record has no text.
DATA_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class FileScan:
    """What a file holds.

    Attributes:
      path: of the file.
      num_records: records, good and bad, as far as the file can be read.
      unreadable: records that cannot be read or decoded.
      mislabelled: records whose label is out of range.
      segments: the runs of records between the unreadable ones.
      facts: int32 [decodable records, 4]: label, height, width, bytes of the encoded picture.
      broken_off: whether the last record's length is lost, and so is what may follow it.
    """

    path: str
    num_records: int
    unreadable: tuple[Problem, ...]
    mislabelled: tuple[Problem, ...]
    segments: tuple[Segment, ...]
    facts: np.ndarray
    broken_off: bool = False

    @property
    def problems(self) -> list[Problem]:
        """All records that cannot be used, in order."""
        return sorted([*self.unreadable, *self.mislabelled], key=lambda problem: problem.record)


def scan(paths: list[str], num_classes: int, what: str = "scan") -> list[FileScan]:
    """Scans files in parallel, with progress; labels beyond `num_classes` are problems.

    Raises:
      UserError: a file cannot be opened at all.
    """
    total = max(1, sum(state.size for state in records.states(paths)) // 2**20)
    progress = Progress(what, total, "MB", log_every=max(200, total // 10))
    lock = threading.Lock()
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        with lock:
            done += num_bytes
            progress.update(min(total, done // 2**20))

    try:
        return list(_scans(paths, num_classes, count))
    finally:
        progress.close()


def first_problem(paths: list[str], num_classes: int) -> Problem | None:
    """The first record of files in their order that cannot be used; None if all are good."""
    for found in _scans(paths, num_classes, lambda num_bytes: None):
        if found.problems:
            return found.problems[0]
    return None


def _scans(paths, num_classes, count: Callable[[int], None]) -> Iterator[FileScan]:
    """Yields scans in the order of the paths; stops reading ahead when it is closed."""
    workers = min(len(paths), memory.cores())
    idle = [_Reader() for _ in range(workers)]

    def one(path):
        reader = idle.pop()
        try:
            return _scan_file(reader, path, num_classes, count)
        finally:
            idle.append(reader)

    try:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            waiting = iter(paths)
            pending = [pool.submit(one, path) for path in itertools.islice(waiting, workers)]
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(one, path) for path in itertools.islice(waiting, 1)]
    finally:
        for reader in idle:
            reader.close()


class _Reader:
    """Reads and decodes the records of one file after another with one graph."""

    def __init__(self) -> None:
        with tf.Graph().as_default() as graph:
            self._path = tf.placeholder(tf.string, [])
            self._offset = tf.placeholder(tf.int64, [])
            self._count = tf.placeholder(tf.int64, [])
            segment = (self._path, self._offset, self._count, tf.constant(0, tf.int64))
            dataset = tf.data.Dataset.from_tensors(segment).flat_map(records.segment_dataset)
            facts_of = dataset.map(facts, num_parallel_calls=2 * memory.cores())
            facts_of = dataset_options.apply(facts_of, rewrite=False)
            iterator = tf.data.make_initializable_iterator(facts_of)
            following = iterator.get_next()
        self._initializer = iterator.initializer
        self._session = tf.Session(graph=graph)
        self._next = self._session.make_callable(following)

    def open(self, path: str, offset: int) -> None:
        """Starts at the record that begins `offset` bytes into a file.

        It ends before one whose length leads behind the file's end, for which TensorFlow's reader
        would ask for memory.
        """
        count = -1 if files.is_remote(path) else records.count_whole(path, offset)
        place = {self._path: path, self._offset: offset, self._count: count}
        self._session.run(self._initializer, place)

    def close(self) -> None:
        """Ends the session."""
        self._session.close()

    def next(self) -> np.ndarray:
        """label, height, width, bytes of the picture and of the record."""
        return self._next()


def facts(serialized: tf.Tensor) -> tf.Tensor:
    image_bytes, label = examples.parse(serialized)
    claimed = preprocessing.claimed_shape(image_bytes)
    image_bytes = _of_possible_size(image_bytes, claimed)

    def jpeg():
        # At an eighth of the size all bytes are still read, and damage is found.
        eighth = tf.io.decode_jpeg(image_bytes, channels=3, ratio=8)
        # The decoded size stays in the sum: a control dependency would be optimized away.
        return claimed[:2] + 0 * tf.shape(eighth)[:2]

    def other():
        return tf.shape(preprocessing.decode_whole(image_bytes))[:2]

    size = tf.cond(preprocessing.is_jpeg(image_bytes), jpeg, other)
    lengths = tf.stack([tf.strings.length(image_bytes), tf.strings.length(serialized)])
    return tf.concat([[label], size, lengths], 0)


def _of_possible_size(image_bytes: tf.Tensor, claimed: tf.Tensor) -> tf.Tensor:
    """The picture's bytes; an error before it is decoded if it claims a gigantic size."""
    numbers = tf.reduce_prod(tf.cast(tf.maximum(claimed, [0, 0, 3]), tf.int64))
    is_possible = tf.Assert(numbers <= picture_limits.MOST_NUMBERS, ["The picture is too large."])
    with tf.control_dependencies([is_possible]):
        return tf.identity(image_bytes)


def _scan_file(reader: _Reader, path: str, num_classes: int, count) -> FileScan:
    """Scans a file; goes on behind a bad record as long as its length is believable."""
    size = records.states([path])[0].size
    facts: list[np.ndarray] = []
    bad: dict[int, Problem] = {}  # by record
    mislabelled: list[Problem] = []
    starts: list[int] = []  # of every record, in bytes
    offset, broken_off = 0, False
    reader.open(path, 0)
    while offset < size:
        number = len(starts)
        try:
            fact = reader.next()
        except (tf.errors.OpError, *DATA_ERRORS) as e:
            framing = isinstance(e, (tf.errors.DataLossError, tf.errors.OutOfRangeError))
            length = _length_at(path, offset, size)
            if framing and length == 0:
                length = None  # a block of zeros, not of millions of records
            reason = _reason(path, offset, length, num_classes, framing, e)
            bad[number] = Problem(path, number, reason, offset)
            starts.append(offset)
            if length is None:
                broken_off = True  # nothing says where the next record begins
                break
            offset += length + records.FRAME_BYTES
            count(length)
            if framing:
                # The reader gives a file up at the first damage.
                reader.open(path, offset)
            continue
        label = int(fact[0])
        wrong = examples.label_problem(label, num_classes)
        if wrong and abs(label) == examples.GREATEST_LABEL:  # it stands for those beyond, too
            serialized = _read(path, offset + records.HEADER_BYTES, int(fact[4]))
            wrong = examples.problem_of(serialized, num_classes)
        if wrong:
            mislabelled.append(Problem(path, number, wrong, offset))
        facts.append(fact[:4])
        starts.append(offset)
        offset += int(fact[4]) + records.FRAME_BYTES
        count(int(fact[4]))
    return FileScan(
        path,
        len(starts),
        tuple(bad.values()),
        tuple(mislabelled),
        tuple(_segments(path, starts, sorted(bad))),
        np.array(facts, np.int32).reshape(-1, 4),
        broken_off,
    )


def _segments(path: str, starts: list[int], bad: list[int]) -> Iterator[Segment]:
    """The runs of records between the bad ones."""
    first = 0
    for end in [*bad, len(starts)]:
        if end > first:
            yield Segment(path, starts[first], end - first)
        first = end + 1


def _read(path: str, offset: int, length: int) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as f:
        f.seek(offset)
        return f.read(length)


def _length_at(path: str, offset: int, size: int) -> int | None:
    """The length of the record that begins at an offset; None if it cannot be true."""
    header = _read(path, offset, records.LENGTH_BYTES)
    if len(header) < records.LENGTH_BYTES:
        return None
    length = struct.unpack("<Q", header)[0]
    return length if offset + length + records.FRAME_BYTES <= size else None


def _reason(path, offset, length, num_classes, framing, error) -> str:
    if framing:
        rest = ", nor what follows it" if length is None else ""
        is_end = isinstance(error, tf.errors.OutOfRangeError)
        cause = records.BEYOND_END if is_end else files.reason(error)
        return (
            f"the file is truncated or damaged here ({cause}) and the record cannot "
            f"be read{rest}; copy the file again."
        )
    serialized = _read(path, offset + records.HEADER_BYTES, length)
    return (
        examples.problem_of(serialized, num_classes)
        or examples.undecodable(serialized)
        or examples.undecodable_because(error)
    )
