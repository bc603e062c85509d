"""The weights behind the golden files: a pure function of a variable's name and shape."""

import zlib

import numpy as np

import tensorflow.compat.v1 as tf


def weight(name, shape):
    """The float32 array of the variable `name` (without ':0')."""
    seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
    normal = np.random.RandomState(seed).standard_normal(shape)
    kind = name.split("/")[-1]
    if kind in ("gamma", "moving_variance"):
        spread = np.abs(normal) if kind == "moving_variance" else normal
        values = 1.0 + 0.1 * spread
    elif kind in ("beta", "moving_mean", "bias"):
        values = 0.1 * normal
    else:
        # A depthwise kernel's third axis is its channels: each sees height x width inputs alone.
        fan_in = shape[0] * shape[1] if kind == "depthwise_kernel" else np.prod(shape[:-1])
        values = normal * np.sqrt(2.0 / fan_in)
    return values.astype(np.float32)


def load(session, variables=None):
    """Gives variables of the session's graph, by default all, their weights."""
    with session.graph.as_default():
        variables = tf.global_variables() if variables is None else variables
    # An initializer is an assignment: feeding its value adds no operations to the graph.
    values = {
        v.initializer.inputs[1]: weight(v.op.name, v.shape.as_list()).astype(
            v.dtype.base_dtype.as_numpy_dtype
        )
        for v in variables
    }
    assert len(values) == len(variables)  # an average and its variable share their initial value
    session.run([v.initializer for v in variables], values)
