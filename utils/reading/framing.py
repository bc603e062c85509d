"""Walks a TFRecord file from record to record by their lengths, without parsing what they hold.

A record's length (8 bytes) and the checksum of the length (4) stand before its content, the
checksum of the content (4) behind it. TensorFlow's reader verifies the checksums; nothing here
does.

A file may be compressed as a whole, by GZIP or ZLIB. Its offsets are those of its content, here and
for TensorFlow, and moving to one takes as long as reading up to it.
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from utils.base import files
from utils.base.tensorflow_version import tf

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


def size(path: str) -> int:
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
