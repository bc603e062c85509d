"""Tests of what a training tells of its speed, in real sessions with a clock of the test's."""

import glob
import re
import types

import pytest

from utils.base import progress
from utils.training import hooks

import tensorflow.compat.v1 as tf

SET_UP_S, STEP_S, BATCH = 60.0, 0.5, 8


@pytest.fixture
def train(monkeypatch, tmp_path, caplog):
    """Trains from a step to another; returns (lines of the log, {step: images a second})."""
    now = 100.0
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now))
    caplog.set_level("INFO", "absl")

    def train(start, end, log_every, total=None):
        def pass_time(step):
            nonlocal now
            now += SET_UP_S if step <= start + 2 else STEP_S
            return step

        params = {
            "train_steps": total or end,
            "log_step_count_steps": log_every,
            "add_summaries": True,
            "train_batch_size": BATCH,
            "model_dir": str(tmp_path),
            "use_tpu": False,
        }
        global_step = tf.train.get_or_create_global_step()
        step = tf.py_func(pass_time, [tf.assign_add(global_step, 1)], tf.int64)
        tf.losses.add_loss(tf.constant(2.5))
        hook = hooks.ProgressHook(params, start)
        with hooks.closing([hook]), tf.train.SingularMonitoredSession([hook]) as session:
            global_step.load(start, session.raw_session())
            for _ in range(start, end):
                session.run(step)
        tf.summary.FileWriterCache.clear()
        values = {
            event.step: value.simple_value
            for path in glob.glob(f"{tmp_path}/events*")
            for event in tf.train.summary_iterator(path)
            for value in event.summary.value
        }
        return [record.getMessage() for record in caplog.records], values

    return train


def test_speeds_are_those_of_the_steps_and_agree(train):
    lines, _ = train(0, 8, 2, total=100)
    assert lines == ["train step 2/100  loss 2.5"] + [
        f"train step {step}/100  loss 2.5  images/s 16  2 steps/s  ETA 0:{(100 - step) // 2}"
        for step in (4, 6, 8)
    ]


def test_a_resumed_training_has_its_speed_from_the_third_step_on(train):
    lines, _ = train(50, 55, 1, total=100)
    first, second, *rest = lines
    assert [first, second] == ["train step 51/100  loss 2.5", "train step 52/100  loss 2.5"]
    assert len(rest) == 3 and all("images/s 16  2 steps/s" in line for line in rest)


def test_a_training_shorter_than_the_interval_shows_its_last_step(train):
    lines, values = train(0, 5, 64)
    assert lines == ["train step 5/5  loss 2.5  images/s 16  2 steps/s  ETA 0:00"]
    assert values[5] == 16


def test_tensorboard_has_no_speed_that_is_none(train):
    lines, values = train(0, 7, 2)
    assert set(values.values()) == {16.0}
    assert set(values) == {3, 5, 7}
    assert [int(re.search(r"step (\d+)/", line)[1]) for line in lines] == [2, 4, 6, 7]


def test_nothing_is_told_where_nothing_was_trained(train):
    assert train(3, 3, 1) == ([], {})


def test_summaries_are_computed_in_all_steps_and_written_in_some(tmp_path):
    """For a step without them a session would prepare its graph again, half a second for A1."""
    computed = []
    params = {
        "train_steps": 6,
        "log_step_count_steps": 3,
        "add_summaries": True,
        "train_batch_size": BATCH,
        "model_dir": str(tmp_path),
        "use_tpu": False,
    }
    step = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    tf.losses.add_loss(tf.constant(2.5))
    tf.summary.scalar("rate", tf.py_func(lambda: computed.append(1) or 0.5, [], tf.double))
    scaffold = tf.train.Scaffold()
    saver = tf.train.SummarySaverHook(3, output_dir=str(tmp_path), scaffold=scaffold)
    hook = hooks.ProgressHook(params, 0)
    with (
        hooks.closing([hook]),
        tf.train.SingularMonitoredSession([hook, saver], scaffold=scaffold) as session,
    ):
        for _ in range(6):
            session.run(step)
    tf.summary.FileWriterCache.clear()
    written = [
        event.step
        for path in glob.glob(f"{tmp_path}/events*")
        for event in tf.train.summary_iterator(path)
        for value in event.summary.value
        if value.tag == "rate"
    ]
    assert len(computed) == 6
    assert written == [1, 4]
