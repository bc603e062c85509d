"""How good and how fast a classifier is: top-1, top-5, agreement with another, latency."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from utils.base import progress
from utils.base.errors import UserError

TOP_K = 5
TIMED_RUNS = 50


@dataclasses.dataclass
class Measurement:
    """Sums over images; rates are shares of `images`.

    Attributes:
      images: measured so far.
      largest_difference: of logits from the reference's, relative to its largest logit.
    """

    images: int = 0
    top_1: int = 0
    top_5: int = 0
    agreeing: int = 0
    largest_difference: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def add(self, logits: np.ndarray, label: int, seconds: float, expected=None) -> None:
        """Counts one image; `expected` are the reference's logits."""
        self.images += 1
        best = np.argsort(-logits, kind="stable")[:TOP_K]
        self.top_1 += int(best[0] == label)
        self.top_5 += int(label in best)
        self.latencies.append(seconds)
        if expected is not None:
            self.agreeing += int(best[0] == np.argmax(expected))
            difference = np.abs(logits - expected).max() / max(1e-6, np.abs(expected).max())
            self.largest_difference = max(self.largest_difference, float(difference))

    def report(self, labelled: bool) -> dict[str, Any]:
        """What the report of an export says of a file."""
        return {
            "images": self.images,
            "top_1_accuracy": self.top_1 / self.images if labelled else None,
            "top_5_accuracy": self.top_5 / self.images if labelled else None,
            "agreement": self.agreeing / self.images,
            "largest_logit_difference": self.largest_difference,
            "latency_ms": 1000 * float(np.median(self.latencies[-TIMED_RUNS:])),
        }


def compare(
    classifiers: dict[str, object],
    reference,
    samples: Iterable[tuple[np.ndarray, int]],
    total: int,
) -> dict[str, Measurement]:
    """Runs classifiers, each with a method `logits(image)`, on images beside a reference.

    Args:
      classifiers: by name.
      reference: what they are compared with.
      samples: (image float [S, S, 3] in [0, 255], label).
      total: number of samples, for the progress line.

    Raises:
      UserError: the reference or a classifier gives logits that are not finite.
    """
    found = {name: Measurement() for name in classifiers}
    with contextlib.closing(progress.Progress("measure", total, "image", log_every=5000)) as bar:
        for number, (image, label) in enumerate(samples):
            expected = reference.logits(image)
            if not np.isfinite(expected).all():
                raise UserError(
                    "The checkpoint's logits are not finite numbers, so its training has failed: "
                    "name an earlier one with --export_checkpoint."
                )
            for name, classifier in classifiers.items():
                start = time.perf_counter()
                logits = classifier.logits(image)  # type: ignore[attr-defined]
                seconds = time.perf_counter() - start
                if not np.isfinite(logits).all():
                    raise UserError(
                        f"{name} gives infinite numbers or NaN where the checkpoint's logits are "
                        "finite, so nothing was exported: leave this kind of file out of "
                        "--quantize or --post_quantize, or name another checkpoint with "
                        "--export_checkpoint."
                    )
                found[name].add(logits, label, seconds, expected)
            bar.update(number + 1)
    return found
