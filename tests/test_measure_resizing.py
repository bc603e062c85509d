"""The two preparations that g3doc/measure_resizing.py compares."""

import numpy as np
from PIL import Image

from g3doc import measure_resizing


def checkerboard(side):
    rows, columns = np.indices([side, side])
    grey = (255 * ((rows + columns) % 2)).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


def test_without_resizing_both_are_the_same():
    picture = checkerboard(64)
    ours = measure_resizing.InTensorFlow(56, 0.875)(picture)
    np.testing.assert_array_equal(ours, measure_resizing.as_in_pytorch(picture, 56, 0.875))


def test_only_the_one_of_pytorch_averages():
    picture = checkerboard(256)
    theirs = measure_resizing.as_in_pytorch(picture, 56, 0.875)
    assert np.abs(theirs - 127.5).max() < 20
    ours = measure_resizing.InTensorFlow(56, 0.875)(picture)
    assert np.abs(ours - 127.5).min() > 100
