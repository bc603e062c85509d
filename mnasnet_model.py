"""Layers of MnasNet: the mobile inverted bottleneck block and the network made of them.

Source: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019,
arXiv:1807.11626. The table of architectures is in `mnasnet_models`.

Variable names follow the published checkpoints. With Keras layers (`use_keras=True`) the
convolutions and the dense layer are named by the graph's name scope and numbered over the whole
network in the order of construction, while batch normalizations are named by the variable scope.
With tf.layers the variable scope names all layers, and they are numbered within it.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import utils  # noqa: F401  (before TensorFlow: sets its environment, checks its version)

import tensorflow.compat.v1 as tf


class BlockArgs(NamedTuple):
    """Describes one stage of the network: `num_repeat` blocks of one kind.

    Attributes:
      kernel_size: side of the depthwise kernel.
      num_repeat: number of blocks; only the first has the stage's strides and input filters.
      input_filters: channels that enter the stage, before the depth multiplier.
      output_filters: channels of every block's output, before the depth multiplier.
      expand_ratio: channels inside a block as a multiple of its input channels.
      id_skip: whether blocks may add their input to their output.
      strides: vertical and horizontal stride of the first block.
      se_ratio: squeeze-and-excite channels relative to the block's input channels; None for a
        block without squeeze-and-excite.
    """

    kernel_size: int = 3
    num_repeat: int = 1
    input_filters: int = 0
    output_filters: int = 0
    expand_ratio: int = 1
    id_skip: bool = True
    strides: Sequence[int] = (1, 1)
    se_ratio: float | None = None

    @property
    def has_se(self) -> bool:
        """Whether the blocks have squeeze-and-excite."""
        return 0 < (self.se_ratio or 0) <= 1

    @property
    def has_skip(self) -> bool:
        """Whether a block with these arguments adds its input to its output."""
        fits = self.input_filters == self.output_filters
        return self.id_skip and max(self.strides) == 1 and fits


class GlobalParams(NamedTuple):
    """Holds the settings that all layers of a network share.

    Attributes:
      batch_norm_momentum: decay of the moving means and variances.
      batch_norm_epsilon: is added to the variance.
      dropout_rate: share of features dropped before the dense layer, in [0, 1).
      data_format: 'channels_last' ([N, H, W, C]) or 'channels_first' ([N, C, H, W], GPU only).
      num_classes: width of the logits.
      depth_multiplier: scales the filters of the stem and the blocks; None for no scaling.
      depth_divisor: scaled filters are multiples of this.
      min_depth: smallest number of filters after scaling; None for `depth_divisor`.
      stem_size: filters of the stem.
      use_keras: whether convolutions and the dense layer are Keras layers, else tf.layers.
      head_size: filters of the 1x1 convolution before the pooling (never scaled).
      activation: 'relu' or 'relu6'.
      padding: 'same' (TensorFlow's) or 'symmetric' ((kernel - 1) // 2 on each side, PyTorch's).
      frozen: the part that does not train: None for nothing, 'block_N' for the stem and the
        blocks 0 to N, 'backbone' for all but the classifier. The variables of a frozen part are
        not trainable; its batch normalizations use the moving statistics in training too, and do
        not update them.
      sync_batch_norm: whether batch normalizations in training use the statistics over all
        replicas of a tf.distribute strategy, instead of each replica's own.
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
    sync_batch_norm: bool = False


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
}
BACKBONE = "backbone"
# The collection of a training graph with what the dropout and the classifier take, [N, head_size]:
# no endpoint, because the published networks have none of it.
FEATURES = "features"
PADDINGS = ("same", "symmetric")
DATA_FORMATS = ("channels_last", "channels_first")


