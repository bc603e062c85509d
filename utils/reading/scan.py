"""Scans TFRecord files for damage, bad examples, wrong labels and bad pictures.

A scan finds what training would stumble over, and where the good records are. `mnasnet-data
inspect` shows it, --skip_bad_images leaves out what it finds, and after a run that stopped it names
the record at which. The list in model_dir, `bad_images.json`, is valid as long as the names, sizes
and dates of the files stay the same.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from utils.base import files, memory
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.tensorflow_version import tf
from utils.reading import examples, pictures, records
from utils.reading.examples import PUBLISHED, RecordFormat
from utils.reading.records import Frame, Problem, Segment


def data_errors() -> tuple[type[Exception], ...]:
    """Returns what reading a bad record raises; a message that quotes its bytes has no decoding."""
    return tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError


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
            dataset = tf.data.Dataset.from_tensors(segment).flat_map(records.records_of)
            facts_of = dataset.map(
                lambda serialized: facts(serialized, form), num_parallel_calls=2 * memory.cores()
            )
            facts_of = records.without_tuning(facts_of, rewrite=False)
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
        count = -1 if files.is_remote(path) else records.count_whole(path, offset)
        place = {
            self._path: path,
            self._offset: offset,
            self._count: count,
            self._compression: records.compression(path),
        }
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
    import preprocessing  # needs TensorFlow, which takes seconds to load

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
    is_possible = tf.Assert(numbers <= pictures.MOST_NUMBERS, ["The picture is too large."])
    with tf.control_dependencies([is_possible]):
        return tf.identity(image_bytes)


def _scan_file(reader: _Reader, path: str, num_classes: int, form: RecordFormat, count) -> FileScan:
    """Scans a file; after a bad record it resumes at the next, if the length can be believed."""
    records.states([path])  # an error of its own if it cannot be read
    size = records.content_size(path)
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
        except (tf.errors.OpError, *data_errors()) as e:
            is_damage = isinstance(e, (tf.errors.DataLossError, tf.errors.OutOfRangeError))
            frame = records.whole_frame_at(path, offset)
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
        return examples.problem_of(records.content(path, frame), num_classes, form)
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
    serialized = records.content(path, frame)
    return (
        examples.problem_of(serialized, num_classes, form)
        or examples.undecodable(serialized, form)
        or examples.undecodable_because(error)
    )


FILE_NAME = "bad_images.json"
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class GoodRecords:
    """The good records of a split.

    Attributes:
      segments: where they are.
      problems: the records left out.
      files: the files that were scanned.
    """

    segments: tuple[Segment, ...]
    problems: tuple[Problem, ...]
    files: tuple[records.FileState, ...]

    @property
    def num_records(self) -> int:
        """Counts the records of the split, good and bad ones."""
        return sum(segment.count for segment in self.segments) + len(self.problems)


def of_split(params: Mapping[str, Any], file_prefix: str) -> GoodRecords | None:
    """Returns the good records of a split; None without --skip_bad_images, when all are read.

    Args:
      params: all settings.
      file_prefix: 'train-' or 'validation-'.

    Raises:
      UserError: as `of_files`, or there are no files.
    """
    if not params["skip_bad_images"] or not records.has_files(params["data_dir"]):
        return None
    paths = records.list_files(params["data_dir"], file_prefix, params)
    return of_files(params, file_prefix, records.states(paths))


def of_files(
    params: Mapping[str, Any], file_prefix: str, states: Sequence[records.FileState]
) -> GoodRecords:
    """Returns the good records of files, from the list in model_dir or else from a scan.

    Args:
      params: all settings.
      file_prefix: 'train-' or 'validation-': the name of the split in the list.
      states: of all files of the split; at least one.

    Raises:
      UserError: a label is out of range, which is not damage; or a file is cut short, so that
        nobody knows how many records are lost; or no good record is left; or the list cannot be
        written to model_dir.
    """
    model_dir = params["model_dir"]
    known = _load(model_dir)
    if file_prefix in known and known[file_prefix].files == tuple(states):
        return known[file_prefix]
    # The scan may take an hour: a folder that cannot hold its list is found out before it.
    files.make_writable_dir(model_dir, "model_dir")
    paths = [state.path for state in states]
    form = examples.record_format(params)
    found = scan(paths, params["num_label_classes"], f"look at {file_prefix}*", form)
    _check_kept(found)
    good = GoodRecords(
        tuple(segment for one in found for segment in one.segments),
        tuple(problem for one in found for problem in one.unreadable),
        tuple(states),
    )
    if not good.num_records:
        raise records.no_record(paths)
    if not good.segments:
        raise UserError(f"{file_prefix}*: no record is good; the first: {good.problems[0]}")
    _log(f"{file_prefix}*", good, model_dir)
    _save(model_dir, {**known, file_prefix: good})
    return good


def _check_kept(found: Sequence[FileScan]) -> None:
    """UserError for what must not be left out in silence: labels, and the rest of a file."""
    for mislabelled in (problem for one in found for problem in one.mislabelled):
        raise UserError(str(mislabelled))
    for cut in (one for one in found if one.broken_off):
        raise UserError(
            f"{cut.path}, record {cut.num_records - 1}: the file is cut short or damaged here, and "
            "what follows cannot be counted: copy the file again (--skip_bad_images leaves out bad "
            "records, not the rest of a file)."
        )


def _log(name: str, good: GoodRecords, model_dir: str) -> None:
    if not good.problems:
        logging.info("%s: all %d records are good.", name, good.num_records)
        return
    logging.info(
        "%s: %d of %d records are bad and will be left out (%s lists them):",
        name,
        len(good.problems),
        good.num_records,
        os.path.join(model_dir, FILE_NAME),
    )
    for problem in good.problems[:SHOWN]:
        logging.info("  %s", problem)


def _load(model_dir: str) -> dict[str, GoodRecords]:
    path = os.path.join(model_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return {}
    remedy = "remove it to have the records looked at again"
    return files.read_json(path, "a list of bad images", remedy, _checked)


def _checked(content: Any) -> dict[str, GoodRecords]:
    if not isinstance(content, dict):
        raise TypeError("it is not a mapping")
    return {key: _checked_split(files.member(content, key, dict)) for key in content}


def _checked_split(content: Mapping[str, Any]) -> GoodRecords:
    states = [records.FileState(*row) for row in _rows(content, "files", (str, int, int))]
    segments = [Segment(*row) for row in _rows(content, "segments", (str, int, int, int))]
    problems = []
    for problem in files.member(content, "problems", list):
        files.member(problem, "path", str)
        files.member(problem, "record", int)
        files.member(problem, "reason", str)
        files.member(problem, "offset", int, type(None))
        problems.append(Problem(**problem))
    return GoodRecords(tuple(segments), tuple(problems), tuple(states))


def _rows(content: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> list[list[Any]]:
    rows = files.member(content, key, list)
    for row in rows:
        if not isinstance(row, list) or tuple(map(type, row)) != kinds:
            raise TypeError(f"{key} has the row {row!r:.60}")
    return rows


def _save(model_dir: str, splits: dict[str, GoodRecords]) -> None:
    content = {
        key: {
            "problems": [dataclasses.asdict(problem) for problem in split.problems],
            "segments": [dataclasses.astuple(segment) for segment in split.segments],
            "files": split.files,
        }
        for key, split in splits.items()
    }
    files.write_json(os.path.join(model_dir, FILE_NAME), content, indent=1)
