"""Finds pictures that a data set has twice, within a split and across the splits.

A validation picture that is a training picture as well makes every accuracy a lie. Two pictures
are the same if their encoded bytes are. They may be nearly the same if their perceptual hashes
differ in few bits: the library ImageHash makes 64 bits of a picture's coarse structure, which stays
when the picture is compressed again, resized or made grey. As other pictures may have that
structure, too (handwritten digits do), small grey pictures are kept and compared as well.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.base import memory
from utils.base.progress import Progress
from utils.building.splits import ScannedSplit
from utils.reading import pictures, records, scan

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
    """Whether the library that makes perceptual hashes is installed."""
    return _phash() is not None


def _phash() -> Callable[..., Any] | None:
    with contextlib.suppress(ImportError):
        from imagehash import phash

        return phash
    return None


def compute(splits: Sequence[ScannedSplit]) -> Fingerprints:
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
        records.contents(segment.path, segment.offset, segment.count) for segment in found.segments
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


# Two pictures are compared if one of these bands of 16 of the 64 bits of their hashes is equal, so
# that nobody compares each with each. Of pairs that differ in 3 bits or less none is missed.
_BANDS = 4
_MOST_BITS = 6  # in which the hashes of nearly the same pictures differ
# How alike their small grey pictures are: correlation, and root mean square difference in grey
# levels after that. No two of the 1797 handwritten digits are so much alike; new compression, half
# the size or no colour leave 93 to 100 % of digits and photographs so.
_LEAST_CORRELATION = 0.99
_MOST_LEVELS = 4.0
# A picture is compared with so many that follow it in its band; more share one only if they are of
# a kind that the hash cannot tell apart.
_MOST_COMPARED = 200

SAME, NEAR = "same", "near"


def find(splits: Sequence[ScannedSplit], names: Mapping[int, str]) -> dict[str, Any]:
    """Reads the pictures of the splits again and finds those that are there more than once.

    Args:
      splits: as `splits.scan_splits` returns them.
      names: of the classes, by label.

    Returns:
      For the JSON file: `near_checked`, whether pictures were compared by perceptual hashes, and
      `groups`. A group has `kind` ('same' or 'near'), `across_splits`, `across_classes` and its
      `records`, each with split, file, record, label and name. Groups across splits come first,
      then those across classes.
    """
    found = compute(splits)
    groups = [
        _described(found, kind, members, names)
        for kind, all_members in ((SAME, same_groups(found)), (NEAR, near_groups(found)))
        for members in sorted(all_members, key=min)
    ]
    groups.sort(key=lambda group: (not group["across_splits"], not group["across_classes"]))
    return {"near_checked": can_hash(), "groups": groups}


def is_wrong(group: Mapping[str, Any]) -> bool:
    """Whether a group is a mistake: pictures in both splits, or one picture in two classes."""
    return group["across_splits"] or (group["kind"] == SAME and group["across_classes"])


def _described(found: Fingerprints, kind: str, members, names: Mapping[int, str]) -> dict[str, Any]:
    entries = [
        {
            "split": found.splits[found.files[i]],
            "file": os.path.basename(found.paths[found.files[i]]),
            "record": int(found.records[i]),
            "label": int(found.labels[i]),
            "name": names.get(int(found.labels[i])),
        }
        for i in members
    ]
    return {
        "kind": kind,
        "across_splits": len({entry["split"] for entry in entries}) > 1,
        "across_classes": len({entry["label"] for entry in entries}) > 1,
        "records": entries,
    }


def same_groups(found: Fingerprints) -> list[np.ndarray]:
    """Returns the indices of the pictures of each group whose encoded bytes are equal."""
    order = np.lexsort(found.digests.T)
    return [np.sort(order[a:b]) for a, b in _runs(found.digests[order])]


def near_groups(found: Fingerprints) -> list[np.ndarray]:
    """Returns the indices of the pictures of each group that are nearly the same.

    A chain of pictures, of which each is like the next, is one group. Of pictures whose bytes are
    equal, a group has the first of each split and class, because `same_groups` names them all.
    """
    chosen = _distinct(found)
    roots = _roots(len(chosen), near_pairs(found.hashes[chosen], found.small[chosen]))
    order = np.argsort(roots, kind="stable")
    groups = [np.sort(chosen[order[a:b]]) for a, b in _runs(roots[order][:, None])]
    # Copies of one picture in two splits are a group of `same_groups` already.
    return [group for group in groups if len(np.unique(found.digests[group], axis=0)) > 1]


def _distinct(found: Fingerprints) -> np.ndarray:
    """Returns the indices of pictures with a hash: of equal ones, one a split and class."""
    with_hash = np.flatnonzero(found.has_hash)
    splits = np.unique(found.splits, return_inverse=True)[1][found.files[with_hash]]
    # All of one type, because NumPy would make floats of two.
    numbers = np.column_stack([splits, found.labels[with_hash]]).astype(np.uint64)
    keys = np.column_stack([found.digests[with_hash], numbers])
    return with_hash[np.sort(np.unique(keys, axis=0, return_index=True)[1])]


def near_pairs(hashes: np.ndarray, small: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the pairs of pictures that are nearly the same, some of them repeatedly.

    Args:
      hashes: uint64 [N].
      small: uint8 [N, pixels].

    Yields:
      Two int64 vectors of the same length: the pairs' indices.
    """
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    for band in range(_BANDS):
        # Bits that stand next to each other in a hash depend on each other more than these.
        keys = np.packbits(bits[:, band::_BANDS], axis=1).view(np.uint16).reshape(-1)
        # Equal hashes come together, so that the limit of comparisons does not part them.
        order = np.lexsort((hashes, keys))
        keys = keys[order]
        first = np.arange(len(order))
        for distance in range(1, _MOST_COMPARED + 1):
            first = first[: np.searchsorted(first, len(order) - distance)]
            first = first[keys[first] == keys[first + distance]]
            if not len(first):
                break
            one, other = order[first], order[first + distance]
            near = _differing_bits(hashes[one], hashes[other]) <= _MOST_BITS
            one, other = one[near], other[near]
            near = _are_alike(small[one], small[other])
            yield one[near], other[near]


