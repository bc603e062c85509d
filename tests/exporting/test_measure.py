"""Tests of what is measured of a classifier."""

import threading

import numpy as np
import pytest

from utils.base.errors import UserError
from utils.exporting import measure


def fixed(*scores):
    """A classifier that gives the same scores for every image."""
    return lambda image: np.array(scores, np.float32)


IMAGES = [(np.zeros([2, 2, 3], np.float32), 1), (np.zeros([2, 2, 3], np.float32), 0)]


def test_shares_and_differences():
    found = measure.compare({"same": fixed(1, 3, 2), "other": fixed(1, 2, 3.5)}, "same", IMAGES, 2)
    same, other = (found[name].report(labelled=True) for name in ("same", "other"))
    assert (same["top_1_accuracy"], same["agreement"]) == (0.5, 1)
    assert (other["top_1_accuracy"], other["top_5_accuracy"], other["agreement"]) == (0, 1, 0)
    assert same["largest_logit_difference"] == 0
    assert other["largest_logit_difference"] == pytest.approx(0.5)
    assert found["same"].report(labelled=False)["top_1_accuracy"] is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_file_without_numbers_is_refused(wrong):
    with pytest.raises(UserError, match=r"^a\.tflite gives infinite numbers or NaN .*--quantize"):
        measure.compare(
            {"saved": fixed(1, 3, 2), "a.tflite": fixed(1, wrong, 2)}, "saved", IMAGES, 2
        )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_reference_without_numbers_is_refused(wrong):
    with pytest.raises(UserError, match="not finite"):
        measure.compare({"a": fixed(1, 3, 2), "saved": fixed(1, wrong, 2)}, "saved", IMAGES, 2)


def test_the_share_of_images_that_are_right():
    assert measure.top_1(fixed(1, 3, 2), IMAGES, 2) == 0.5
    assert measure.top_1(fixed(3, 1, 2), IMAGES[:1], 1) == 0
    assert measure.top_1(fixed(3, 1, 2), [], 0) is None


def test_the_report_names_what_was_compared():
    classifiers = {"saved": fixed(0.25, 0.5, 0.25), "a": fixed(0.2, 0.5, 0.3)}
    found = measure.compare(classifiers, "saved", IMAGES, 2)["a"]
    row = found.report(True, measure.DIFFERENCES[True])
    assert row["largest_probability_difference"] == pytest.approx(0.1)
    assert "largest_logit_difference" not in row


@pytest.mark.parametrize("count", [1, 49, 51, 130])
def test_the_last_images_are_timed_in_turns_and_the_others_are_taken_once(count):
    calls = []

    def recording(name):
        def classify(image):
            calls.append((name, int(image[0, 0, 0]), threading.get_ident()))
            return image[0, 0]

        return classify

    samples = [(np.full([1, 3, 3], number, np.float32), 0) for number in range(count)]
    classifiers = {name: recording(name) for name in ("reference", "a", "b")}
    found = measure.compare(classifiers, "reference", iter(samples), count)
    timed = min(count, measure.TIMED_RUNS)
    for measurement in found.values():
        assert measurement.images == measurement.agreeing == count
        assert len(measurement.latencies) == timed
    for name in ("reference", "a", "b"):
        assert [number for n, number, _ in calls if n == name] == [*range(count)]
    here = threading.get_ident()
    assert calls[-3 * timed :] == [
        (name, number, here)
        for number in range(count - timed, count)
        for name in ("reference", "a", "b")
    ]
    assert not [call for call in calls[: -3 * timed] if call[2] == here]
