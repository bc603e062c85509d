"""Tests of the benchmark of several workers."""

import pytest

from utils.base.errors import UserError
from utils.benchmarks import scaling


def test_what_two_workers_exchange():
    found = scaling.exchange("mnasnet-small", 10, sync_batch_norm=True)
    # All gradients in one sum; two statistics of each of 46 layers, and their gradients.
    assert found.sums == 1 + 2 * 46
    assert found.bytes / 1e6 == pytest.approx(3.05 + 4 * 0.033, abs=0.01)


def test_the_time_on_a_network():
    assert 1000 * scaling.seconds_of_exchange(2, 15.55e6, 10) == pytest.approx(12.4, abs=0.1)
    assert 1000 * scaling.seconds_of_exchange(1000, 15.55e6, 1) == pytest.approx(249, abs=1)
    assert scaling.seconds_of_exchange(1, 15.55e6, 10) == 0


def test_no_turn_is_refused():
    with pytest.raises(UserError, match="--turns=0 is invalid: it must be at least 1"):
        scaling.main(["benchmark", "--turns=0"])
