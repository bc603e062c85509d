"""Finds, reads and checks the TFRecord files of a data set, and names the record that is bad.

A data set has two splits, one for training and one for evaluation. Functions of `utils.reading`
take a split as `file_prefix`, with which the names of its files begin: `TRAIN_PREFIX` or
`EVAL_PREFIX`. The settings train_files and eval_files name files of other names.

A record's length (8 bytes) and the checksum of the length (4) stand before its content, the
checksum of the content (4) behind it. TensorFlow's reader verifies the checksums; `frames` and what
is built on it go from length to length without parsing. A file may be compressed as a whole, by
GZIP or ZLIB: its offsets are those of its content, and moving to one takes as long as reading up to
it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fnmatch
import io
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from utils.base import files, memory
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import examples
from utils.reading.examples import PUBLISHED, RecordFormat

_LENGTH_BYTES, _HEADER_BYTES = 8, 12
FRAME_BYTES = 16  # what a record takes in a file beyond its content
GZIP, ZLIB = "GZIP", "ZLIB"  # TensorFlow's names
_GZIP_START = b"\x1f\x8b\x08"
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_START_BYTES = 10  # by which a compressed file is recognized
_GZIP_HEADER, _EITHER_HEADER = 16 + zlib.MAX_WBITS, 32 + zlib.MAX_WBITS  # what zlib expects
_BLOCK_BYTES, _PIECE_BYTES = 16 * 1024, 4 * 1024  # compressed and decompressed at a time


class Frame(NamedTuple):
    """Where a record is in its file.

    Attributes:
      begin: the byte at which its length stands.
      length: bytes of its content, as the file says; damage may make it any number.
    """

    begin: int
    length: int

    @property
    def end(self) -> int:
        """Returns the byte at which the next record begins; after damage, beyond the file's end."""
        return self.begin + self.length + FRAME_BYTES


def frames(path: str, offset: int = 0) -> Iterator[Frame]:
    """Yields the frames of a file's records, from the one that begins at byte `offset` on.

    Only the last of them may end beyond the file's end.
    """
    return (frame for frame, _ in checked_frames(path, offset))


def checked_frames(path: str, offset: int = 0) -> Iterator[tuple[Frame, bool]]:
    """Yields the frames as `frames` does, each with whether its record ends within the file."""
    with _open(path) as f:
        inflated = f if isinstance(f, _Inflated) else None
        plain_size = 0 if inflated else _plain_size(path)
        while inflated or offset < plain_size:
            f.seek(offset)
            length = f.read(_LENGTH_BYTES)
            if inflated and not length and not inflated.is_cut:
                return
            frame = Frame(offset, int.from_bytes(length, "little"))
            # Where a compressed file ends, reading it tells.
            end = inflated.seek(frame.end) if inflated else plain_size
            is_whole = frame.end <= end
            yield frame, is_whole
            if not is_whole:
                return
            offset = frame.end


def count_whole(path: str, offset: int = 0) -> int:
    """Counts the records from byte `offset` on that end within their file."""
    return sum(is_whole for _, is_whole in checked_frames(path, offset))


def whole_frame_at(path: str, offset: int) -> Frame | None:
    """Returns the frame that begins at byte `offset`; None if it does not end within the file."""
    frame, is_whole = next(checked_frames(path, offset), (None, False))
    return frame if is_whole else None


def content(path: str, frame: Frame) -> bytes:
    """Returns the content of a record, unverified."""
    with _open(path) as f:
        f.seek(frame.begin + _HEADER_BYTES)
        return f.read(frame.length)


def contents(path: str, offset: int, count: int) -> Iterator[bytes]:
    """Yields the contents, unverified, of `count` records from byte `offset` on, in one pass.

    The records must be good: their lengths are believed.
    """
    with _open(path) as f:
        f.seek(offset)
        for _ in range(count):
            header = f.read(_HEADER_BYTES)
            yield f.read(int.from_bytes(header[:_LENGTH_BYTES], "little"))
            f.read(FRAME_BYTES - _HEADER_BYTES)


