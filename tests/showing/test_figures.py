"""utils.showing.figures, against SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import calibration, metrics

from utils.showing import figures

DRAWN = np.random.RandomState(3)
LABELS = DRAWN.randint(0, 7, 400)
PREDICTED = np.where(DRAWN.rand(400) < 0.7, LABELS, DRAWN.randint(0, 7, 400))


@pytest.mark.parametrize(
    ("right", "total"), [(0, 1), (1, 1), (0, 30), (30, 30), (356, 360), (1, 7)]
)
def test_the_interval_is_scipys(right, total):
    expected = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    low, high = figures.wilson_interval(right, total)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= right / total <= high <= 1


def test_nothing_is_known_without_images():
    assert figures.wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("right", "total"), [(2, 1), (-1, 5)])
def test_more_right_than_there_are_is_refused(right, total):
    with pytest.raises(ValueError, match=f"{right} right of {total}"):
        figures.wilson_interval(right, total)


def test_the_confusion_is_scikit_learns():
    found = figures.confusion_matrix(LABELS, PREDICTED, 7)
    np.testing.assert_array_equal(found, metrics.confusion_matrix(LABELS, PREDICTED))
    assert found.dtype == np.int64


def test_the_figures_of_classes_are_scikit_learns():
    found = figures.class_figures(figures.confusion_matrix(LABELS, PREDICTED, 7))
    expected = metrics.precision_recall_fscore_support(LABELS, PREDICTED)
    ours = [(one.precision, one.recall, one.f1, one.images) for one in found]
    np.testing.assert_allclose(ours, np.transpose(expected))


def test_a_class_is_confused_with_the_one_that_takes_most():
    one, other, none = figures.class_figures(np.array([[5, 2, 3], [0, 4, 0], [1, 1, 0]]))
    assert (one.confused_with, one.confused) == (2, 3)
    assert (other.confused_with, other.confused) == (None, 0)
    assert (none.confused_with, none.confused) == (0, 1)  # the first of two
    assert (one.images, one.predicted, one.right) == (10, 6, 5)


def test_shares_of_nothing_are_none():
    absent, unseen, one = figures.class_figures(np.array([[0, 0, 0], [0, 0, 2], [0, 0, 1]]))
    assert (absent.precision, absent.recall, absent.f1) == (None, None, None)
    assert (unseen.precision, unseen.recall, unseen.f1) == (None, 0, 0)
    assert (one.precision, one.recall, one.f1) == (1 / 3, 1, 0.5)


def test_the_bins_are_scikit_learns():
    confidence = DRAWN.rand(500)
    is_right = DRAWN.rand(500) < confidence
    accuracy, mean = calibration.calibration_curve(is_right, confidence, n_bins=figures.NUM_BINS)
    found = figures.calibration_bins(confidence, is_right)
    np.testing.assert_allclose([one.accuracy for one in found], accuracy)
    np.testing.assert_allclose([one.confidence for one in found], mean)
    assert sum(one.images for one in found) == 500
    assert all(one.interval[0] <= one.accuracy <= one.interval[1] for one in found)


def test_the_calibration_error_weighs_bins_by_their_images():
    confidence = np.array([0.95, 0.95, 0.95, 0.15])
    found = figures.calibration_bins(confidence, np.array([True, True, False, True]))
    expected = 3 / 4 * (0.95 - 2 / 3) + 1 / 4 * (1 - 0.15)
    assert figures.expected_calibration_error(found) == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (0.1, 0), (0.1001, 1), (1.0, 9)])
def test_the_ends_belong_to_a_bin(confidence, place):
    found = figures.calibration_bins(np.array([confidence]), np.array([True]))
    assert [one.images for one in found].index(1) == place
    assert [one.accuracy for one in found].count(None) == 9
