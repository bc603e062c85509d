"""Tests of SIGINT and SIGTERM."""

import os
import signal

import pytest
import tensorflow.compat.v1 as tf

from utils import stopping

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers():
    """Handles the signals; what was before comes back after the test."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    stopping.install()
    yield
    stopping._State.requested = None
    stopping._State.training = False
    for number, handler in before.items():
        signal.signal(number, handler)


def train(after_step, steps=50):
    """Counts to `steps`, calling `after_step(step)` after each; returns the last step."""
    step = tf.train.get_or_create_global_step()
    increment = tf.assign_add(step, 1)
    last = 0
    with tf.train.SingularMonitoredSession([stopping.StopHook()]) as session:
        while last < steps and not session.should_stop():
            last = session.run(increment)
            after_step(last)
    return last


def kill_at(place, number, times=1):
    def after_step(step):
        if step == place:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return after_step


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_program_at_once(number):
    with pytest.raises(stopping.Stop) as stop:
        os.kill(os.getpid(), number)
    assert stop.value.code == 128 + number
    assert isinstance(stop.value, SystemExit)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_training_after_the_step(number):
    assert train(kill_at(3, number)) == 4
    with pytest.raises(stopping.Stop) as stop:
        stopping.raise_if_requested()
    assert stop.value.signal_number == number


def test_a_second_signal_ends_a_training_at_once():
    with pytest.raises(stopping.Stop):
        train(kill_at(3, signal.SIGINT, times=2))


def test_without_a_signal_nothing_stops():
    assert train(lambda step: None, steps=7) == 7
    stopping.raise_if_requested()


def test_after_a_training_a_signal_ends_the_program_at_once():
    train(lambda step: None, steps=2)
    with pytest.raises(stopping.Stop):
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_hook_takes_back_sigint_from_tpu_estimator():
    # TPUEstimator sets it so that Ctrl-C kills the process.
    def after_step(step):
        if step == 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    train(after_step, steps=2)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
