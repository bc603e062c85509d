"""Maps the names and layouts of PyTorch programs' layers to this package's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mnasnet_model import BlockArgs, GlobalParams, unroll

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """Describes one block of a network.

    Attributes:
      index: its number among all blocks.
      stage: the number of its stage.
      repeat: its number in the stage.
      args: its settings, with filters as they are after scaling and rounding.
    """

    index: int
    stage: int
    repeat: int
    args: BlockArgs

    @property
    def expands(self) -> bool:
        """Whether the block has an expansion."""
        return self.args.expand_ratio != 1


def unrolled(stages: Sequence[BlockArgs], global_params: GlobalParams) -> list[Block]:
    """Returns the blocks of a network in order."""
    places = [
        (stage, repeat) for stage, args in enumerate(stages) for repeat in range(args.num_repeat)
    ]
    return [
        Block(index, *place, args)
        for index, (place, args) in enumerate(
            zip(places, unroll(stages, global_params), strict=True)
        )
    ]


@dataclasses.dataclass(frozen=True)
class Names:
    """Says how a program names layers: with what the keys of their tensors begin.

    Attributes:
      stem: names of the stem's convolution and norm.
      block: returns the names of a block's layers in order: expansion and its norm (if the block
        expands), depthwise and its norm, squeeze and excite (if the block has them), projection
        and its norm.
      head: returns the names of the head's convolution and norm, given the last block.
      classifier: name of the dense layer.
    """

    stem: tuple[str, str]
    block: Callable[[Block], list[str]]
    head: Callable[[Block], tuple[str, str]]
    classifier: str


def _timm_block(block: Block) -> list[str]:
    scope = f"blocks.{block.stage}.{block.repeat}."
    se = ["se.conv_reduce", "se.conv_expand"] if block.args.has_se else []
    if block.expands:
        names = ["conv_pw", "bn1", "conv_dw", "bn2", *se, "conv_pwl", "bn3"]
    else:
        names = ["conv_dw", "bn1", *se, "conv_pw", "bn2"]
    return [scope + name for name in names]


def _torchvision_block(block: Block) -> list[str]:
    # Stem and first block are layers 0 to 7 of one sequence, in which ReLUs count as well.
    if block.stage == 0:
        return [f"layers.{number}" for number in (3, 4, 6, 7)]
    scope = f"layers.{block.stage + 7}.{block.repeat}.layers."
    return [f"{scope}{number}" for number in (0, 1, 3, 4, 6, 7)]


def _efficientnet_block(block: Block) -> list[str]:
    names = ["_expand_conv", "_bn0"] if block.expands else []
    names += ["_depthwise_conv", "_bn1"]
    names += ["_se_reduce", "_se_expand"] if block.args.has_se else []
    return [f"_blocks.{block.index}.{name}" for name in [*names, "_project_conv", "_bn2"]]


def _our_block(block: Block) -> list[str]:
    scope = f"mnas_blocks_{block.index}/"
    convs, norms = ["conv2d", "conv2d_1"], [f"batch_normalization{n}" for n in ("", "_1", "_2")]
    names = [convs.pop(0), norms.pop(0)] if block.expands else []
    names += ["depthwise_conv2d", norms.pop(0)]
    names += ["se/conv2d", "se/conv2d_1"] if block.args.has_se else []
    return [scope + name for name in [*names, convs.pop(0), norms.pop(0)]]


def _torchvision_head(last: Block) -> tuple[str, str]:
    return f"layers.{last.stage + 8}", f"layers.{last.stage + 9}"


PROGRAMS = {
    "timm": Names(
        ("conv_stem", "bn1"), _timm_block, lambda last: ("conv_head", "bn2"), "classifier"
    ),
    "torchvision": Names(
        ("layers.0", "layers.1"), _torchvision_block, _torchvision_head, "classifier.1"
    ),
    "efficientnet": Names(
        ("_conv_stem", "_bn0"), _efficientnet_block, lambda last: ("_conv_head", "_bn1"), "_fc"
    ),
}
# In the form of `utils.training.warm_start.common_names`, without the model's own name.
_OURS = Names(
    ("mnas_stem/conv2d", "mnas_stem/batch_normalization"),
    _our_block,
    lambda last: ("mnas_head/conv2d", "mnas_head/batch_normalization"),
    "mnas_head/dense",
)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Holds a tensor's key in another program, its name in this one, and PyTorch's shape of it."""

    key: str
    name: str
    shape: Shape