def round_filters(filters: float, global_params: GlobalParams) -> int:
    """Scales a number of filters by the depth multiplier, to a multiple of the depth divisor.

    The result is at least 90 % of the scaled number. Without a depth multiplier, None or 0, the
    number is returned as it is.
    """
    multiplier = global_params.depth_multiplier
    if not multiplier:
        return int(filters)
    divisor = int(global_params.depth_divisor)
    min_depth = int(global_params.min_depth or divisor)
    scaled = filters * multiplier
    rounded = max(min_depth, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < 0.9 * scaled:
        rounded += divisor
    return int(rounded)


def num_frozen_blocks(frozen: str | None, num_blocks: int) -> int:
    """Returns how many blocks, counted from the first, `GlobalParams.frozen` freezes.

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
            f"{frozen!r} is not a block of this network, which has {names[0]} to {names[-1]}."
        )
    return names.index(frozen) + 1


def unroll(stages: Sequence[BlockArgs], global_params: GlobalParams) -> list[BlockArgs]:
    """Returns the arguments of each block, in order, with rounded filters and num_repeat 1."""
    blocks = []
    for stage in stages:
        first = stage._replace(
            input_filters=round_filters(stage.input_filters, global_params),
            output_filters=round_filters(stage.output_filters, global_params),
            num_repeat=1,
        )
        later = first._replace(input_filters=first.output_filters, strides=[1, 1])
        blocks += [first] + [later] * (stage.num_repeat - 1)
    return blocks


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


def _freezing(frozen: bool) -> contextlib.AbstractContextManager:
    """Returns a block in which, if `frozen`, new variables are not trainable.

    Keras layers put their variables among the trainable ones even with trainable=False.
    """
    if not frozen:
        return contextlib.nullcontext()
    return tf.variable_creator_scope(lambda create, **how: create(**{**how, "trainable": False}))


def _recording(variables: list[tf.Variable]) -> contextlib.AbstractContextManager:
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


class _LayerNames:
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


class _LayerFactory:
    """Makes the layers of one network.

    Attributes:
      channels_first: whether the data format is 'channels_first'.
      spatial_axes: the axes of height and width.
      activation: the function of the given name.
    """

    def __init__(self, params: GlobalParams, names: Callable[[str], str | None]):
        """Keeps what all layers share.

        Args:
          params: settings of the network.
          names: gives a Keras layer its name by its kind ('conv2d'); None lets Keras name it.
        """
        self._params, self._names = params, names
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._sync_batch_norm = params.sync_batch_norm and replicas > 1
        self.channels_first = params.data_format == "channels_first"
        self.spatial_axes = [2, 3] if self.channels_first else [1, 2]
        self.activation = ACTIVATIONS[params.activation]

    def _name(self, kind: str) -> dict[str, Any]:
        return {"name": self._names(kind)} if self._params.use_keras else {}

    def _pad(self, kernel_size: int, strides: Sequence[int]) -> tuple[Callable, str]:
        """Returns (a function that pads its input, the padding that the layer itself does).

        Both conventions pad odd kernels at stride 1 alike, so only larger strides are padded here.
        """
        if self._params.padding == "same" or max(strides) == 1:
            return tf.identity, "same"
        pad = [(kernel_size - 1) // 2] * 2
        none = [0, 0]
        paddings = [none, none, pad, pad] if self.channels_first else [none, pad, pad, none]
        return (lambda inputs: tf.pad(inputs, paddings)), "valid"

    def conv(self, filters: int, kernel_size: int = 1, strides=(1, 1), use_bias: bool = False):
        """Makes a convolution; only those of squeeze-and-excite have a bias."""
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
        """Makes a depthwise convolution without bias."""
        depthwise = tf.keras.layers.DepthwiseConv2D if self._params.use_keras else DepthwiseConv2D
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
        """Makes the classifier."""
        dense = tf.keras.layers.Dense if self._params.use_keras else tf.layers.Dense
        return dense(units, kernel_initializer=dense_kernel_initializer, **self._name("dense"))

    def batch_norm(self):
        """Makes a batch normalization, always of tf.layers: it names and updates as published."""
        make = BatchNormalization if self._sync_batch_norm else tf.layers.BatchNormalization
        return make(
            axis=1 if self.channels_first else -1,
            momentum=self._params.batch_norm_momentum,
            epsilon=self._params.batch_norm_epsilon,
            fused=not self._sync_batch_norm,
        )


class MnasBlock:
    """Applies a mobile inverted bottleneck, optionally with squeeze-and-excite.

    The order is: expansion 1x1, depthwise k x k, squeeze-and-excite, projection 1x1, identity.

    Attributes:
      has_se: whether the block has squeeze-and-excite.
      endpoints: after a call, the tensor before the projection, as `expansion_output`.
    """

    def __init__(
        self,
        block_args: BlockArgs,
        global_params: GlobalParams,
        layer_names: Callable[[str], str | None] | None = None,
    ):
        """Makes the layers.

        Args:
          block_args: the block; its filters are already rounded.
          global_params: settings of the network.
          layer_names: gives a Keras layer its name by its kind; None leaves naming to Keras.
        """
        self._args = block_args
        self.has_se = block_args.has_se
        self._layers = _LayerFactory(global_params, layer_names or (lambda kind: None))
        self.endpoints: dict[str, tf.Tensor] = {}
        self._build()

    def block_args(self) -> BlockArgs:
        """Returns the arguments that the block was made with."""
        return self._args

    def _build(self) -> None:
        args, make = self._args, self._layers
        expanded = int(args.input_filters * args.expand_ratio)
        if args.expand_ratio != 1:
            self._expand_conv = make.conv(expanded)
            self._expand_norm = make.batch_norm()
        self._depthwise_conv = make.depthwise_conv(args.kernel_size, args.strides)
        self._depthwise_norm = make.batch_norm()
        if self.has_se:
            squeezed = max(1, int(args.input_filters * (args.se_ratio or 0)))
            self._se_reduce = make.conv(squeezed, use_bias=True)
            self._se_expand = make.conv(expanded, use_bias=True)
        self._project_conv = make.conv(args.output_filters)
        self._project_norm = make.batch_norm()

    def _squeeze_and_excite(self, inputs: tf.Tensor) -> tf.Tensor:
        with tf.variable_scope("se"):
            pooled = tf.reduce_mean(inputs, self._layers.spatial_axes, keepdims=True)
            squeezed = self._layers.activation(self._se_reduce(pooled))
            return inputs * tf.sigmoid(self._se_expand(squeezed))

    def call(self, inputs: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Applies the block.

        Args:
          inputs: [N, H, W, C] or, channels first, [N, C, H, W].
          training: whether batch normalization uses the batch's statistics, and updates the
            moving ones with them.

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
        if self.has_se:
            outputs = self._squeeze_and_excite(outputs)
        self.endpoints = {"expansion_output": outputs}
        outputs = self._project_norm(self._project_conv(outputs), training=training)
        return outputs + inputs if self._args.has_skip else outputs

    def __call__(self, *args, **kwargs) -> tf.Tensor:
        """Applies the block; see `call`, which a subclass may override."""
        return self.call(*args, **kwargs)


class MnasNetModel:
    """Applies the network: stem, blocks, head.

    Attributes:
      variables: after a call, the variables that it made, in the order of their creation.
      endpoints: after a call, the intermediate tensors by name: `stem`, `block_N`,
        `block_N/expansion_output`, `reduction_K` and `reduction_K/expansion_output` (of the last
        block before each stride-2 block, and of the very last block), `global_pool` (the last
        block's output: the published name, although nothing is pooled yet) and `head` (the dense
        layer's output).
    """

    def __init__(
        self,
        blocks_args: Sequence[BlockArgs] | None = None,
        global_params: GlobalParams | None = None,
    ):
        """Makes the layers; a call makes their variables.

        Args:
          blocks_args: the stages.
          global_params: settings of the network; None for the defaults.
        """
        if not blocks_args:
            raise ValueError("blocks_args is empty: a MnasNet has at least one stage.")
        self._params = global_params or GlobalParams()
        for field, choices in (
            ("activation", tuple(ACTIVATIONS)),
            ("padding", PADDINGS),
            ("data_format", DATA_FORMATS),
        ):
            value = getattr(self._params, field)
            if value not in choices:
                raise ValueError(
                    f"{field}={value!r} is invalid: choose one of {', '.join(choices)}."
                )
        self._names = _LayerNames()
        self._layers = _LayerFactory(self._params, self._names)
        self.endpoints: dict[str, tf.Tensor] = {}
        self.variables: list[tf.Variable] = []
        blocks = unroll(blocks_args, self._params)
        self._num_frozen = num_frozen_blocks(self._params.frozen, len(blocks))
        self._blocks = [MnasBlock(args, self._params, self._names) for args in blocks]
        self._build_stem_and_head()

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """Returns the variables that training changes: no moving statistics, nothing frozen."""
        return [variable for variable in self.variables if variable.trainable]

    def count_params(self) -> int:
        """Returns the number of scalars in all variables, moving statistics included.

        Raises:
          ValueError: the network was not called yet.
        """
        if not self.variables:
            raise ValueError("The network has no variables before its first call.")
        return sum(variable.shape.num_elements() for variable in self.variables)

    def _build_stem_and_head(self) -> None:
        # Made after the blocks, because published names number the convolutions of blocks first.
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
          training: whether batch statistics and dropout are on.
          features_only: whether to stop at the last block.

        Returns:
          Logits [N, num_classes], or the last block's output.
        """
        self.endpoints = {}
        with _recording(self.variables), tf.name_scope("mnas_net_model"):
            outputs = self._stem(inputs, training)
            outputs = self._run_blocks(outputs, training)
            self.endpoints["global_pool"] = outputs
            if not features_only:
                outputs = self._head(outputs, training)
                self.endpoints["head"] = outputs
        return outputs

    def __call__(self, *args, **kwargs) -> tf.Tensor:
        """Applies the network; see `call`, which a subclass may override."""
        return self.call(*args, **kwargs)

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
            is_reduction = is_last or self._blocks[index + 1].block_args().strides[0] > 1
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
            if training:
                tf.add_to_collection(FEATURES, outputs)
            if training and self._params.dropout_rate > 0:
                outputs = tf.nn.dropout(outputs, rate=self._params.dropout_rate)
            return self._dense(outputs)
