"""Writes and reads the file in which a training keeps the features of its pictures.

It is a TFRecord file, so every record has a checksum. The first record says what the features were
made of (JSON), each further one holds the labels of some rows and then their features (int32 and
float32, little-endian), and the last one tells the number of rows (JSON), without which the file
was cut short.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import utils.base.tensorflow_version  # noqa: F401
from utils.base import files
from utils.base.errors import UserError
from utils.reading import records

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "cached_features.tfrecord"
_UNFINISHED = ".unfinished"
_LABEL, _VALUE = np.dtype("<i4"), np.dtype("<f4")


class Features(NamedTuple):
    """Features with the classes of their pictures.

    Attributes:
      values: float32 [rows, width].
      labels: int32 [rows], 0-based.
    """

    values: np.ndarray
    labels: np.ndarray


def num_bytes(rows: int, width: int) -> int:
    """Returns the bytes that features take in memory and, but for checksums, in a file."""
    return rows * _row_bytes(width)


def write(path: str, origin: Mapping[str, Any], width: int, batches: Iterable[Features]) -> int:
    """Writes batches of features next to a file and renames, so the file is whole or not there.

    Args:
      path: of the file, which is replaced.
      origin: what the features are made of; a value that JSON keeps as it is.
      width: number of features of a row.
      batches: the features.

    Returns:
      The number of rows.

    Raises:
      UserError: the file cannot be written; nothing is left of it.
    """
    unfinished, rows = path + _UNFINISHED, 0
    with _explaining(path):
        writer = tf.python_io.TFRecordWriter(unfinished)

    def add(record: bytes) -> None:
        with _explaining(path):
            writer.write(record)

    try:
        add(json.dumps({"origin": origin, "width": width}).encode())
        for batch in batches:
            add(batch.labels.astype(_LABEL).tobytes() + batch.values.astype(_VALUE).tobytes())
            rows += len(batch.labels)
        add(json.dumps({"rows": rows}).encode())
        with _explaining(path):
            writer.close()
            files.rename(unfinished, path)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            writer.close()
        with contextlib.suppress(tf.errors.OpError):
            files.remove(unfinished)
        raise
    return rows


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Raises UserError for an error of the disk."""
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        raise UserError(f"{path} cannot be written: {files.reason(e)}.") from e


def read_origin(path: str) -> Any:
    """Returns what the features of a file are made of.

    Raises:
      UserError: the file cannot be read, or is none of these.
    """
    return _description(path, next(records.read_records(path), b""))["origin"]


def read(path: str) -> Features:
    """Returns the features in a file.

    Raises:
      UserError: the file cannot be read, or is damaged, or none of these.
    """
    found = records.read_records(path)
    width = _description(path, next(found, b""))["width"]
    most = tf.io.gfile.stat(path).length // _row_bytes(width)
    features = Features(np.empty([most, width], _VALUE), np.empty([most], _LABEL))
    rows, record = 0, next(found, b"")
    for following in found:
        rows = _add(features, rows, record, path)
        record = following
    if _parsed(record).get("rows") != rows:
        raise UserError(f"{path} is cut short: its last record is missing.")
    return Features(features.values[:rows], features.labels[:rows])


def _row_bytes(width: int) -> int:
    return _LABEL.itemsize + width * _VALUE.itemsize


def _description(path: str, record: bytes) -> dict[str, Any]:
    content = _parsed(record)
    if not isinstance(content.get("width"), int) or content["width"] < 1 or "origin" not in content:
        raise UserError(f"{path} is not a file of cached features.")
    return content


def _parsed(record: bytes) -> dict[str, Any]:
    """Returns the mapping in a record of JSON; an empty one for another record."""
    try:
        content = json.loads(record)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _add(features: Features, rows: int, record: bytes, path: str) -> int:
    """Copies the rows of a record behind the first `rows`; returns the number of all."""
    width = features.values.shape[1]
    added, rest = divmod(len(record), _row_bytes(width))
    end = rows + added
    if rest or end > len(features.labels):
        raise UserError(f"{path} is damaged: a record has {len(record)} bytes.")
    features.labels[rows:end] = np.frombuffer(record, _LABEL, added)
    values = np.frombuffer(record, _VALUE, added * width, offset=added * _LABEL.itemsize)
    features.values[rows:end] = values.reshape([added, width])
    return end
