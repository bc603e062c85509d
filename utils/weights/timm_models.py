"""Names the model of timm that a network is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

import mnasnet_models
from mnasnet_model import GlobalParams
from utils.weights import layer_names, recognition

# What timm makes by name; others of these families it can only build by a function of its own.
_TIMM_MULTIPLIERS = (0.5, 0.75, 1.0, 1.4)


_TIMM_BUILDERS = {
    "semnasnet_{percent}": "_gen_mnasnet_a1",
    "mnasnet_{percent}": "_gen_mnasnet_b1",
    "mnasnet_small": "_gen_mnasnet_small",
}


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
    ours = _connections(layer_names.unroll(stages, global_params))
    same_padding = global_params.padding == "same"
    # The two EfficientNet-Lite0 differ in their default padding alone.
    for source in sorted(
        recognition.SOURCES, key=lambda s: s.name.startswith("tf_") != same_padding
    ):
        if source.program != "timm":
            continue
        activation = source.settings.get("activation", "relu")
        network = recognition.fit(source, shapes)
        theirs = mnasnet_models.MnasNetDecoder().decode(network.model_spec["stages"])
        scaled = GlobalParams(depth_multiplier=network.depth_multiplier)
        if (
            activation == global_params.activation
            and not any(recognition.differences(network.tensors, shapes))
            and _connections(layer_names.unroll(theirs, scaled)) == ours
        ):
            return _timm_model(source, network)
    return None


def _timm_model(source: recognition.Source, network: recognition.Network) -> TimmModel:
    """What timm has of a network of its families."""
    multiplier = network.depth_multiplier or 1.0
    regular = network.model_spec["stages"] == list(source.stages)
    made = _TIMM_MULTIPLIERS if "{percent}" in source.name else (1.0,)
    head = network.model_spec["head_size"]
    builder = _TIMM_BUILDERS.get(source.name) if regular else None
    return TimmModel(
        network.model_name,
        ready_made=regular and multiplier in made and head == GlobalParams().head_size,
        builder=builder and f"{builder}({recognition.name(source.name, 1.0)!r}, {multiplier:g}",
    )


def _connections(blocks: Sequence[layer_names.Block]) -> list[tuple[tuple[int, ...], bool]]:
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


def log_how_to_load(state, stages, global_params) -> None:
    model = timm_model(state, stages, global_params)
    if model is None:
        logging.info("timm has no model of just this network: its keys fit, its models do not.")
        return
    padding = "same" if global_params.padding == "same" else ""
    arguments = (
        f"num_classes={global_params.num_classes}, bn_eps={global_params.batch_norm_epsilon:g}, "
        f"pad_type={padding!r}"
    )
    if model.ready_made:
        logging.info(
            "timm.create_model(%r, %s, checkpoint_path=...) loads it.", model.name, arguments
        )
        return
    remedy = "write a model of its block strings there"
    if model.builder:
        remedy = (
            f"make it with net = timm.models.efficientnet.{model.builder}, {arguments}, "
            f"num_features={global_params.head_size}), then timm.models.load_checkpoint(net, ...)"
        )
    logging.info(
        "The keys fit timm's %s, but timm has no ready-made model of these filters: %s.",
        model.name, remedy,
    )  # fmt: skip
