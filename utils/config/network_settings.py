"""Answers which network a complete set of settings describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mnasnet_model
import mnasnet_models
import preprocessing
from utils.base.errors import UserError
from utils.config import model_spec


def check(params: Mapping[str, Any]) -> None:
    """Raises UserError if complete settings describe no network."""
    try:
        describe(params)
    except (NotImplementedError, ValueError) as e:
        raise UserError(f"--model_name={params['model_name']}: {e}") from e


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that gives the weights of a network their meaning, by name.

    The dict holds the stages, the fields of `GlobalParams` that name or shape variables, and the
    normalization of the pixels.
    """
    stages, global_params = mnasnet_models.get_model_params(
        params["model_name"], overrides(dict(params))
    )
    irrelevant = ("batch_norm_momentum", "dropout_rate", "data_format", "sync_batch_norm")
    return {
        "model_name": params["model_name"],
        "stages": mnasnet_models.MnasNetDecoder().encode(stages),
        **{k: v for k, v in global_params._asdict().items() if k not in irrelevant},
        **normalization(dict(params)),
    }


def num_blocks(params: Mapping[str, Any]) -> int:
    """Returns how many blocks the network has."""
    stages, _ = mnasnet_models.get_model_params(params["model_name"], overrides(dict(params)))
    return sum(stage.num_repeat for stage in stages)


def batch_norm_momentum(params: Mapping[str, Any]) -> float:
    """Returns the decay of the moving means and variances of batch normalization."""
    _, global_params = mnasnet_models.get_model_params(
        params["model_name"], overrides(dict(params))
    )
    return global_params.batch_norm_momentum


def overrides(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the `override_params` of `mnasnet_models.get_model_params` for complete settings."""
    overrides = {
        k: v for k, v in (params["model_spec"] or {}).items() if k not in model_spec.NORMALIZATION
    }
    settings = {
        "batch_norm_momentum": params["batch_norm_momentum"],
        "batch_norm_epsilon": params["batch_norm_epsilon"],
        "dropout_rate": params["dropout_rate"],
        "data_format": params["data_format"],
        "num_classes": params["num_label_classes"],
        "depth_multiplier": params["depth_multiplier"],
        "depth_divisor": params["depth_divisor"],
        "min_depth": params["min_depth"],
        "use_keras": params["use_keras"],
    }
    overrides.update({k: v for k, v in settings.items() if v is not None})
    return overrides


def specification(params: dict[str, Any]) -> dict[str, Any]:
    """Returns a specification that depends neither on defaults nor on the network's name.

    Args:
      params: complete settings, see `utils.config.settings.default_params`.
    """
    stages, global_params = mnasnet_models.get_model_params(params["model_name"], overrides(params))
    fields = {
        k: v for k, v in global_params._asdict().items() if k in model_spec.FIELDS and v is not None
    }
    pixels = {
        k: v for k, v in (params["model_spec"] or {}).items() if k in model_spec.NORMALIZATION
    }
    return {"stages": mnasnet_models.MnasNetDecoder().encode(stages), **fields, **pixels}


def frozen(params: Mapping[str, Any]) -> str | None:
    """Returns the `GlobalParams.frozen` that a training uses, for complete settings."""
    if params["freeze_backbone"]:
        return mnasnet_model.BACKBONE
    return None if params["freeze_until"] == "none" else params["freeze_until"]


def normalization(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `preprocessing.normalize` for complete settings."""
    spec = params["model_spec"] or {}
    return {"mean": spec.get("mean_rgb"), "stddev": spec.get("stddev_rgb")}


def mean_and_stddev(params: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Returns (mean, standard deviation) of R, G, B as `preprocessing.normalize` uses them."""
    mean, stddev = normalization(dict(params)).values()
    return (
        list(preprocessing.MEAN_RGB if mean is None else mean),
        list(preprocessing.STDDEV_RGB if stddev is None else stddev),
    )
