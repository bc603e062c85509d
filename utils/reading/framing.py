"""Walks a TFRecord file from record to record by their lengths, without parsing what they hold.

A record's length (8 bytes) and the checksum of the length (4) stand before its content, the
checksum of the content (4) behind it. TensorFlow's reader verifies the checksums; nothing here
does.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import NamedTuple

from utils.base import files
from utils.base.tensorflow_version import tf

_LENGTH_BYTES, _HEADER_BYTES = 8, 12
FRAME_BYTES = 16  # what a record takes in a file beyond its content


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
    with _open(path) as f:
        size = _size(path)
        while offset < size:
            f.seek(offset)
            frame = Frame(offset, int.from_bytes(f.read(_LENGTH_BYTES), "little"))
            yield frame
            offset = frame.end


def count_whole(path: str, offset: int = 0) -> int:
    """Counts the records from byte `offset` on that end within their file."""
    size = _size(path)
    return sum(frame.end <= size for frame in frames(path, offset))


def whole_frame_at(path: str, offset: int) -> Frame | None:
    """Returns the frame that begins at byte `offset`; None if it does not end within the file."""
    frame = next(frames(path, offset), None)
    return frame if frame and frame.end <= _size(path) else None


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


def _open(path: str) -> io.BufferedIOBase:
    # TensorFlow's file would read half a megabyte after each jump from one record to the next.
    return tf.io.gfile.GFile(path, "rb") if files.is_remote(path) else open(path, "rb")


def _size(path: str) -> int:
    return tf.io.gfile.stat(path).length if files.is_remote(path) else os.path.getsize(path)
