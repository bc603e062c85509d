"""Tests of the benchmark of several workers."""

import pytest

from utils.base.errors import UserError
from utils.benchmarks import scaling


def test_what_two_workers_exchange():
    plain = scaling.exchange("mnasnet-small", 10, sync_batch_norm=False)
    # A gradient for each trainable number, all in one sum; nothing else.
    assert plain.sums == 1 and plain.bytes / 1e6 == pytest.approx(3.05, abs=0.01)
    synchronized = scaling.exchange("mnasnet-small", 10, sync_batch_norm=True)
    # Two statistics of each channel in the forward pass, and their gradients.
    assert synchronized.sums - plain.sums == 2 * 46
    assert 0 < synchronized.bytes - plain.bytes < 0.2e6


def test_the_time_on_a_network():
    assert 1000 * scaling.seconds_of_exchange(2, 15.55e6, 10) == pytest.approx(12.4, abs=0.1)
    assert 1000 * scaling.seconds_of_exchange(1000, 15.55e6, 1) == pytest.approx(249, abs=1)
    assert scaling.seconds_of_exchange(1, 15.55e6, 10) == 0


def test_no_turn_is_refused():
    with pytest.raises(UserError, match="--turns=0 is invalid: it must be at least 1"):
        scaling.main(["benchmark", "--turns=0"])
