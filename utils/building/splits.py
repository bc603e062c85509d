"""Scans the splits of a data set, and takes samples of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.base import files
from utils.reading import examples, records, scan
from utils.reading.records import Segment

# The number of classes if it is unknown: GREATEST_LABEL itself stands for all labels beyond it.
_ANY_LABEL = examples.GREATEST_LABEL - 1


@dataclasses.dataclass(frozen=True)
class ScannedSplit:
    """What the files of a split hold.

    Attributes:
      name: train or validation.
      scans: of the files, in order.
      sizes: of the files in bytes, in the same order.
    """

    name: str
    scans: Sequence[scan.FileScan]
    sizes: Sequence[int]

    @property
    def facts(self) -> np.ndarray:
        """Label, from 1, height, width and bytes of each picture: int32 [readable records, 4]."""
        return np.concatenate([found.facts for found in self.scans])

    @property
    def num_records(self) -> int:
        """The number of records, good and bad."""
        return sum(found.num_records for found in self.scans)


def scan_splits(data: Mapping[str, Any], num_classes: int | None) -> list[ScannedSplit]:
    """Scans both splits; leaves out a split that has no files.

    Args:
      data: the settings data_dir, train_files, eval_files, record_keys and first_label.
      num_classes: labels beyond it are problems; None accepts any label from the first up.

    Raises:
      UserError: there are no files at all, or one cannot be read.
    """
    splits = []
    data_dir, form = data["data_dir"], examples.record_format(data)
    for name, prefix in records.SPLIT_PREFIXES.items():
        paths = records.find_files(data_dir, prefix, data)
        if paths:
            sizes = [state.size for state in records.states(paths)]
            scans = scan.scan(paths, num_classes or _ANY_LABEL, f"scan {name}", form)
            splits.append(ScannedSplit(name, scans, sizes))
    if not splits:
        records.list_files(data_dir, records.TRAIN_PREFIX, data)  # raises the error
    return splits


def class_counts(split: ScannedSplit, num_classes: int | None) -> dict[int, int]:
    """Counts the images of each label; with `num_classes` known, also of labels without images."""
    labels, counts = np.unique(split.facts[:, 0], return_counts=True)
    found = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    # Without that number, one wrong label could ask for a table of billions.
    expected = range(1, num_classes + 1) if num_classes else [n for n in found if n > 0]
    others = sorted(set(found) - set(expected))
    return {label: found.get(label, 0) for label in (*expected, *others)}


def sample(split: ScannedSplit, count: int) -> list[tuple[bytes, int]]:
    """Returns (encoded picture, label) of readable records spread evenly over a split."""
    segments = [segment for found in split.scans for segment in found.segments]
    ends = np.cumsum([segment.count for segment in segments], dtype=int)
    total = int(ends[-1]) if segments else 0
    chosen = np.linspace(0, total - 1, min(count, total)).astype(int)
    places = np.searchsorted(ends, chosen, side="right")
    found: list[tuple[bytes, int]] = []
    for n in np.unique(places):
        first = ends[n] - segments[n].count
        numbers = [int(i - first) for i in chosen[places == n]]
        found += _read(segments[n], numbers, split.scans[0].form)
    return found


def _read(
    segment: Segment, numbers: list[int], form: examples.RecordFormat
) -> list[tuple[bytes, int]]:
    """Returns (encoded picture, label) of records of a segment, given their numbers in order."""
    count = numbers[-1] + 1
    if files.is_remote(segment.path) or records.compression(segment.path):
        # What is skipped is sent or decompressed as well, and each step back begins anew.
        contents = records.contents(segment.path, segment.offset, count)
        wanted = {*numbers}
        found = [content for number, content in enumerate(contents) if number in wanted]
    else:
        frames = list(itertools.islice(records.frames(segment.path, segment.offset), count))
        found = [records.content(segment.path, frames[number]) for number in numbers]
    return [
        records.unpack(content, segment.path, number, form)
        for number, content in zip(numbers, found, strict=True)
    ]
