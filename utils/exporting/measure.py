"""Measures how good and how fast a classifier is."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from utils.base import progress
from utils.base.errors import UserError

# Whether scores are probabilities -> how a report names their largest difference.
DIFFERENCES = {False: "largest_logit_difference", True: "largest_probability_difference"}
TOP_K = 5
TIMED_RUNS = 50


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
      latencies: seconds for each image.
    """

    images: int = 0
    top_1: int = 0
    top_5: int = 0
    agreeing: int = 0
    largest_difference: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def add(self, scores: np.ndarray, label: int, seconds: float, expected=None) -> None:
        """Counts one image.

        Args:
          scores: logits or probabilities, float [classes].
          label: index of the right class.
          seconds: time that the classifier took.
          expected: the reference's scores; without them nothing is compared.
        """
        self.images += 1
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        self.top_1 += int(best[0] == label)
        self.top_5 += int(label in best)
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


def compare(
    classifiers: Mapping[str, Classifier],
    reference: Classifier,
    samples: Iterable[tuple[np.ndarray, int]],
    total: int,
) -> dict[str, Measurement]:
    """Runs classifiers and a reference on the same images.

    Args:
      classifiers: name -> classifier.
      reference: what the classifiers are compared with; all of them give logits, or all of them
        probabilities.
      samples: (image, float [S, S, 3] in [0, 255]; label).
      total: number of samples, for the progress line.

    Returns:
      The measurement of each classifier, by name.

    Raises:
      UserError: the reference or a classifier gives infinite numbers or NaN.
    """
    found = {name: Measurement() for name in classifiers}
    with contextlib.closing(progress.Progress("measure", total, "image", log_every=5000)) as bar:
        for number, (image, label) in enumerate(samples):
            expected = reference(image)
            if not np.isfinite(expected).all():
                raise UserError(
                    "The checkpoint's logits are not finite numbers, so its training has failed: "
                    "name an earlier one with --export_checkpoint."
                )
            for name, classifier in classifiers.items():
                start = time.perf_counter()
                scores = classifier(image)
                seconds = time.perf_counter() - start
                if not np.isfinite(scores).all():
                    raise UserError(
                        f"{name} gives infinite numbers or NaN where the checkpoint's logits are "
                        "finite, so nothing was exported: leave this kind of file out of "
                        "--quantize or --post_quantize, or name another checkpoint with "
                        "--export_checkpoint."
                    )
                found[name].add(scores, label, seconds, expected)
            bar.update(number + 1)
    return found


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
