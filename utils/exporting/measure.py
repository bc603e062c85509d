"""Measures how good and how fast a classifier is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from utils.base import memory, progress
from utils.base.errors import UserError

# Whether scores are probabilities -> how a report names their largest difference.
DIFFERENCES = {False: "largest_logit_difference", True: "largest_probability_difference"}
TOP_K = 5
TIMED_RUNS = 50
_PIECE = 20  # images that a classifier takes without a look at the others


@dataclasses.dataclass
class Measurement:
    """Sums up what is measured image by image.

    Attributes:
      images: number of images so far.
      top_1: number of images whose label has the largest score.
      top_5: number of images whose label is among the five largest scores.
      agreeing: number of images whose largest score is the reference's.
      largest_difference: largest difference of a score from the reference's, relative to the
        reference's largest score.
      latencies: seconds for each image that was timed.
    """

    images: int = 0
    top_1: int = 0
    top_5: int = 0
    agreeing: int = 0
    largest_difference: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def add(self, scores: np.ndarray, label: int, seconds: float | None, expected=None) -> None:
        """Counts one image.

        Args:
          scores: logits or probabilities, float [classes].
          label: index of the right class.
          seconds: time that the classifier took; None if it was not timed.
          expected: the reference's scores; without them nothing is compared.
        """
        self.images += 1
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        self.top_1 += int(best[0] == label)
        self.top_5 += int(label in best)
        if seconds is not None:
            self.latencies.append(seconds)
        if expected is not None:
            self.agreeing += int(best[0] == np.argmax(expected))
            difference = np.abs(scores - expected).max() / max(1e-6, np.abs(expected).max())
            self.largest_difference = max(self.largest_difference, float(difference))

    def report(self, labelled: bool, difference: str = DIFFERENCES[False]) -> dict[str, Any]:
        """Returns a file's measurements for the report of an export.

        Args:
          labelled: whether the labels are of the model's classes; without, accuracies are None.
          difference: the name under which the report has the largest difference; it says whether
            the scores were logits or probabilities.
        """
        return {
            "images": self.images,
            "top_1_accuracy": self.top_1 / self.images if labelled else None,
            "top_5_accuracy": self.top_5 / self.images if labelled else None,
            "agreement": self.agreeing / self.images,
            difference: self.largest_difference,
            "latency_ms": 1000 * float(np.median(self.latencies[-TIMED_RUNS:])),
        }


# Maps an image, float [S, S, 3] in [0, 255], to scores, float [classes].
Classifier = Callable[[np.ndarray], np.ndarray]
# (image, float [S, S, 3] in [0, 255]; label).
Sample = tuple[np.ndarray, int]
# The scores of some images, with the seconds that each took, if they were timed.
_Run = list[tuple[np.ndarray, float | None]]


def compare(
    classifiers: Mapping[str, Classifier],
    reference: str,
    samples: Iterable[Sample],
    total: int,
) -> dict[str, Measurement]:
    """Runs classifiers on the same images.

    The last `TIMED_RUNS` images are timed: each classifier takes the first of them, then the
    second, and nothing else runs. Before them, classifiers run next to each other on all cores.

    Args:
      classifiers: name -> classifier; each may run in a thread of its own. All of them give
        logits, or all of them probabilities.
      reference: the name of that one of them that the others are compared with.
      samples: the images.
      total: number of samples, for the progress line.

    Returns:
      The measurement of each classifier, by name.

    Raises:
      UserError: a classifier gives infinite numbers or NaN.
    """
    found = {name: Measurement() for name in classifiers}
    with (
        contextlib.closing(progress.Progress("measure", total, "image", log_every=5000)) as bar,
        futures.ThreadPoolExecutor(min(len(classifiers), memory.cores())) as pool,
    ):
        done = 0
        for piece, is_timed in _pieces(samples):
            turn = _run_in_turns if is_timed else functools.partial(_run, pool)
            runs = dict(zip(classifiers, turn([*classifiers.values()], piece), strict=True))
            for number, (_, label) in enumerate(piece):
                expected, _ = runs[reference][number]
                _check_reference(expected)
                for name, run in runs.items():
                    scores, seconds = run[number]
                    _check_scores(name, scores)
                    found[name].add(scores, label, seconds, expected)
            done += len(piece)
            bar.update(done)
    return found


def _pieces(samples: Iterable[Sample]) -> Iterator[tuple[list[Sample], bool]]:
    """Yields pieces of the samples, and whether a piece is one of the last `TIMED_RUNS`."""
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == TIMED_RUNS + _PIECE:
            yield waiting[:_PIECE], False
            waiting = waiting[_PIECE:]
    untimed = waiting[:-TIMED_RUNS]
    if untimed:
        yield untimed, False
    for sample in waiting[len(untimed) :]:
        yield [sample], True


def _run(pool: futures.Executor, runs: Sequence[Classifier], piece: Sequence[Sample]) -> list[_Run]:
    """Returns what each classifier gives for a piece; they run next to each other."""

    def of_one(classifier: Classifier) -> _Run:
        return [(classifier(image), None) for image, _ in piece]

    return list(pool.map(of_one, runs))


def _run_in_turns(runs: Sequence[Classifier], piece: Sequence[Sample]) -> list[_Run]:
    """Returns what each classifier gives for a piece, and how long it takes."""
    found: list[_Run] = [[] for _ in runs]
    for image, _ in piece:
        for classifier, run in zip(runs, found, strict=True):
            start = time.perf_counter()
            scores = classifier(image)
            run.append((scores, time.perf_counter() - start))
    return found


def _check_reference(expected: np.ndarray) -> None:
    if not np.isfinite(expected).all():
        raise UserError(
            "The checkpoint's logits are not finite numbers, so its training has failed: "
            "name an earlier one with --export_checkpoint."
        )


def _check_scores(name: str, scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise UserError(
            f"{name} gives infinite numbers or NaN where the checkpoint's logits are "
            "finite, so nothing was exported: leave this kind of file out of "
            "--quantize or --post_quantize, or name another checkpoint with "
            "--export_checkpoint."
        )


def top_1(
    classifier: Classifier, samples: Iterable[tuple[np.ndarray, int]], total: int
) -> float | None:
    """Returns the share of samples whose label has the largest score; None without a sample.

    The arguments are those of `compare`.
    """
    right: list[bool] = []
    with contextlib.closing(progress.Progress("squeeze", total, "image", log_every=5000)) as bar:
        for image, label in samples:
            right.append(int(np.argmax(classifier(image))) == label)
            bar.update(len(right))
    return float(np.mean(right)) if right else None