def content_size(path: str) -> int:
    """Returns the size of a file's content in bytes.

    A compressed file that is cut or damaged has a byte more than can be read of it. So a last
    record that seems whole does not hide the damage.
    """
    if not compression(path):
        return _plain_size(path)
    with _Inflated(_open_plain(path)) as f:
        return f.seek(sys.maxsize) + f.is_cut


def compression(path: str) -> str:
    """Returns `GZIP`, `ZLIB` or, for a file that is not compressed, an empty text."""
    with _open_plain(path) as f:
        return _compression(f.read(_START_BYTES))


def _compression(start: bytes) -> str:
    """Tells the compression by the first bytes of a file, with which a length may begin, too."""
    if start.startswith(_GZIP_START) and start[8:9] in (b"\x00", b"\x02", b"\x04"):
        return GZIP  # behind the length 0x88b1f, byte 8 would be 0xd0, of its checksum
    if start.startswith(_ZLIB_STARTS) and any(start[4:8]):
        return ZLIB  # a length with other bytes than zeros there would be of 4 GB
    return ""


def _open(path: str) -> io.IOBase:
    f = _open_plain(path)
    is_compressed = _compression(f.read(_START_BYTES))
    f.seek(0)
    return _Inflated(f) if is_compressed else f


def _open_plain(path: str) -> io.BufferedIOBase:
    # TensorFlow's file would read half a megabyte after each jump from one record to the next.
    return tf.io.gfile.GFile(path, "rb") if files.is_remote(path) else open(path, "rb")


def _plain_size(path: str) -> int:
    return tf.io.gfile.stat(path).length if files.is_remote(path) else os.path.getsize(path)


class _Inflated(io.RawIOBase):
    """The content of a compressed file, which may consist of several compressed parts.

    Attributes:
      is_cut: whether reading has come to where the rest is missing or damaged.
    """

    def __init__(self, compressed: io.BufferedIOBase):
        self._compressed = compressed
        self._begin()

    def _begin(self) -> None:
        self._compressed.seek(0)
        self._part = zlib.decompressobj(_EITHER_HEADER)
        self._waiting = b""  # compressed
        self._ready = bytearray()
        self._position = 0
        self.is_cut = False

    def read(self, count: int = -1) -> bytes:
        while len(self._ready) < count and (piece := self._next_piece()):
            self._ready += piece
        found = bytes(self._ready[:count])
        del self._ready[:count]
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte, or to the end if that comes first; returns where it is."""
        if offset < self._position:
            self._begin()
        while self._position < offset and self.read(min(_BLOCK_BYTES, offset - self._position)):
            pass
        return self._position

    def _next_piece(self) -> bytes:
        """Returns the next bytes of the content; none at the end.

        A piece that holds an error is lost as a whole. All pieces are made alike, so that the
        content ends at the same byte whoever reads it.
        """
        while not self.is_cut:
            compressed = self._waiting or self._compressed.read(_BLOCK_BYTES)
            if self._part.eof:
                if not compressed:
                    return b""
                self._part = zlib.decompressobj(_GZIP_HEADER)  # alone has several parts
            try:
                piece = self._part.decompress(compressed, _PIECE_BYTES)
            except zlib.error:
                self.is_cut = True
                return b""
            self._waiting = self._part.unconsumed_tail or self._part.unused_data
            if piece:
                return piece
            self.is_cut = not compressed and not self._part.eof
        return b""

    def close(self) -> None:
        self._compressed.close()
        super().close()


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
        return [compression(paths[0])] * len(paths)
    found = {path: compression(path) for path in set(paths)}
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


def share_of(segments: Sequence[Segment], index: int, num_shares: int) -> list[Segment]:
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


def spread_over(segments: Sequence[Segment], count: int) -> list[Segment]:
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
        walked = frames(segment.path, segment.offset)
        offsets = [frame.begin for frame in itertools.islice(walked, segment.skip, end)]
        picks = np.linspace(0, len(offsets), min(most, len(offsets)), endpoint=False, dtype=int)
        taken += [Segment(segment.path, offsets[pick], 1) for pick in picks]
    return taken


def without_tuning(
    dataset: tf.data.Dataset, deterministic: bool | None = None, rewrite: bool = True
) -> tf.data.Dataset:
    """Returns the dataset with options that let it end as soon as its reader does.

    tf.data tunes datasets in a thread that sleeps for up to a minute at a time, and the end of a
    training or of an evaluation waits for this thread. This package gives all degrees of
    parallelism and all buffer sizes, so that nothing is left to tune.

    Args:
      dataset: any dataset; those made from the result keep the options.
      deterministic: whether elements keep their order between threads; None leaves that as it is.
      rewrite: whether tf.data may optimize the graph first, which takes longer than opening a file.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    if deterministic is not None:
        options.deterministic = deterministic
    if not rewrite:
        options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)


