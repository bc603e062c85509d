"""Runs a model on the records of a split, and keeps what it gave for each picture."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from utils.base import progress
from utils.base.errors import UserError
from utils.reading import examples, pictures, records, scan

import tensorflow.compat.v1 as tf

THUMBNAIL_SIDE = 128  # pixels of the longer side
THUMBNAIL_QUALITY = 70
MOST_THUMBNAIL_BYTES = 3_500_000  # of all pictures; as text of a page they take a third more
MOST_THUMBNAILS = 1_500
# In each cell of the confusion matrix: so many mistakes, so many that are right.
MOST_WRONG, MOST_RIGHT = 40, 24
# A cell gets so many at its turn: with 1000 classes, one of each would leave none for a second.
A_TURN = 4


def choose_thumbnails(predictions: Predictions, first: Iterable[int]) -> list[int]:
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
    return list(itertools.islice(ordered, MOST_THUMBNAILS))


def _by_turns(predictions: Predictions, numbers: np.ndarray, most: int) -> Iterator[int]:
    """Yields some pictures of each cell after the other, at most `most` of a cell."""
    cells: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for number in numbers.tolist():
        cells[predictions.labels[number], predictions.predicted[number]].append(number)
    ordered = sorted(cells.values(), key=len, reverse=True)
    for first in range(0, most, A_TURN):
        for cell in ordered:
            yield from cell[first : first + A_TURN]


def thumbnails(source: Source, predictions: Predictions, chosen: list[int]) -> dict[int, bytes]:
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
    fitting = [
        number for number, size in zip(chosen, sizes, strict=True) if size <= MOST_THUMBNAIL_BYTES
    ]
    return {number: made[number] for number in fitting if number in made}


def _small(image_bytes: bytes) -> bytes | None:
    """Returns a WebP file; None if Pillow cannot read the picture."""
    image = pictures.thumbnail(image_bytes, THUMBNAIL_SIDE)
    if image is None:
        return None
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=THUMBNAIL_QUALITY)
    return encoded.getvalue()


TOP_K = 5
BATCH = 32  # pictures that a model gets at a time
FILE_NAME_KEYS = ("image/filename", "file_name")  # the builders' here, and TFDS's

# Maps N encoded pictures to probabilities, float [N, classes].
Classifier = Callable[[Sequence[bytes]], np.ndarray]


class Sample(NamedTuple):
    """A labelled picture of a data set.

    Attributes:
      file: index of its record file.
      record: its number in the file; the first is 0.
      picture: name of the picture's own file, as the builder noted it; empty if it did not.
      image_bytes: the encoded picture.
      label: index of its class.
    """

    file: int
    record: int
    picture: str
    image_bytes: bytes
    label: int


class Source:
    """The labelled pictures of record files, which can be read again and again.

    Attributes:
      paths: of the record files.
      num_classes: of the model.
    """

    def __init__(
        self,
        paths: Sequence[str],
        num_classes: int,
        count: int | None = None,
        good: scan.GoodRecords | None = None,
        form: examples.RecordFormat = examples.PUBLISHED,
        class_order: Sequence[int] | None = None,
    ):
        """Keeps where the pictures are.

        Args:
          paths: of the record files.
          num_classes: of the model.
          count: how many pictures to read; None for all.
          good: the records that --skip_bad_images leaves; None reads all.
          form: format of the records.
          class_order: the index in the model of each class of the data set; None if they are the
            same.
        """
        self.paths = list(paths)
        self.num_classes = num_classes
        self._count = count
        self._good = good
        self._form = form
        self._class_order = range(num_classes) if class_order is None else class_order

    def __iter__(self) -> Iterator[Sample]:
        """Yields the samples in the order of the files; UserError names a record that is wrong."""
        return itertools.islice(self._all(), self._count)

    def pick(self, wanted: Iterable[tuple[int, int]]) -> Iterator[Sample]:
        """Yields the samples of which file and record are given, in the order of the files."""
        left = collections.defaultdict(set)
        for file, record in wanted:
            left[file].add(record)
        for index in sorted(left):
            for number, content in self._records(self.paths[index]):
                if number in left[index]:
                    yield self._sample(index, number, content)
                    left[index].remove(number)
                if not left[index]:
                    break

    def _all(self) -> Iterator[Sample]:
        for index, path in enumerate(self.paths):
            for number, record in self._records(path):
                yield self._sample(index, number, record)

    def _records(self, path: str) -> Iterator[tuple[int, bytes]]:
        """Yields (number, content) of the records of a file that are to be read."""
        if self._good is None:
            yield from enumerate(records.read_records(path))
            return
        bad = {problem.record for problem in self._good.problems if problem.path == path}
        numbers = (number for number in itertools.count() if number not in bad)
        runs = [segment for segment in self._good.segments if segment.path == path]
        with tf.Graph().as_default(), tf.Session() as session:
            following = tf.data.make_one_shot_iterator(records.dataset(runs)).get_next()
            with contextlib.suppress(tf.errors.OutOfRangeError):
                while runs:
                    content = session.run(following)
                    yield next(numbers), content

    def _sample(self, index: int, number: int, record: bytes) -> Sample:
        image_bytes, label = records.unpack(record, self.paths[index], number, self._form)
        num_classes = len(self._class_order)
        if label == 0 and self._form.first_label == 1:
            reason = examples.label_problem(label, num_classes)
            raise UserError(f"{self.paths[index]}, record {number}: {reason}")
        if not 1 <= label <= num_classes:
            raise UserError(
                f"{self.paths[index]}, record {number}: label {self._form.stored(label)} is not in "
                f"{self._form.first_label}..{self._form.stored(num_classes)}, the model's "
                "classes: name a data set with these classes."
            )
        name = _picture_name(record)
        return Sample(index, number, name, image_bytes, self._class_order[label - 1])


def _picture_name(record: bytes) -> str:
    """Returns the name of a picture's own file, as the builder noted it; empty if it did not."""
    features, _ = examples.features(record)
    for key in FILE_NAME_KEYS:
        if key in features:
            return b"".join(features[key].bytes_list.value).decode("utf-8", "replace")
    return ""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model gave for N pictures.

    Attributes:
      paths: of the record files.
      files: int32 [N], the file of each picture as an index into `paths`.
      records: int64 [N], the number of its record in the file.
      pictures: the names of the pictures' own files; empty texts if unknown.
      labels: int32 [N], indices of the right classes.
      top: int32 [N, K], the K most probable classes, the most probable first.
      top_probabilities: float32 [N, K].
      label_probabilities: float32 [N], the probability of the right class.
      num_classes: number of classes.
    """

    paths: Sequence[str]
    files: np.ndarray
    records: np.ndarray
    pictures: Sequence[str]
    labels: np.ndarray
    top: np.ndarray
    top_probabilities: np.ndarray
    label_probabilities: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each picture, int32 [N]."""
        return self.top[:, 0]

    @property
    def is_right(self) -> np.ndarray:
        """Whether the most probable class is the right one, bool [N]."""
        return self.predicted == self.labels

    def mistakes(self) -> np.ndarray:
        """Returns the numbers of the wrong pictures, the most confident mistakes first.

        They are in the order of `suspicion`.
        """
        order = np.argsort(-self.suspicion(), kind="stable")
        return order[~self.is_right[order]]

    def suspicion(self) -> np.ndarray:
        """Returns how much speaks against each label, float32 [N] in [-1, 1].

        It is the largest probability of another class less that of the label: the normalized margin
        by which Northcutt et al. (Confident Learning, 2021) find wrong labels.
        """
        others = np.where(
            self.is_right,
            self.top_probabilities[:, 1] if self.top.shape[1] > 1 else 0,
            self.top_probabilities[:, 0],
        )
        return others - self.label_probabilities

    def unsure(self) -> np.ndarray:
        """Returns the numbers of all pictures, those with the closest two best classes first."""
        if self.top.shape[1] < 2:
            return np.arange(len(self))
        margins = self.top_probabilities[:, 0] - self.top_probabilities[:, 1]
        return np.argsort(margins, kind="stable")