_BITS_OF_BYTE = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def _differing_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns int64 [N]: in how many bits two vectors of hashes, uint64 [N], differ."""
    return _BITS_OF_BYTE[(one ^ other).view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.int64)


def _are_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns bool [N]: whether pairs of small pictures, uint8 [N, pixels], show the same.

    Brightness and contrast may differ.
    """
    one, other = one.astype(np.float32), other.astype(np.float32)
    one -= one.mean(axis=1, keepdims=True)
    other -= other.mean(axis=1, keepdims=True)
    # Pictures of one colour, which have no contrast, are not among them.
    variance = np.sqrt(np.maximum((one**2).mean(axis=1) * (other**2).mean(axis=1), 1e-6))
    correlation = (one * other).mean(axis=1) / variance
    levels = np.sqrt(np.maximum(2 * (1 - correlation), 0) * variance)
    return (correlation >= _LEAST_CORRELATION) & (levels <= _MOST_LEVELS)


def _roots(count: int, pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns int64 [count]: the same number for all that pairs connect."""
    roots = np.arange(count)

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = roots[i]
        return i

    for ones, others in pairs:
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            one, other = root(one), root(other)
            roots[max(one, other)] = min(one, other)
    return np.array([root(i) for i in range(count)], int)


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields (first, end) of the runs of at least two equal rows of values [N, columns]."""
    changes = np.flatnonzero((values[1:] != values[:-1]).any(axis=1)) + 1
    for first, end in zip([0, *changes], [*changes, len(values)], strict=True):
        if end - first > 1:
            yield int(first), int(end)
