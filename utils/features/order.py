"""Decides which views of which pictures each training step takes."""

from __future__ import annotations

import functools
import secrets

import numpy as np


class Order:
    """Takes every picture once an epoch, shuffled anew, and another view of it in the next epoch.

    The rows of a step depend on its number and the seed alone, so that a training and the one that
    resumes it agree. Row `view * num_images + image` is a view of a picture.
    """

    def __init__(self, num_images: int, num_views: int, batch_size: int, seed: int | None):
        """Keeps the numbers.

        Args:
          num_images: pictures, at least 1.
          num_views: views of each picture, at least 1.
          batch_size: rows a step.
          seed: fixes the order; None draws another one for each run.
        """
        self._num_images, self._num_views = num_images, num_views
        self._batch_size = batch_size
        self._seed = secrets.randbits(62) if seed is None else seed
        self._rows_of = functools.lru_cache(maxsize=2)(self._rows_of_epoch)

    def rows(self, step: int) -> np.ndarray:
        """Returns the rows, int64 [batch_size], of the step that follows global step `step`."""
        first = step * self._batch_size
        end = first + self._batch_size
        epochs = range(first // self._num_images, (end - 1) // self._num_images + 1)
        rows = np.concatenate([self._rows_of(epoch) for epoch in epochs])
        start = first - epochs[0] * self._num_images
        return rows[start : start + self._batch_size]

    def _rows_of_epoch(self, epoch: int) -> np.ndarray:
        images = np.random.default_rng([self._seed, epoch]).permutation(self._num_images)
        # In one epoch the pictures are seen in different views, and each in turn in all of its own.
        return (images + epoch) % self._num_views * self._num_images + images
