"""Saves checkpoints of one variable, and damages their files."""

import os
import pathlib

import tensorflow.compat.v1 as tf


def save(model_dir, *steps):
    """Saves a variable `x` whose value is the step, once for each step; the last path."""
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.get_variable("x", [1000], initializer=tf.zeros_initializer())
        saver = tf.train.Saver(max_to_keep=0)
        path = None
        for step in steps:
            session.run(tf.assign(x, tf.fill([1000], float(step))))
            path = saver.save(
                session, os.path.join(model_dir, "model.ckpt"), step, write_meta_graph=False
            )
        return path


def save_names(model_dir, step, names):
    """Saves a number under each name, as a checkpoint of a step; its path."""
    path = os.path.join(model_dir, f"model.ckpt-{step}")
    names = sorted(names)
    with tf.Graph().as_default(), tf.Session() as session:
        session.run(
            tf.raw_ops.SaveV2(
                prefix=path,
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tf.constant(0.0)] * len(names),
            )
        )
    return path


def data_file(path):
    return pathlib.Path(path + ".data-00000-of-00001")


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def value_of(path):
    return tf.train.load_checkpoint(path).get_tensor("x")[0]
