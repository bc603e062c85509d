"""Tests of what is measured of a classifier."""

import numpy as np
import pytest

from utils.base.errors import UserError
from utils.exporting import measure


class Fixed:
    """A classifier that gives the same logits for every image."""

    def __init__(self, *logits):
        self._logits = np.array(logits, np.float32)

    def logits(self, image):
        return self._logits


IMAGES = [(np.zeros([2, 2, 3], np.float32), 1), (np.zeros([2, 2, 3], np.float32), 0)]


def test_shares_and_differences():
    found = measure.compare(
        {"same": Fixed(1, 3, 2), "other": Fixed(1, 2, 3.5)}, Fixed(1, 3, 2), IMAGES, 2
    )
    same, other = (found[name].report(labelled=True) for name in ("same", "other"))
    assert (same["top_1_accuracy"], same["agreement"]) == (0.5, 1)
    assert (other["top_1_accuracy"], other["top_5_accuracy"], other["agreement"]) == (0, 1, 0)
    assert same["largest_logit_difference"] == 0
    assert other["largest_logit_difference"] == pytest.approx(0.5)
    assert found["same"].report(labelled=False)["top_1_accuracy"] is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_file_without_numbers_is_refused(wrong):
    with pytest.raises(UserError, match=r"^a\.tflite gives infinite numbers or NaN .*--quantize"):
        measure.compare({"a.tflite": Fixed(1, wrong, 2)}, Fixed(1, 3, 2), IMAGES, 2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_reference_without_numbers_is_refused(wrong):
    with pytest.raises(UserError, match="not finite"):
        measure.compare({"a": Fixed(1, 3, 2)}, Fixed(1, wrong, 2), IMAGES, 2)
