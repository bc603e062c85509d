"""Tests of `utils.training.averages`: which weights a checkpoint gives."""

import os

import numpy as np
import pytest

from utils.training import averages, checkpoints, optimization

import tensorflow.compat.v1 as tf


def build_network():
    """A layer with batch norm; its output."""
    with tf.variable_scope("net"):
        outputs = tf.layers.dense(tf.ones([4, 3]), 2)
        return tf.layers.batch_normalization(outputs, training=False)


def save_trained(model_dir, with_averages):
    """Saves weights of 1, and averages of 2 if wanted."""
    with tf.Graph().as_default(), tf.Session() as session:
        build_network()
        tf.train.get_or_create_global_step()
        if with_averages:
            tf.train.ExponentialMovingAverage(0.5).apply(optimization.averaged_variables())
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            is_average = variable.op.name.endswith("ExponentialMovingAverage")
            value = np.full(variable.shape.as_list(), 2 if is_average else 1)
            variable.load(value.astype(variable.dtype.base_dtype.as_numpy_dtype), session)
        return tf.train.Saver().save(session, os.path.join(model_dir, "model.ckpt"), 5)


@pytest.mark.parametrize(
    ("with_averages", "use_averages", "expected"),
    [(True, True, 2), (True, False, 1), (False, True, 1), (False, False, 1)],
)
def test_averages_saver(model_dir, with_averages, use_averages, expected):
    path = save_trained(model_dir, with_averages)
    build_network()
    step = tf.train.get_or_create_global_step()
    saver = averages.AveragesSaver(use_averages)
    with tf.Session() as session:
        saver.restore(session, path)
        values = session.run({v.op.name: v for v in tf.global_variables()})
        assert values.pop(step.op.name) == 1
    assert set(values) == {
        "net/dense/kernel",
        "net/dense/bias",
        *(
            f"net/batch_normalization/{leaf}"
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        ),
    }
    for name, value in values.items():
        assert (value == expected).all(), name


@pytest.mark.parametrize("with_averages", [True, False])
def test_averages_saver_says_which_weights_it_uses(model_dir, with_averages, caplog):
    path = save_trained(model_dir, with_averages)
    build_network()
    tf.train.get_or_create_global_step()
    with tf.Session() as session, caplog.at_level("INFO", "absl"):
        averages.AveragesSaver().restore(session, path)
    assert ("averaged" if with_averages else "raw") in caplog.text
    assert path in caplog.text


def test_averages_saver_as_a_scaffolds(model_dir):
    save_trained(model_dir, True)
    outputs = build_network()
    tf.train.get_or_create_global_step()
    scaffold = tf.train.Scaffold(saver=averages.AveragesSaver())
    creator = tf.train.ChiefSessionCreator(
        scaffold, checkpoint_filename_with_path=checkpoints.latest(model_dir)
    )
    with tf.train.MonitoredSession(creator) as session:
        # (3 x 2 + 2 - 2) / sqrt(2.001) x 2 + 2
        np.testing.assert_allclose(session.run(outputs), 6 / np.sqrt(2.001) * 2 + 2, rtol=1e-5)


def test_a_checkpoint_that_lacks_some_averages_is_raw(model_dir):
    with tf.Graph().as_default(), tf.Session() as session:
        build_network()
        tf.train.get_or_create_global_step()
        average = tf.train.ExponentialMovingAverage(0.5)
        kernel = tf.trainable_variables()[0]
        average.apply([kernel])
        session.run(tf.global_variables_initializer())
        session.run(tf.assign(average.average(kernel), tf.fill(kernel.shape, 2.0)))
        path = tf.train.Saver().save(session, os.path.join(model_dir, "model.ckpt"), 5)
        raw = session.run(kernel)
    build_network()
    tf.train.get_or_create_global_step()
    with tf.Session() as session:
        averages.AveragesSaver().restore(session, path)
        np.testing.assert_array_equal(session.run(tf.trainable_variables()[0]), raw)
