"""Tests of the input that feeds views of pictures."""

import numpy as np
import pytest
from shades import NUM_IMAGES, SIZE, batches

import imagenet_input
from utils.features.views_input import ViewsInput


def views_of(data_dir, batch_size, limit, views=2, **more):
    source = ViewsInput(True, False, False, data_dir, SIZE, 2, views=views, **{"seed": 1, **more})
    images, labels = zip(*batches(source, batch_size, limit), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("cache", [False, True])
def test_each_picture_has_so_many_views_and_padding_follows(numbered_dir, cache):
    images, labels = views_of(numbered_dir, 10, 6, cache=cache)
    expected = [*range(NUM_IMAGES)] * 2  # in the order of the files
    np.testing.assert_array_equal(labels[: 2 * NUM_IMAGES], expected)
    assert (labels[2 * NUM_IMAGES :] == imagenet_input.PADDING).all()
    assert images.shape == (60, SIZE, SIZE, 3) and (images[2 * NUM_IMAGES :] == 0).all()


def test_views_of_a_picture_differ_and_come_again_with_the_seed(digits_dir):
    first, labels = views_of(digits_dir, 100, 29)
    assert (labels[: 2 * 1437] >= 0).all() and (labels[2 * 1437 :] < 0).all()
    differing = (first[:1437] != first[1437 : 2 * 1437]).any((1, 2, 3))
    assert differing.mean() > 0.9
    again, _ = views_of(digits_dir, 64, 4)
    np.testing.assert_array_equal(first[:256], again)
    other, _ = views_of(digits_dir, 64, 4, seed=2)
    assert (first[:256] != other).any((1, 2, 3)).mean() > 0.9