def collect(classify: Classifier, source: Source, total: int) -> Predictions:
    """Classifies all pictures of a source.

    Args:
      classify: gives the probabilities of encoded pictures.
      source: the pictures.
      total: their expected number, for the progress line; 0 if unknown.

    Raises:
      UserError: a record is damaged, its picture cannot be decoded, or there is none.
    """
    kept: list[tuple[Sample, np.ndarray, np.ndarray, float]] = []
    with contextlib.closing(progress.Progress("report", total, "image", log_every=5000)) as bar:
        samples = iter(source)
        while batch := list(itertools.islice(samples, BATCH)):
            found = classified(classify, batch, source)
            for sample, probabilities in zip(batch, found, strict=True):
                best = np.argsort(-probabilities, kind="stable")[:TOP_K]
                # The picture's bytes would add up to gigabytes.
                known = sample._replace(image_bytes=b"")
                kept.append((known, best, probabilities[best], probabilities[sample.label]))
            bar.update(len(kept))
    if not kept:
        raise records.no_record(source.paths)
    samples_kept, top, top_probabilities, label_probabilities = zip(*kept, strict=True)
    return Predictions(
        source.paths,
        np.array([sample.file for sample in samples_kept], np.int32),
        np.array([sample.record for sample in samples_kept], np.int64),
        [sample.picture for sample in samples_kept],
        np.array([sample.label for sample in samples_kept], np.int32),
        np.array(top, np.int32),
        np.array(top_probabilities, np.float32),
        np.array(label_probabilities, np.float32),
        source.num_classes,
    )


def classified(classify: Classifier, batch: Sequence[Sample], source: Source) -> np.ndarray:
    """Returns the probabilities of a batch, float [N, classes].

    Raises:
      UserError: names the record of a picture that cannot be decoded.
    """
    try:
        return classify([sample.image_bytes for sample in batch])
    except tf.errors.OpError as e:
        for sample in batch:
            reason = examples.picture_problem(sample.image_bytes)
            if reason:
                path = source.paths[sample.file]
                raise UserError(str(records.Problem(path, sample.record, reason))) from e
        raise
