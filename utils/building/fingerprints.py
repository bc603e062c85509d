"""Computes by what two pictures are told to be the same, or nearly the same.

Two pictures are the same if their encoded bytes are. They may be nearly the same if their
perceptual hashes differ in few bits: the library ImageHash makes 64 bits of a picture's coarse
structure, which stays when the picture is compressed again, resized or made grey. As other pictures
may have that structure, too (handwritten digits do), small grey pictures are kept and compared as
well.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.base import memory
from utils.base.progress import Progress
from utils.building.splits import Split
from utils.reading import framing, pictures, records, scan

_SIDE = 64  # of the grey picture that hash and small picture are made of
_SMALL_SIDE = 16
_DIGEST_BYTES = 16
# Grey levels. A picture that varies less is one colour with noise, of which the hash would be made.
_LEAST_CONTRAST = 3.0
_PER_UPDATE = 20


class Fingerprints(NamedTuple):
    """What pictures are compared by, with their places; one entry for each readable record.

    Attributes:
      paths: of the files.
      splits: name of the split of each file.
      files: int32 [N], indices in `paths`.
      records: int32 [N], numbers of the records in their files.
      labels: int32 [N], counted from 1.
      digests: uint64 [N, 2], equal if the encoded pictures are.
      hashes: uint64 [N].
      small: uint8 [N, 256], the grey pictures.
      has_hash: bool [N]; a picture of one colour has no hash, and none has without ImageHash.
    """

    paths: list[str]
    splits: list[str]
    files: np.ndarray
    records: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    small: np.ndarray
    has_hash: np.ndarray


def can_hash() -> bool:
    """Returns whether the library that makes perceptual hashes is installed."""
    return _phash() is not None


def _phash() -> Callable[..., Any] | None:
    with contextlib.suppress(ImportError):
        from imagehash import phash

        return phash
    return None


def compute(splits: Sequence[Split]) -> Fingerprints:
    """Reads the readable records of splits again, in parallel, and shows the progress."""
    pictures.require_pillow()
    scans = [found for split in splits for found in split.scans]
    counts = [len(found.facts) for found in scans]
    total = sum(counts)
    progress = Progress("compare", total, "image", log_every=max(10_000, total // 10))
    lock = threading.Lock()
    done, stopped = 0, False

    def count(pictures: int) -> None:
        nonlocal done
        if stopped:  # a signal, or the error of another file
            raise concurrent.futures.CancelledError
        with lock:
            done += pictures
            progress.update(done)

    with (
        contextlib.closing(progress),
        concurrent.futures.ThreadPoolExecutor(memory.cores()) as pool,
    ):
        futures = [pool.submit(_of_file, found, count) for found in scans]
        try:
            parts = [future.result() for future in futures]
        finally:
            stopped = True
            for future in futures:
                future.cancel()
    return Fingerprints(
        [found.path for found in scans],
        [split.name for split in splits for _ in split.scans],
        np.repeat(np.arange(len(scans), dtype=np.int32), counts),
        np.concatenate([_numbers(found) for found in scans]),
        np.concatenate([found.facts[:, 0] for found in scans]),
        *(np.concatenate(column) for column in zip(*parts, strict=True)),
    )


def _numbers(found: scan.FileScan) -> np.ndarray:
    """Returns the numbers of a file's readable records, in order."""
    bad = [problem.record for problem in found.unreadable]
    return np.setdiff1d(np.arange(found.num_records, dtype=np.int32), bad)


def _of_file(found: scan.FileScan, count) -> tuple[np.ndarray, ...]:
    """Returns digests, hashes, small and has_hash of a file's readable records."""
    total = len(found.facts)
    digests = np.zeros((total, _DIGEST_BYTES // 8), np.uint64)
    hashes = np.zeros(total, np.uint64)
    small = np.zeros((total, _SMALL_SIDE**2), np.uint8)
    has_hash = np.zeros(total, bool)
    phash = _phash()
    for number, image_bytes in enumerate(_pictures(found)):
        digest = hashlib.blake2b(image_bytes, digest_size=_DIGEST_BYTES).digest()
        digests[number] = np.frombuffer(digest, np.uint64)
        image = _grey(image_bytes) if phash else None
        if phash and image is not None:
            hashes[number] = np.packbits(phash(image).hash).view(np.uint64)[0]
            small[number] = np.asarray(image.reduce(_SIDE // _SMALL_SIDE)).ravel()
            has_hash[number] = True
        if number % _PER_UPDATE == _PER_UPDATE - 1:
            count(_PER_UPDATE)
    count(total % _PER_UPDATE)
    return digests, hashes, small, has_hash


def _pictures(found: scan.FileScan) -> Iterator[bytes]:
    """Yields the encoded pictures of a file's readable records."""
    serialized = itertools.chain.from_iterable(
        framing.contents(segment.path, segment.offset, segment.count) for segment in found.segments
    )
    for number, content in enumerate(serialized):
        yield records.unpack(content, found.path, number, found.form)[0]


def _grey(image_bytes: bytes) -> Any:
    """Returns Pillow's grey picture of 64 x 64 pixels; None of one without any structure.

    None also if Pillow cannot read it: TensorFlow, which reads it in a training, takes some damaged
    ones. Call `pictures.require_pillow` before.
    """
    try:
        image = pictures.open_picture(image_bytes)
        with pictures.decoder_errors():
            image.draft("L", (_SIDE, _SIDE))  # a JPEG is decoded at up to an eighth of its size
            image = image.convert("L").resize((_SIDE, _SIDE))
    except pictures.Unreadable:
        return None
    return image if np.asarray(image).std() >= _LEAST_CONTRAST else None
