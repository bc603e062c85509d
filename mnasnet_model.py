"""Layers of MnasNet: the mobile inverted bottleneck block and the network made of them.

Source: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019,
arXiv:1807.11626. The table of architectures is in `mnasnet_models`.

Variable names follow the published checkpoints; `utils.base.layers` makes the layers under these
names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mnasnet_start  # noqa: F401  (one plain sentence for a `utils` of another program)
import utils.base.tensorflow_version  # noqa: F401  (one plain sentence for a TensorFlow without tf.layers)
from utils.base import layers

# The published names stay here.
from utils.base.layers import (  # noqa: F401
    ACTIVATIONS,
    DepthwiseConv2D,
    conv_kernel_initializer,
    dense_kernel_initializer,
)

import tensorflow.compat.v1 as tf  # isort: skip


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


def _layer_factory(params: GlobalParams, names: Callable[[str], str | None]) -> layers.LayerFactory:
    return layers.LayerFactory(
        names,
        use_keras=params.use_keras,
        data_format=params.data_format,
        activation=params.activation,
        padding=params.padding,
        batch_norm_momentum=params.batch_norm_momentum,
        batch_norm_epsilon=params.batch_norm_epsilon,
        sync_batch_norm=params.sync_batch_norm,
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
        self.has_se = 0 < (block_args.se_ratio or 0) <= 1
        self._layers = _layer_factory(global_params, layer_names or (lambda kind: None))
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
        return outputs + inputs if self._has_skip else outputs

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
        self._names = layers.LayerNames()
        self._layers = _layer_factory(self._params, self._names)
        self.endpoints: dict[str, tf.Tensor] = {}
        self.variables: list[tf.Variable] = []
        blocks = self._unrolled(blocks_args)
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

    def _unrolled(self, stages: Sequence[BlockArgs]) -> list[BlockArgs]:
        """Returns one BlockArgs for each block, with rounded filters."""
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
        with layers.recording(self.variables), tf.name_scope("mnas_net_model"):
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
        with tf.variable_scope("mnas_stem"), layers.freezing(frozen):
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
            with tf.variable_scope(f"mnas_blocks_{index}"), layers.freezing(frozen):
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
            with layers.freezing(frozen):
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
