"""Builds small networks, and runs them with weights that follow from their names."""

import golden_weights
import numpy as np

import mnasnet_models
from mnasnet_model import GlobalParams, MnasNetModel

import tensorflow.compat.v1 as tf

TINY = ["r1_k3_s11_e1_i8_o8", "r2_k5_s22_e3_i8_o16_se0.25"]


def tiny(**fields):
    """A network of three blocks."""
    params = {"stem_size": 8, "head_size": 16, "num_classes": 4, "dropout_rate": 0.0}
    return MnasNetModel(
        mnasnet_models.MnasNetDecoder().decode(TINY), GlobalParams(**{**params, **fields})
    )


def random_images(size, count=2, seed=0):
    return np.random.RandomState(seed).standard_normal((count, size, size, 3)).astype(np.float32)


def run_with_golden_weights(tensors):
    with tf.Session() as session:
        golden_weights.load(session)
        return session.run(tensors)


def names_of_variables():
    return [v.op.name for v in tf.global_variables()]


def ops_of_type(kind):
    return [op for op in tf.get_default_graph().get_operations() if op.type == kind]
