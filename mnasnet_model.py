"""Layers of MnasNet: the mobile inverted bottleneck block and the network made of them.

Source: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019,
arXiv:1807.11626. The table of architectures is in `mnasnet_models`.

Variable names follow the published checkpoints. With Keras layers (`use_keras=True`) the
convolutions and the dense layer are named by the graph's name scope and numbered over the whole
network in order of construction, while batch normalizations are named by the variable scope; with
tf.layers everything is named by, and numbered within, the variable scope.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import utils.base.tensorflow_version  # noqa: F401  (one plain sentence for a TensorFlow without tf.layers)

import tensorflow.compat.v1 as tf  # isort: skip


class BlockArgs(NamedTuple):
    """One stage of the network: `num_repeat` blocks of one kind.

    Attributes:
      kernel_size: side of the depthwise kernel.
      num_repeat: number of blocks; only the first has the stage's strides and input filters.
      input_filters: channels that enter the stage, before the depth multiplier.
      output_filters: channels of every block's output, before the depth multiplier.
      expand_ratio: channels inside a block as a multiple of its input channels.
      id_skip: whether blocks may add their input to their output.
      strides: vertical and horizontal stride of the first block.
      se_ratio: squeeze-and-excite channels relative to the block's input channels; None for none.
    """

    kernel_size: int = 3
    num_repeat: int = 1
    input_filters: int = 0
    output_filters: int = 0
    expand_ratio: int = 1
    id_skip: bool = True
    strides: Sequence[int] = (1, 1)
    se_ratio: float | None = None


class GlobalParams(NamedTuple):
    """Settings shared by all layers of a network.

    Attributes:
      batch_norm_momentum: decay of the moving means and variances.
      batch_norm_epsilon: added to the variance.
      dropout_rate: share of features dropped before the dense layer, in [0, 1).
      data_format: 'channels_last' ([N, H, W, C]) or 'channels_first' ([N, C, H, W], GPU only).
      num_classes: width of the logits.
      depth_multiplier: scales the filters of the stem and the blocks; None leaves them alone.
      depth_divisor: scaled filters are multiples of this.
      min_depth: least number of filters after scaling; None means `depth_divisor`.
      stem_size: filters of the stem.
      use_keras: Keras layers for convolutions and the dense layer, else tf.layers.
      head_size: filters of the 1x1 convolution before the pooling (never scaled).
      activation: 'relu' or 'relu6'.
      padding: 'same' (TensorFlow's) or 'symmetric' ((kernel - 1) // 2 on each side, PyTorch's).
      frozen: what does not train: None for nothing, 'block_N' for the stem and the blocks 0 to N,
        'backbone' for all but the classifier. Its variables are not trainable and its batch
        normalizations use the moving statistics, without updating them, in training too.
    """

    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    dropout_rate: float = 0.2
    data_format: str = "channels_last"
    num_classes: int = 1000
    depth_multiplier: float | None = None
    depth_divisor: int = 8
    min_depth: int | None = None
    stem_size: int = 32
    use_keras: bool = True
    head_size: int = 1280
    activation: str = "relu"
    padding: str = "same"
    frozen: str | None = None


BACKBONE = "backbone"
ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
}
PADDINGS = ("same", "symmetric")
DATA_FORMATS = ("channels_last", "channels_first")


def conv_kernel_initializer(shape, dtype=None, partition_info=None):
    """Normal with standard deviation sqrt(2 / fan_out), fan_out = height * width * last axis."""
    del partition_info
    height, width, _, out_filters = (int(size) for size in shape)
    return tf.random_normal(
        shape, mean=0.0, stddev=math.sqrt(2.0 / (height * width * out_filters)), dtype=dtype
    )


def dense_kernel_initializer(shape, dtype=None, partition_info=None):
    """Uniform in +-1 / sqrt(shape[1]), shape[1] being the number of classes."""
    del partition_info
    limit = 1.0 / math.sqrt(int(shape[1]))
    return tf.random_uniform(shape, -limit, limit, dtype=dtype)


def round_filters(filters: float, global_params: GlobalParams) -> int:
    """Scales a number of filters by the depth multiplier, to a multiple of the depth divisor.

    The result is never more than 10 % below the scaled number. Without a depth multiplier the
    number is returned as it is.
    """
    multiplier = global_params.depth_multiplier
    if multiplier is None:
        return int(filters)
    divisor = int(global_params.depth_divisor)
    min_depth = int(global_params.min_depth or divisor)
    scaled = filters * multiplier
    rounded = max(min_depth, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < 0.9 * scaled:
        rounded += divisor
    return int(rounded)


def num_frozen_blocks(frozen: str | None, num_blocks: int) -> int:
    """How many blocks, from the first on, `GlobalParams.frozen` freezes.

    Raises:
      ValueError: the network has no such block.
    """
    if frozen is None:
        return 0
    if frozen == BACKBONE:
        return num_blocks
    names = [f"block_{index}" for index in range(num_blocks)]
    if frozen not in names:
        raise ValueError(
            f"{frozen!r} is no block of this network, which has {names[0]} to {names[-1]}."
        )
    return names.index(frozen) + 1


def _freezing(frozen: bool) -> contextlib.AbstractContextManager:
    """Where `frozen`, variables made inside are not trainable.

    Keras layers put their variables among the trainable ones even with trainable=False.
    """
    if not frozen:
        return contextlib.nullcontext()
    return tf.variable_creator_scope(lambda create, **how: create(**{**how, "trainable": False}))


class DepthwiseConv2D(tf.keras.layers.DepthwiseConv2D, tf.layers.Layer):
    """Depthwise convolution whose variables are named by the variable scope (tf.layers style)."""


class _LayerNames:
    """Numbers Keras layers of a network in order of construction: conv2d, conv2d_1, ...

    Keras's own counter belongs to the graph; names of a checkpoint must not depend on what else
    the graph holds.
    """

    def __init__(self) -> None:
        self._count: collections.Counter[str] = collections.Counter()

    def __call__(self, kind: str) -> str:
        number = self._count[kind]
        self._count[kind] += 1
        return f"{kind}_{number}" if number else kind


class _LayerFactory:
    """Makes the layers of one network with its global parameters."""

    def __init__(self, global_params: GlobalParams, names: Callable[[str], str | None]):
        self._params = global_params
        self._names = names
        self.channels_first = global_params.data_format == "channels_first"
        self.channel_axis = 1 if self.channels_first else -1
        self.spatial_axes = [2, 3] if self.channels_first else [1, 2]
        self.activation = ACTIVATIONS[global_params.activation]

    def _name(self, kind: str) -> dict[str, Any]:
        return {"name": self._names(kind)} if self._params.use_keras else {}

    def _pad(self, kernel_size: int, strides: Sequence[int]) -> tuple[Callable, str]:
        """Returns (a function that pads by hand, the padding that the layer itself does).

        Odd kernels at stride 1 are padded alike by both conventions, so only strides need it.
        """
        if self._params.padding == "same" or max(strides) == 1:
            return tf.identity, "same"
        pad = [(kernel_size - 1) // 2] * 2
        none = [0, 0]
        paddings = [none, none, pad, pad] if self.channels_first else [none, pad, pad, none]
        return (lambda inputs: tf.pad(inputs, paddings)), "valid"

    def conv(self, filters: int, kernel_size: int = 1, strides=(1, 1), use_bias: bool = False):
        """A convolution; bias only in squeeze-and-excite."""
        conv2d = tf.keras.layers.Conv2D if self._params.use_keras else tf.layers.Conv2D
        pad, padding = self._pad(kernel_size, strides)
        layer = conv2d(
            filters,
            kernel_size=[kernel_size, kernel_size],
            strides=list(strides),
            kernel_initializer=conv_kernel_initializer,
            padding=padding,
            data_format=self._params.data_format,
            use_bias=use_bias,
            **self._name("conv2d"),
        )
        return layer if pad is tf.identity else (lambda inputs: layer(pad(inputs)))

    def depthwise_conv(self, kernel_size: int, strides: Sequence[int]):
        """A depthwise convolution without bias."""
        keras = self._params.use_keras
        depthwise = tf.keras.layers.DepthwiseConv2D if keras else DepthwiseConv2D
        pad, padding = self._pad(kernel_size, strides)
        layer = depthwise(
            [kernel_size, kernel_size],
            strides=list(strides),
            depthwise_initializer=conv_kernel_initializer,
            padding=padding,
            data_format=self._params.data_format,
            use_bias=False,
            **self._name("depthwise_conv2d"),
        )
        return layer if pad is tf.identity else (lambda inputs: layer(pad(inputs)))

    def dense(self, units: int):
        """The classifier."""
        dense = tf.keras.layers.Dense if self._params.use_keras else tf.layers.Dense
        return dense(units, kernel_initializer=dense_kernel_initializer, **self._name("dense"))

    def batch_norm(self):
        """A batch normalization; always tf.layers, which names and updates it as published."""
        return tf.layers.BatchNormalization(
            axis=self.channel_axis,
            momentum=self._params.batch_norm_momentum,
            epsilon=self._params.batch_norm_epsilon,
            fused=True,
        )


class MnasBlock:
    """Mobile inverted bottleneck, optionally with squeeze-and-excite.

    Expansion 1x1, depthwise k x k, squeeze-and-excite, projection 1x1, identity.
    """

    def __init__(
        self,
        block_args: BlockArgs,
        global_params: GlobalParams,
        layer_names: Callable[[str], str | None] | None = None,
    ):
        """Makes the layers.

        Args:
          block_args: the block; filters as they are to be (already rounded).
          global_params: settings of the network.
          layer_names: names Keras layers by their kind; None leaves that to Keras.
        """
        self._args = block_args
        self._layers = _LayerFactory(global_params, layer_names or (lambda kind: None))
        self.endpoints: dict[str, tf.Tensor] = {}
        self._build()

    @property
    def block_args(self) -> BlockArgs:
        return self._args

    def _build(self) -> None:
        args, layers = self._args, self._layers
        expanded = int(args.input_filters * args.expand_ratio)
        if args.expand_ratio != 1:
            self._expand_conv = layers.conv(expanded)
            self._expand_norm = layers.batch_norm()
        self._depthwise_conv = layers.depthwise_conv(args.kernel_size, args.strides)
        self._depthwise_norm = layers.batch_norm()
        se_ratio = args.se_ratio or 0
        self._has_se = 0 < se_ratio <= 1
        if self._has_se:
            squeezed = max(1, int(args.input_filters * se_ratio))
            self._se_reduce = layers.conv(squeezed, use_bias=True)
            self._se_expand = layers.conv(expanded, use_bias=True)
        self._project_conv = layers.conv(args.output_filters)
        self._project_norm = layers.batch_norm()
        self._has_skip = (
            args.id_skip
            and all(stride == 1 for stride in args.strides)
            and args.input_filters == args.output_filters
        )

    def _squeeze_and_excite(self, inputs: tf.Tensor) -> tf.Tensor:
        with tf.variable_scope("se"):
            pooled = tf.reduce_mean(inputs, self._layers.spatial_axes, keepdims=True)
            squeezed = self._layers.activation(self._se_reduce(pooled))
            return inputs * tf.sigmoid(self._se_expand(squeezed))

    def call(self, inputs: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Applies the block.

        Args:
          inputs: [N, H, W, C] or, channels first, [N, C, H, W].
          training: whether batch normalization uses, and updates from, the batch's statistics.

        Returns:
          The output, of the same rank and data format.
        """
        activation = self._layers.activation
        outputs = inputs
        if self._args.expand_ratio != 1:
            outputs = self._expand_norm(self._expand_conv(outputs), training=training)
            outputs = activation(outputs)
        outputs = self._depthwise_norm(self._depthwise_conv(outputs), training=training)
        outputs = activation(outputs)
        if self._has_se:
            outputs = self._squeeze_and_excite(outputs)
        self.endpoints = {"expansion_output": outputs}
        outputs = self._project_norm(self._project_conv(outputs), training=training)
        return outputs + inputs if self._has_skip else outputs

    __call__ = call


