"""Tests of SIGINT and SIGTERM."""

import os
import signal

import pytest
import tpu_graphs
from tensorflow_estimator.python.estimator.estimator import training
from tensorflow_estimator.python.estimator.tpu.tpu_estimator import InstallSignalHandlerHook

import mnasnet_main
from utils import tpu_check
from utils.base import stopping
from utils.config import settings
from utils.training import checkpoints
from utils.workers import rendezvous

import tensorflow.compat.v1 as tf

NUMBERS = [signal.SIGINT, signal.SIGTERM]
TINY = {
    "model_name": "tiny",
    "model_spec": {"stages": ["r1_k3_s22_e1_i8_o8_noskip"]},
    "input_image_size": 32,
    "num_label_classes": 4,
}


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
    with tf.train.SingularMonitoredSession([rendezvous.StopHook()]) as session:
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


@pytest.fixture
def tpu_hooks(monkeypatch, tmp_path):
    """The hooks of a training on a TPU that deal with signals, in the order of their calls."""
    given = []
    make_session = tf.train.MonitoredTrainingSession

    def keep_hooks(**arguments):
        given.extend(arguments["hooks"])
        return make_session(**arguments)

    monkeypatch.setattr(training, "MonitoredTrainingSession", keep_hooks)
    params = tpu_check.tpu_params(model_dir=str(tmp_path), train_batch_size=64, **TINY)
    tpu_graphs.estimator_graph(params, training=True)
    # The others need the device.
    return [h for h in given if isinstance(h, InstallSignalHandlerHook | rendezvous.StopHook)]


def test_ctrl_c_ends_a_training_on_a_tpu_after_the_step(tpu_hooks):
    assert len(tpu_hooks) == 2

    def in_step(value):
        # TPUEstimator sets it so that Ctrl-C kills the process.
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
        if value == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return value

    step = tf.train.get_or_create_global_step()
    run = tf.py_func(in_step, [tf.assign_add(step, 1)], tf.int64)
    last = 0
    with tf.train.SingularMonitoredSession(tpu_hooks) as session:
        while last < 50 and not session.should_stop():
            last = session.run(run)
    assert last == 3
    with pytest.raises(stopping.Stop):
        stopping.raise_if_requested()


def test_a_signal_while_the_last_checkpoint_is_saved_waits_for_it(monkeypatch, tmp_path):
    params = {
        **settings.default_params(),
        **TINY,
        "model_dir": str(tmp_path),
        "use_tpu": False,
        "save_checkpoints_steps": 100,
        "num_train_images": 8,
        "train_batch_size": 4,
    }
    save = tf.train.Saver.save

    def interrupted_save(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments, **more)

    monkeypatch.setattr(tf.train.Saver, "save", interrupted_save)
    spec = mnasnet_main.mnasnet_model_fn(
        tf.zeros([4, 32, 32, 3]), tf.constant([0, 1, 2, 3]), tf.estimator.ModeKeys.TRAIN, params
    )
    with tf.train.SingularMonitoredSession(spec.training_hooks) as session:
        session.run(spec.train_op)
    assert checkpoints.step_of(checkpoints.latest(str(tmp_path))) == 1
    with pytest.raises(stopping.Stop):
        stopping.raise_if_requested()
