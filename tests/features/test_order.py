"""Tests of the order in which steps take the views of pictures."""

import numpy as np
import pytest

from utils.features.order import Order


def rows(order, steps):
    return np.concatenate([order.rows(step) for step in range(steps)])


@pytest.mark.parametrize("batch_size", [1, 4, 6, 12, 30])
def test_an_epoch_has_each_picture_once_and_the_next_one_another_view_of_it(batch_size):
    order = Order(num_images=12, num_views=3, batch_size=batch_size, seed=1)
    taken = rows(order, 72 // batch_size + 1)[:72].reshape([6, 12])  # epochs
    images, views = taken % 12, taken // 12
    np.testing.assert_array_equal(np.sort(images, 1), [range(12)] * 6)
    by_image = np.take_along_axis(views, np.argsort(images, 1), 1)
    for start in (0, 1, 2, 3):
        np.testing.assert_array_equal(np.sort(by_image[start : start + 3], 0).T, [[0, 1, 2]] * 12)
    assert set(views[0]) == {0, 1, 2}  # and an epoch has all of them
    assert len({tuple(epoch) for epoch in images}) == 6  # each in an order of its own


def test_the_order_follows_from_the_seed_and_the_step():
    first, second = (Order(7, 2, 3, seed=5) for _ in range(2))
    resumed = [second.rows(step) for step in (4, 5, 6)]
    np.testing.assert_array_equal([first.rows(step) for step in range(7)][4:], resumed)
    assert not np.array_equal(rows(first, 7), rows(Order(7, 2, 3, seed=6), 7))
    assert not np.array_equal(rows(first, 7), rows(Order(7, 2, 3, seed=None), 7))


def test_one_view_and_a_batch_larger_than_the_data():
    order = Order(num_images=2, num_views=1, batch_size=5, seed=0)
    assert sorted(order.rows(0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