class MnasNetModel:
    """The network: stem, blocks, head.

    Attributes:
      endpoints: after a call, intermediate tensors by name: `stem`, `block_N`,
        `block_N/expansion_output`, `reduction_K` and `reduction_K/expansion_output` (the last
        block before each stride-2 block, and the very last one), `global_pool` (the last block's
        output, under its historical name) and `head` (the dense layer's output).
    """

    def __init__(self, blocks_args: Sequence[BlockArgs], global_params: GlobalParams | None = None):
        if not blocks_args:
            raise ValueError("blocks_args is empty: a MnasNet has at least one stage.")
        self._params = global_params or GlobalParams()
        for field, choices in (
            ("activation", tuple(ACTIVATIONS)),
            ("padding", PADDINGS),
            ("data_format", DATA_FORMATS),
        ):
            if getattr(self._params, field) not in choices:
                raise ValueError(
                    f"{field}={getattr(self._params, field)!r} is none of {', '.join(choices)}."
                )
        self._names = _LayerNames()
        self._layers = _LayerFactory(self._params, self._names)
        self.endpoints: dict[str, tf.Tensor] = {}
        blocks = self._unrolled(blocks_args)
        self._num_frozen = num_frozen_blocks(self._params.frozen, len(blocks))
        self._blocks = [MnasBlock(args, self._params, self._names) for args in blocks]
        self._build_stem_and_head()

    def _unrolled(self, stages: Sequence[BlockArgs]) -> list[BlockArgs]:
        """One BlockArgs a block, with rounded filters."""
        blocks = []
        for stage in stages:
            first = stage._replace(
                input_filters=round_filters(stage.input_filters, self._params),
                output_filters=round_filters(stage.output_filters, self._params),
                num_repeat=1,
            )
            later = first._replace(input_filters=first.output_filters, strides=[1, 1])
            blocks += [first] + [later] * (stage.num_repeat - 1)
        return blocks

    def _build_stem_and_head(self) -> None:
        # After the blocks: the published numbering of convolutions counts the blocks first.
        stem_filters = round_filters(self._params.stem_size, self._params)
        self._stem_conv = self._layers.conv(stem_filters, kernel_size=3, strides=(2, 2))
        self._stem_norm = self._layers.batch_norm()
        self._head_conv = self._layers.conv(self._params.head_size)
        self._head_norm = self._layers.batch_norm()
        self._dense = self._layers.dense(self._params.num_classes)

    def call(
        self, inputs: tf.Tensor, training: bool = True, features_only: bool | None = None
    ) -> tf.Tensor:
        """Applies the network.

        Args:
          inputs: normalized images, [N, H, W, 3] or, channels first, [N, 3, H, W].
          training: batch statistics and dropout on.
          features_only: stop at the last block.

        Returns:
          Logits [N, num_classes], or the last block's output.
        """
        self.endpoints = {}
        with tf.name_scope("mnas_net_model"):
            outputs = self._stem(inputs, training)
            outputs = self._run_blocks(outputs, training)
            self.endpoints["global_pool"] = outputs
            if not features_only:
                outputs = self._head(outputs, training)
                self.endpoints["head"] = outputs
        return outputs

    __call__ = call

    def _stem(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        frozen = self._params.frozen is not None
        with tf.variable_scope("mnas_stem"), _freezing(frozen):
            outputs = self._stem_norm(self._stem_conv(inputs), training=training and not frozen)
            outputs = self._layers.activation(outputs)
        self.endpoints["stem"] = outputs
        return outputs

    def _run_blocks(self, outputs: tf.Tensor, training: bool) -> tf.Tensor:
        reductions = 0
        for index, block in enumerate(self._blocks):
            is_last = index == len(self._blocks) - 1
            is_reduction = is_last or self._blocks[index + 1].block_args.strides[0] > 1
            frozen = index < self._num_frozen
            with tf.variable_scope(f"mnas_blocks_{index}"), _freezing(frozen):
                outputs = block(outputs, training=training and not frozen)
            tags = [f"block_{index}"]
            if is_reduction:
                reductions += 1
                tags.append(f"reduction_{reductions}")
            for tag in tags:
                self.endpoints[tag] = outputs
                for name, tensor in block.endpoints.items():
                    self.endpoints[f"{tag}/{name}"] = tensor
        return outputs

    def _head(self, outputs: tf.Tensor, training: bool) -> tf.Tensor:
        frozen = self._params.frozen == BACKBONE
        with tf.variable_scope("mnas_head"):
            with _freezing(frozen):
                outputs = self._head_norm(
                    self._head_conv(outputs), training=training and not frozen
                )
            outputs = self._layers.activation(outputs)
            outputs = tf.reduce_mean(outputs, self._layers.spatial_axes)
            if training and self._params.dropout_rate > 0:
                outputs = tf.nn.dropout(outputs, rate=self._params.dropout_rate)
            return self._dense(outputs)
