"""Scans TFRecord files record by record, for damage, bad examples, wrong labels and bad pictures.

A scan finds what training would stumble over, and where the good records are. `mnasnet-data
inspect` shows it, --skip_bad_images leaves out what it finds, and after a run that stopped it names
the record at which.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator

import numpy as np

import preprocessing
from utils.base import files, memory
from utils.base.progress import Progress
from utils.reading import dataset_options, examples, framing, picture_limits, records, segments
from utils.reading.examples import PUBLISHED, RecordFormat
from utils.reading.framing import Frame
from utils.reading.records import Problem
from utils.reading.segments import Segment

import tensorflow.compat.v1 as tf

# What reading a bad record raises. A message that quotes the record's bytes cannot be decoded.
DATA_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class FileScan:
    """What a scan found in a file.

    Attributes:
      path: path of the file.
      num_records: number of records, good and bad, as far as the file can be read.
      unreadable: records that cannot be read or decoded.
      mislabelled: records whose label is out of range.
      segments: the runs of records between the unreadable ones.
      facts: int32 [decodable records, 4]: label, counted from 1, height, width, bytes of the
        encoded picture.
      broken_off: whether the last record's length is lost, and with it whatever follows.
      form: format of the records.
    """

    path: str
    num_records: int
    unreadable: tuple[Problem, ...]
    mislabelled: tuple[Problem, ...]
    segments: tuple[Segment, ...]
    facts: np.ndarray
    broken_off: bool = False
    form: RecordFormat = PUBLISHED

    @property
    def problems(self) -> list[Problem]:
        """Returns the records that cannot be used, in the order of the file."""
        return sorted([*self.unreadable, *self.mislabelled], key=lambda problem: problem.record)


def scan(
    paths: list[str], num_classes: int, what: str = "scan", form: RecordFormat = PUBLISHED
) -> list[FileScan]:
    """Scans files in parallel and shows the progress.

    Args:
      paths: paths of the files.
      num_classes: labels that are not of so many classes are problems.
      what: what the progress line says is being done.
      form: format of the records.

    Returns:
      A scan of each file, in the order of `paths`.

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
        return list(_scans(paths, num_classes, form, count))
    finally:
        progress.close()


def first_problem(
    paths: list[str], num_classes: int, form: RecordFormat = PUBLISHED
) -> Problem | None:
    """Returns the first record of the files that cannot be used; None if all are good."""
    for found in _scans(paths, num_classes, form, lambda num_bytes: None):
        if found.problems:
            return found.problems[0]
    return None


def _scans(paths, num_classes, form, count: Callable[[int], None]) -> Iterator[FileScan]:
    """Yields scans in the order of the paths; once closed, it starts no further scan."""
    workers = min(len(paths), memory.cores())
    idle = [_Reader(form) for _ in range(workers)]

    def one(path):
        reader = idle.pop()
        try:
            return _scan_file(reader, path, num_classes, form, count)
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

    def __init__(self, form: RecordFormat) -> None:
        with tf.Graph().as_default() as graph:
            self._path = tf.placeholder(tf.string, [])
            self._offset = tf.placeholder(tf.int64, [])
            self._count = tf.placeholder(tf.int64, [])
            self._compression = tf.placeholder(tf.string, [])
            skip = tf.constant(0, tf.int64)
            segment = (self._path, self._offset, self._count, skip, self._compression)
            dataset = tf.data.Dataset.from_tensors(segment).flat_map(segments.records_of)
            facts_of = dataset.map(
                lambda serialized: facts(serialized, form), num_parallel_calls=2 * memory.cores()
            )
            facts_of = dataset_options.apply(facts_of, rewrite=False)
            iterator = tf.data.make_initializable_iterator(facts_of)
            following = iterator.get_next()
        self._initializer = iterator.initializer
        self._session = tf.Session(graph=graph)
        self._next = self._session.make_callable(following)

    def open(self, path: str, offset: int) -> None:
        """Starts at the record that begins at byte `offset` of a file.

        Reading ends before a record whose length leads beyond the file's end, because TensorFlow's
        reader would ask for that much memory.
        """
        count = -1 if files.is_remote(path) else framing.count_whole(path, offset)
        place = {
            self._path: path, self._offset: offset, self._count: count,
            self._compression: framing.compression(path),
        }  # fmt: skip
        self._session.run(self._initializer, place)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def next(self) -> np.ndarray:
        """Returns int32 [5]: label, height, width, bytes of the picture and of the record."""
        return self._next()