_RECORD_FILE = re.compile(r"\.(tfrec(ord)?s?|records?)\b|-\d+-of-\d+")
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# The words by which people name splits: seg_train, Training Set, val2017.
_SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "val": VALIDATION,
    "valid": VALIDATION,
    "dev": VALIDATION,
    "eval": VALIDATION,
    "evaluation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
# Words that any split's name may have; _SET takes off the ends of trainset and traindata.
_FILLERS = {"", "data", "image", "images", "img", "imgs", "picture", "pictures", "photos", "split"}
_SET = re.compile(r"(set|data)$")
_FIRST_RECORDS = 100  # which show whether labels count from 0


def split_of(name: str) -> tuple[str | None, frozenset[str]]:
    """Returns the split that a folder's name tells, if any, and the words it has besides.

    seg_train is (train, {seg}), and so is Seg-TrainSet 2; val2017 is (validation, {}).
    """
    found = {_SET.sub("", word) for word in words_of(name) if not word.isdigit()}
    splits = {_SPLIT_WORDS[word] for word in found if word in _SPLIT_WORDS}
    return (
        splits.pop() if len(splits) == 1 else None,
        frozenset(found - _SPLIT_WORDS.keys() - _FILLERS),
    )


def words_of(name: str) -> list[str]:
    """Returns the words and numbers of a name in lower case: train, set and 2 of TrainSet_2."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def is_of_tensorflow_datasets(description: Any) -> bool:
    """Whether the content of a dataset_info.json is what TensorFlow Datasets writes."""
    return isinstance(description, dict) and isinstance(description.get("splits"), list)


def advice_on(data_dir: str) -> str | None:
    """Returns a sentence on the records in a folder that lacks the usual files; None without any.

    It names the folder below that has the usual files, or else the flags that read what is there.
    """
    paths = list(_record_files(data_dir))
    names = [os.path.relpath(path, data_dir) for path in paths]
    by_split = collections.defaultdict(list)
    for name in names:
        by_split[split_of(name)[0]].append(name)
    patterns = {
        "train_files": _pattern(by_split[TRAIN]),
        "eval_files": _pattern(by_split[VALIDATION] or by_split[TEST]),
    }
    if not paths:
        return None
    folder, name = os.path.split(patterns["train_files"] or "")
    if name == "train-*":
        return f"name the folder with these files, --data_dir={os.path.join(data_dir, folder)}."
    first = by_split[TRAIN] or names
    found = list(_first_features(os.path.join(data_dir, first[0])))
    if found and examples.is_for_detection(found[0]):
        return (
            f"{first[0]} holds records for object detection, with a label for each box, and a "
            "classifier needs one label a picture."
        )
    of_tfds = _is_tfds_folder(data_dir)
    flags = [f"--{flag}='{pattern or 'PATTERN'}'" for flag, pattern in patterns.items()]
    flags += _format_flags(found, of_tfds)
    if of_tfds:
        return f"{first[0]} is of TensorFlow Datasets: add {' '.join(flags)}."
    return (
        f"{first[0]} is of another program: add {' '.join(flags)} (to a training also "
        "--num_train_images, --num_eval_images and --num_label_classes)."
    )


def _record_files(data_dir: str) -> Iterator[str]:
    """Yields the paths of what seem to be TFRecord files in a folder, and in those below it."""
    for depth in ("*", os.path.join("*", "*")):
        with contextlib.suppress(tf.errors.OpError):
            for path in sorted(tf.io.gfile.glob(os.path.join(data_dir, depth))):
                if _RECORD_FILE.search(os.path.basename(path)) and not tf.io.gfile.isdir(path):
                    yield path


def _pattern(names: Sequence[str]) -> str | None:
    """Returns a pattern of the names, which differ in numbers; None if there are none."""
    if len(names) < 2:
        return names[0] if names else None
    extension = re.search(r"\.[a-z]+$", names[0])
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in same).rstrip("0123456789")
    return f"{start}*{extension[0] if extension else ''}"


def _first_features(path: str) -> Iterator[Mapping[str, Any]]:
    """Yields the features of the first records of a file, as far as they are examples."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        for frame, is_whole in itertools.islice(checked_frames(path), _FIRST_RECORDS):
            found, _ = examples.features(content(path, frame)) if is_whole else ({}, "")
            if not found:
                return
            yield found