_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _block_shapes(block: Block, entering: int) -> Iterator[tuple[Shape, str, bool]]:
    """Yields (kernel's shape, our name of a kernel, whether it has a bias) of each convolution.

    Args:
      block: the block.
      entering: number of filters that enter it; the published mnasnet-small declares another
        number for its first block.
    """
    args = block.args
    inside = args.input_filters * args.expand_ratio if block.expands else entering
    if block.expands:
        yield (inside, entering, 1, 1), "kernel", False
    yield (inside, 1, args.kernel_size, args.kernel_size), "depthwise_kernel", False
    if block.args.has_se:
        squeezed = max(1, int(args.input_filters * (args.se_ratio or 0)))
        yield (squeezed, inside, 1, 1), "kernel", True
        yield (inside, squeezed, 1, 1), "kernel", True
    yield (args.output_filters, inside, 1, 1), "kernel", False


def tensors(
    program: str, blocks: Sequence[Block], stem: int, head: int, classes: int
) -> Iterator[Tensor]:
    """Yields every tensor of a network with its names in another program and in this one.

    Args:
      program: a key of PROGRAMS.
      blocks: the blocks of the network.
      stem: number of filters of the stem.
      head: number of filters of the head.
      classes: width of the classifier; 0 for a network without one.

    Raises:
      ValueError: the program has no names for a layer of the network.
    """
    theirs = PROGRAMS[program]
    last = blocks[-1]
    yield from _conv_and_norm(theirs.stem, _OURS.stem, (stem, 3, 3, 3))
    entering = stem
    for block in blocks:
        layers = list(zip(theirs.block(block), _OURS.block(block), strict=True))
        for shape, leaf, has_bias in _block_shapes(block, entering):
            their_conv, our_conv = layers.pop(0)
            if has_bias:
                yield Tensor(f"{their_conv}.weight", f"{our_conv}/{leaf}", shape)
                yield Tensor(f"{their_conv}.bias", f"{our_conv}/bias", shape[:1])
                continue
            their_norm, our_norm = layers.pop(0)
            yield from _conv_and_norm((their_conv, their_norm), (our_conv, our_norm), shape, leaf)
        entering = block.args.output_filters
    yield from _conv_and_norm(
        theirs.head(last), _OURS.head(last), (head, last.args.output_filters, 1, 1)
    )
    if classes:
        yield Tensor(f"{theirs.classifier}.weight", f"{_OURS.classifier}/kernel", (classes, head))
        yield Tensor(f"{theirs.classifier}.bias", f"{_OURS.classifier}/bias", (classes,))


def _conv_and_norm(theirs, ours, shape: Shape, leaf: str = "kernel") -> Iterator[Tensor]:
    yield Tensor(f"{theirs[0]}.weight", f"{ours[0]}/{leaf}", shape)
    for their_leaf, our_leaf in _NORM.items():
        yield Tensor(f"{theirs[1]}.{their_leaf}", f"{ours[1]}/{our_leaf}", shape[:1])


def to_tensorflow(name: str, array: np.ndarray) -> np.ndarray:
    """Converts a tensor from PyTorch's layout to TensorFlow's.

    Kernels [out, in, h, w] become [h, w, in, out], depthwise kernels [c, 1, h, w] become
    [h, w, c, 1], and dense ones [classes, features] become [features, classes].

    Args:
      name: the tensor's name in this program.
      array: its values.
    """
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("/depthwise_kernel") else (2, 3, 1, 0)
        return array.transpose(axes)
    return array.T if array.ndim == 2 else array


def to_pytorch(name: str, array: np.ndarray) -> np.ndarray:
    """Converts a tensor from TensorFlow's layout to PyTorch's, as `to_tensorflow` does back."""
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("/depthwise_kernel") else (3, 2, 0, 1)
        return array.transpose(axes)
    return array.T if array.ndim == 2 else array
