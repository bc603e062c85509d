"""Finds the model of timm that computes the same as a network of this program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

import mnasnet_models
from mnasnet_model import GlobalParams
from utils.weights import layer_names, recognition

# Depth multipliers that timm has a name for; other members of these families are made by a builder.
_TIMM_MULTIPLIERS = (0.5, 0.75, 1.0, 1.4)
_TIMM_BUILDERS = {
    "semnasnet_{percent}": "_gen_mnasnet_a1",
    "mnasnet_{percent}": "_gen_mnasnet_b1",
    "mnasnet_small": "_gen_mnasnet_small",
}


@dataclasses.dataclass(frozen=True)
class TimmModel:
    """Says how timm makes a model.

    Attributes:
      name: name such as semnasnet_075.
      ready_made: whether `timm.create_model` knows the name and makes these filters.
      builder: if not, the call that builds the model, up to its first keyword; None if timm has no
        function for these filters.
    """

    name: str
    ready_made: bool
    builder: str | None


def timm_model(
    state: Mapping[str, np.ndarray], stages, global_params: GlobalParams
) -> TimmModel | None:
    """Returns the model of timm that computes the same from a state dict; None if there is none.

    Padding, epsilon and classes are arguments of timm's models, so they need not agree.

    Args:
      state: key -> array, with timm's keys.
      stages: the blocks of the network.
      global_params: the rest of the network.
    """
    shapes = {key: tuple(array.shape) for key, array in state.items()}
    ours = _connections(layer_names.unrolled(stages, global_params))
    same_padding = global_params.padding == "same"
    # The two EfficientNet-Lite0 of timm differ only in their default padding.
    for source in sorted(
        recognition.SOURCES, key=lambda s: s.name.startswith("tf_") != same_padding
    ):
        if source.program != "timm":
            continue
        activation = source.settings.get("activation", "relu")
        network = recognition.network_of_family(source, shapes)
        theirs = mnasnet_models.MnasNetDecoder().decode(network.model_spec["stages"])
        scaled = GlobalParams(depth_multiplier=network.depth_multiplier)
        if (
            activation == global_params.activation
            and not any(recognition.compare_tensors(network.tensors, shapes))
            and _connections(layer_names.unrolled(theirs, scaled)) == ours
        ):
            return _timm_model(source, network)
    return None


def _timm_model(source: recognition.Source, network: recognition.Network) -> TimmModel:
    """Returns how timm makes a network of one of its families."""
    multiplier = network.depth_multiplier or 1.0
    regular = network.model_spec["stages"] == list(source.stages)
    made = _TIMM_MULTIPLIERS if "{percent}" in source.name else (1.0,)
    head = network.model_spec["head_size"]
    builder = _TIMM_BUILDERS.get(source.name) if regular else None
    return TimmModel(
        network.model_name,
        ready_made=regular and multiplier in made and head == GlobalParams().head_size,
        builder=builder
        and f"{builder}({recognition.model_name(source.name, 1.0)!r}, {multiplier:g}",
    )


def _connections(blocks: Sequence[layer_names.Block]) -> list[tuple[tuple[int, ...], bool]]:
    """Returns what shapes do not show: strides, and whether a block adds its input."""
    return [(tuple(b.args.strides), b.args.has_skip) for b in blocks]