def _format_flags(found: Sequence[Mapping[str, Any]], of_tfds: bool) -> list[str]:
    """Returns the flags that describe records as far as they are unlike the published ones."""
    if not found:
        return []
    flags = []
    label_key = examples.LABEL_KEY
    if not {examples.IMAGE_KEY, examples.LABEL_KEY} <= set(found[0]):
        flags.append(examples.keys_flag(found[0]))
        label_key = flags[0].rpartition("=")[2]
    if of_tfds or any(0 in features[label_key].int64_list.value for features in found):
        flags.append("--first_label=0")
    return flags


def _is_tfds_folder(data_dir: str) -> bool:
    path = os.path.join(data_dir, "dataset_info.json")
    with contextlib.suppress(UserError, ValueError):
        return tf.io.gfile.exists(path) and is_of_tensorflow_datasets(
            json.loads(files.read_text(path))
        )
    return False


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
    """Whether a data_dir names TFRecord files, else its images are black.

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
    what = advice_on(data_dir) or "is it a folder of TFRecords? (mnasnet-data makes one.)"
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
    """Whether a file is one of a split by its name, without that of its folder."""
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
    """Whether files together take at most a quarter of the free memory."""
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
        bytes_left -= os.path.getsize(path) if compression(path) else 0
        if bytes_left < 0:
            return None
        found.append(sum(1 for _ in itertools.islice(frames(path), left + 1)))
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
        kind = compression(path)
        options = tf.python_io.TFRecordOptions(compression_type=kind)
        following = tf.python_io.tf_record_iterator(path, options)
        if kind or not files.is_remote(path):
            following = _whole_records(path, following)
        for record in following:
            yield record
            number += 1
            end += len(record) + FRAME_BYTES
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as e:
        raise _damaged(path, number, files.reason(e)) from e
    except (tf.errors.OpError, OSError) as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    if end < size and not kind:
        raise _damaged(path, number, BEYOND_END)


def _whole_records(path: str, following: Iterator[bytes]) -> Iterator[bytes]:
    """Yields what TensorFlow's reader yields, but lets it read only records that end in the file.

    It overlooks half a length at the end of a file, and a length of terabytes makes it end the
    process.
    """
    for number, (_, is_whole) in enumerate(checked_frames(path)):
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
