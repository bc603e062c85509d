"""Resolves settings as the program does, in a folder of the test's own."""

import os

import yaml

from utils.training import configuration, model_files

import tensorflow.compat.v1 as tf

STAGES = ["r1_k3_s22_e3_i8_o8"]


def resolve(tmp_path, **given):
    """The settings of a run on black images, with what is given."""
    return configuration.resolve(
        {"model_dir": str(tmp_path / "model"), "data_dir": "null", **given}
    )


def write_yaml(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def write_checkpoint(model_dir, step=1):
    """The least that counts as a checkpoint."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("x", [], initializer=tf.zeros_initializer())
        session.run(tf.global_variables_initializer())
        return tf.train.Saver().save(session, os.path.join(model_dir, "model.ckpt"), step)


def record(tmp_path, **given):
    """A training run's folder; returns its params."""
    params = resolve(tmp_path, **given)
    os.makedirs(params["model_dir"], exist_ok=True)
    model_files.record_params(params)
    write_checkpoint(params["model_dir"])
    return params
