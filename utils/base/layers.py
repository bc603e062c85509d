"""Layers under the names of the published checkpoints, their initial weights, their freezing.

With Keras layers (`use_keras=True`) the convolutions and the dense layer are named by the graph's
name scope and numbered over the whole network in the order of construction, while batch
normalizations are named by the variable scope. With tf.layers the variable scope names all layers,
and they are numbered within it.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import utils.base.tensorflow_version  # noqa: F401

import tensorflow.compat.v1 as tf  # isort: skip

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
}


def conv_kernel_initializer(shape, dtype=None, partition_info=None) -> tf.Tensor:
    """Draws a kernel from a normal distribution of standard deviation sqrt(2 / fan_out).

    Args:
      shape: [height, width, channels, filters]; fan_out is height * width * filters.
      dtype: of the result.
      partition_info: unused; tf.layers gives it.
    """
    del partition_info
    height, width, _, out_filters = (int(size) for size in shape)
    return tf.random_normal(
        shape, mean=0.0, stddev=math.sqrt(2.0 / (height * width * out_filters)), dtype=dtype
    )


def dense_kernel_initializer(shape, dtype=None, partition_info=None) -> tf.Tensor:
    """Draws a kernel from a uniform distribution in +-1 / sqrt(number of classes).

    Args:
      shape: [features, classes].
      dtype: of the result.
      partition_info: unused; tf.layers gives it.
    """
    del partition_info
    limit = 1.0 / math.sqrt(int(shape[1]))
    return tf.random_uniform(shape, -limit, limit, dtype=dtype)


def freezing(frozen: bool) -> contextlib.AbstractContextManager:
    """Returns a block in which, if `frozen`, new variables are not trainable.

    Keras layers put their variables among the trainable ones even with trainable=False.
    """
    if not frozen:
        return contextlib.nullcontext()
    return tf.variable_creator_scope(lambda create, **how: create(**{**how, "trainable": False}))


def recording(variables: list[tf.Variable]) -> contextlib.AbstractContextManager:
    """Returns a block that adds the new variables to a list, in the order of their creation.

    The layers themselves know less: with bfloat16 those of tf.layers hold casts of their variables.
    """

    def create_and_record(create, **how):
        variables.append(create(**how))
        return variables[-1]

    return tf.variable_creator_scope(create_and_record)


class DepthwiseConv2D(tf.keras.layers.DepthwiseConv2D, tf.layers.Layer):
    """A depthwise convolution whose variables are named by the variable scope, as tf.layers does.

    tf.layers has no depthwise convolution of its own.
    """


class BatchNormalization(tf.layers.BatchNormalization):
    """Normalizes a batch in training by its mean and variance over all replicas of a strategy.

    It has the name of the layer of tf.layers, which names its variables. That layer has an argument
    for the same, but does not heed it. The operations are not fused, as the fused one sees only its
    own replica's part of the batch. One collective operation sums both statistics, in float32 as
    all moments of a layer.
    """

    def _calculate_mean_and_var(self, inputs, reduction_axes, keep_dims, mask=None):
        del mask
        sizes = [tf.shape(inputs)[axis] for axis in reduction_axes]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._count = tf.cast(replicas * tf.reduce_prod(sizes), tf.float32)
        moments = tf.stack(
            [
                tf.reduce_mean(inputs, reduction_axes, keepdims=keep_dims),
                tf.reduce_mean(tf.square(inputs), reduction_axes, keepdims=keep_dims),
            ]
        )
        context = tf.distribute.get_replica_context()
        mean, of_squares = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.MEAN, moments))
        return mean, of_squares - tf.square(mean)

    def _assign_moving_average(self, variable, value, momentum, inputs_size):
        if variable is self.moving_variance:
            # Bessel's factor: the fused operation, too, moves towards the unbiased variance.
            value *= self._count / (self._count - 1)
        return super()._assign_moving_average(variable, value, momentum, inputs_size)


class LayerNames:
    """Numbers the Keras layers of a network in the order of construction: conv2d, conv2d_1, ...

    Keras counts per graph, but the names in a checkpoint must not depend on what else the graph
    holds.
    """

    def __init__(self) -> None:
        self._count: collections.Counter[str] = collections.Counter()

    def __call__(self, kind: str) -> str:
        number = self._count[kind]
        self._count[kind] += 1
        return f"{kind}_{number}" if number else kind


class LayerFactory:
    """Makes the layers of one network.

    Attributes:
      channels_first: whether the data format is 'channels_first'.
      spatial_axes: the axes of height and width.
      activation: the function of the given name.
    """

    def __init__(
        self,
        names: Callable[[str], str | None],
        use_keras: bool,
        data_format: str,
        activation: str,
        padding: str,
        batch_norm_momentum: float,
        batch_norm_epsilon: float,
        sync_batch_norm: bool = False,
    ):
        """Keeps what all layers share; see `mnasnet_model.GlobalParams`, which has the same names.

        Args:
          names: gives a Keras layer its name by its kind ('conv2d'); None lets Keras name it.
          use_keras: whether to make Keras layers, else tf.layers.
          data_format: 'channels_last' or 'channels_first'.
          activation: a key of `ACTIVATIONS`.
          padding: 'same' (TensorFlow's) or 'symmetric' (PyTorch's).
          batch_norm_momentum: decay of the moving means and variances.
          batch_norm_epsilon: is added to the variance.
          sync_batch_norm: whether batch normalizations train on statistics over all replicas.
        """
        self._names = names
        self._use_keras = use_keras
        self._data_format = data_format
        self._padding = padding
        self._momentum, self._epsilon = batch_norm_momentum, batch_norm_epsilon
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._sync_batch_norm = sync_batch_norm and replicas > 1
        self.channels_first = data_format == "channels_first"
        self.spatial_axes = [2, 3] if self.channels_first else [1, 2]
        self.activation = ACTIVATIONS[activation]

    def _name(self, kind: str) -> dict[str, Any]:
        return {"name": self._names(kind)} if self._use_keras else {}

    def _pad(self, kernel_size: int, strides: Sequence[int]) -> tuple[Callable, str]:
        """Returns (a function that pads its input, the padding that the layer itself does).

        Both conventions pad odd kernels at stride 1 alike, so only larger strides are padded here.
        """
        if self._padding == "same" or max(strides) == 1:
            return tf.identity, "same"
        pad = [(kernel_size - 1) // 2] * 2
        none = [0, 0]
        paddings = [none, none, pad, pad] if self.channels_first else [none, pad, pad, none]
        return (lambda inputs: tf.pad(inputs, paddings)), "valid"

    def conv(self, filters: int, kernel_size: int = 1, strides=(1, 1), use_bias: bool = False):
        """Makes a convolution; only those of squeeze-and-excite have a bias."""
        conv2d = tf.keras.layers.Conv2D if self._use_keras else tf.layers.Conv2D
        pad, padding = self._pad(kernel_size, strides)
        layer = conv2d(
            filters,
            kernel_size=[kernel_size, kernel_size],
            strides=list(strides),
            kernel_initializer=conv_kernel_initializer,
            padding=padding,
            data_format=self._data_format,
            use_bias=use_bias,
            **self._name("conv2d"),
        )
        return layer if pad is tf.identity else (lambda inputs: layer(pad(inputs)))

    def depthwise_conv(self, kernel_size: int, strides: Sequence[int]):
        """Makes a depthwise convolution without bias."""
        depthwise = tf.keras.layers.DepthwiseConv2D if self._use_keras else DepthwiseConv2D
        pad, padding = self._pad(kernel_size, strides)
        layer = depthwise(
            [kernel_size, kernel_size],
            strides=list(strides),
            depthwise_initializer=conv_kernel_initializer,
            padding=padding,
            data_format=self._data_format,
            use_bias=False,
            **self._name("depthwise_conv2d"),
        )
        return layer if pad is tf.identity else (lambda inputs: layer(pad(inputs)))

    def dense(self, units: int):
        """Makes the classifier."""
        dense = tf.keras.layers.Dense if self._use_keras else tf.layers.Dense
        return dense(units, kernel_initializer=dense_kernel_initializer, **self._name("dense"))

    def batch_norm(self):
        """Makes a batch normalization, always of tf.layers: it names and updates as published."""
        make = BatchNormalization if self._sync_batch_norm else tf.layers.BatchNormalization
        return make(
            axis=1 if self.channels_first else -1,
            momentum=self._momentum,
            epsilon=self._epsilon,
            fused=not self._sync_batch_norm,
        )
