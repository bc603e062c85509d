"""Chooses the pictures that a report shows, and makes them small."""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from utils.base import progress
from utils.reading import pictures
from utils.showing.predictions import Predictions, Source

SIDE = 128  # pixels of the longer side
QUALITY = 70
MOST_BYTES = 3_500_000  # of all pictures; as text of a page they take a third more
MOST_PICTURES = 1_500
# In each cell of the confusion matrix: so many mistakes, so many that are right.
MOST_WRONG, MOST_RIGHT = 40, 24
# A cell gets so many at its turn: with 1000 classes, one of each would leave none for a second.
A_TURN = 4


def choose(predictions: Predictions, first: Iterable[int]) -> list[int]:
    """Returns the numbers of the pictures that are worth showing, the most important first.

    After the given ones come those of each cell of the confusion matrix, in turns: `A_TURN` of each
    cell, then as many more, and so on; mistakes before what is right, cells with many pictures
    before others.

    Args:
      predictions: of all pictures.
      first: numbers of the pictures that come first.
    """
    wrong = _by_turns(predictions, predictions.mistakes(), MOST_WRONG)
    right = _by_turns(predictions, np.flatnonzero(predictions.is_right), MOST_RIGHT)
    ordered = dict.fromkeys(int(number) for number in itertools.chain(first, wrong, right))
    return list(itertools.islice(ordered, MOST_PICTURES))


def _by_turns(predictions: Predictions, numbers: np.ndarray, most: int) -> Iterator[int]:
    """Yields some pictures of each cell after the other, at most `most` of a cell."""
    cells: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for number in numbers.tolist():
        cells[predictions.labels[number], predictions.predicted[number]].append(number)
    ordered = sorted(cells.values(), key=len, reverse=True)
    for first in range(0, most, A_TURN):
        for cell in ordered:
            yield from cell[first : first + A_TURN]


def make(source: Source, predictions: Predictions, chosen: list[int]) -> dict[int, bytes]:
    """Returns the small pictures, WebP files, by their numbers, as many as `MOST_BYTES` hold.

    Args:
      source: the pictures, which are read once more.
      predictions: of the pictures of `source`.
      chosen: numbers of the pictures to show, the most important first.
    """
    pictures.require_pillow()
    places = {
        (int(predictions.files[number]), int(predictions.records[number])): number
        for number in chosen
    }
    made: dict[int, bytes] = {}
    with contextlib.closing(progress.Progress("thumbnail", len(places), "image")) as bar:
        for count, sample in enumerate(source.pick(places), start=1):
            small = _small(sample.image_bytes)
            if small is not None:
                made[places[sample.file, sample.record]] = small
            bar.update(count)
    sizes = itertools.accumulate(len(made.get(number, b"")) for number in chosen)
    fitting = [number for number, size in zip(chosen, sizes, strict=True) if size <= MOST_BYTES]
    return {number: made[number] for number in fitting if number in made}


def _small(image_bytes: bytes) -> bytes | None:
    """Returns a WebP file; None if Pillow cannot read the picture."""
    image = pictures.thumbnail(image_bytes, SIDE)
    if image is None:
        return None
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=QUALITY)
    return encoded.getvalue()