def facts(serialized: tf.Tensor, form: RecordFormat = PUBLISHED) -> tf.Tensor:
    """Decodes a serialized example, a scalar string, for its facts.

    Returns:
      int32 [5]: label, counted from 1, height, width, bytes of the picture and of the example.
    """
    image_bytes, label = examples.parse(serialized, form)
    claimed = preprocessing.claimed_shape(image_bytes)
    image_bytes = _of_possible_size(image_bytes, claimed)

    def jpeg():
        # Decoding at an eighth of the size still reads all bytes and finds the damage.
        eighth = tf.io.decode_jpeg(image_bytes, channels=3, ratio=8)
        # The sum keeps the decoder in the graph; tf.data optimizes a control dependency away.
        return claimed[:2] + 0 * tf.shape(eighth)[:2]

    def other():
        return tf.shape(preprocessing.decode_whole(image_bytes))[:2]

    size = tf.cond(preprocessing.is_jpeg(image_bytes), jpeg, other)
    lengths = tf.stack([tf.strings.length(image_bytes), tf.strings.length(serialized)])
    return tf.concat([[label], size, lengths], 0)


def _of_possible_size(image_bytes: tf.Tensor, claimed: tf.Tensor) -> tf.Tensor:
    """Returns the picture's bytes, or fails before they are decoded if the size is gigantic."""
    numbers = tf.reduce_prod(tf.cast(tf.maximum(claimed, [0, 0, 3]), tf.int64))
    is_possible = tf.Assert(numbers <= picture_limits.MOST_NUMBERS, ["The picture is too large."])
    with tf.control_dependencies([is_possible]):
        return tf.identity(image_bytes)


def _scan_file(reader: _Reader, path: str, num_classes: int, form: RecordFormat, count) -> FileScan:
    """Scans a file; after a bad record it resumes at the next, if the length can be believed."""
    records.states([path])  # an error of its own if it cannot be read
    size = framing.size(path)
    facts: list[np.ndarray] = []
    bad: dict[int, Problem] = {}  # by number of the record
    mislabelled: list[Problem] = []
    begins: list[int] = []  # the byte at which each record begins, good or bad
    offset, broken_off = 0, False
    reader.open(path, 0)
    while offset < size:
        number = len(begins)
        begins.append(offset)
        try:
            fact = reader.next()
        except (tf.errors.OpError, *DATA_ERRORS) as e:
            is_damage = isinstance(e, (tf.errors.DataLossError, tf.errors.OutOfRangeError))
            frame = framing.whole_frame_at(path, offset)
            if is_damage and frame and frame.length == 0:
                frame = None  # a block of zeros, not millions of empty records
            if is_damage or frame is None:
                reason = _damage(e, is_last=frame is None)
            else:
                reason = _bad_example(path, frame, num_classes, form, e)
            bad[number] = Problem(path, number, reason, offset)
            if frame is None:
                broken_off = True  # nothing says where the next record begins
                break
            offset = frame.end
            count(frame.length)
            if is_damage:
                reader.open(path, offset)  # the reader gives up a file at the first damage
            continue
        frame = Frame(offset, int(fact[4]))
        wrong = _label_problem(path, frame, int(fact[0]), num_classes, form)
        if wrong:
            mislabelled.append(Problem(path, number, wrong, offset))
        facts.append(fact[:4])
        offset = frame.end
        count(frame.length)
    return FileScan(
        path,
        len(begins),
        tuple(bad.values()),
        tuple(mislabelled),
        tuple(_good_segments(path, begins, sorted(bad))),
        np.array(facts, np.int32).reshape(-1, 4),
        broken_off,
        form,
    )


def _good_segments(path: str, begins: list[int], bad: list[int]) -> Iterator[Segment]:
    """Yields the runs of records between the bad ones."""
    first = 0
    for end in [*bad, len(begins)]:
        if end > first:
            yield Segment(path, begins[first], end - first)
        first = end + 1


def _label_problem(
    path: str, frame: Frame, label: int, num_classes: int, form: RecordFormat
) -> str | None:
    problem = examples.label_problem(label, num_classes, form)
    if problem and abs(label) == examples.GREATEST_LABEL:
        # The parser clips larger labels to this one: the record itself has the true label.
        return examples.problem_of(framing.content(path, frame), num_classes, form)
    return problem


def _damage(error: Exception, is_last: bool) -> str:
    rest = ", nor what follows it" if is_last else ""
    is_end = isinstance(error, tf.errors.OutOfRangeError)
    cause = records.BEYOND_END if is_end else files.reason(error)
    return (
        f"the file is truncated or damaged here ({cause}) and the record cannot "
        f"be read{rest}; copy the file again."
    )


def _bad_example(
    path: str, frame: Frame, num_classes: int, form: RecordFormat, error: Exception
) -> str:
    serialized = framing.content(path, frame)
    return (
        examples.problem_of(serialized, num_classes, form)
        or examples.undecodable(serialized, form)
        or examples.undecodable_because(error)
    )
