"""Writes a checkpoint's weights under timm's keys, and says how timm loads and feeds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

import mnasnet_model
import mnasnet_models
import preprocessing
from mnasnet_model import GlobalParams
from utils.base import files
from utils.base.errors import UserError
from utils.config import network
from utils.training import averages, warm_start
from utils.weights import layer_names, timm_models

import tensorflow.compat.v1 as tf


def timm_state_dict(
    checkpoint: str, params: Mapping[str, Any], averaged: bool = True
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights under timm's keys, float32 in PyTorch's layout.

    Args:
      checkpoint: path of the checkpoint.
      params: complete settings.
      averaged: whether to take averages, if the checkpoint has them, instead of the raw weights.

    Raises:
      UserError: the checkpoint cannot be read, or is of another network.
    """
    overrides = network.overrides(dict(params))
    stages, global_params = mnasnet_models.get_model_params(params["model_name"], overrides)
    stem = mnasnet_model.round_filters(global_params.stem_size, global_params)
    blocks = layer_names.unrolled(stages, global_params)
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = reader.get_variable_to_shape_map()
        names = {
            common.split("/", 1)[-1]: name for name, common in warm_start.common_names(held).items()
        }
        state = {}
        for tensor in layer_names.tensors(
            "timm", blocks, stem, global_params.head_size, global_params.num_classes
        ):
            name = names.get(tensor.name)
            if name is None:
                raise UserError(f"{checkpoint} has no {tensor.name}: is it of another network?")
            average = name + averages.SUFFIX
            value = reader.get_tensor(average if averaged and average in held else name)
            array = layer_names.to_pytorch(tensor.name, value)
            if array.shape != tensor.shape:
                raise UserError(
                    f"{checkpoint} has {name} as {list(value.shape)}, which is another network's "
                    "shape: name the model_dir that it was made in."
                )
            state[tensor.key] = np.ascontiguousarray(array, np.float32)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise UserError(f"{checkpoint} cannot be read: {files.reason(e)}.") from e
    log_how_to_load(state, stages, global_params)
    log_preparation(params)
    return state


def log_how_to_load(state, stages, global_params: GlobalParams) -> None:
    """Logs how timm loads a state dict, if timm can."""
    model = timm_models.timm_model(state, stages, global_params)
    if model is None:
        logging.info(
            "timm has no model of this shape, though the keys are named as in timm: load the file "
            "here with python -m utils.import_weights, or into a PyTorch model of your own with "
            "safetensors.torch.load_file(...)."
        )
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


def log_preparation(params: Mapping[str, Any]) -> None:
    """Logs how timm has to prepare pictures: its models take other normalizations by default.

    Args:
      params: complete settings.
    """
    # timm scales pixels to [0, 1] first. A quotient is exact where a decimal fraction is not.
    mean, std = (
        ", ".join(f"{value:.12g}/255" for value in values)
        for values in network.mean_and_stddev(params)
    )
    size = params["input_image_size"]
    logging.info(
        "Prepare pictures in timm with timm.data.create_transform(%d, interpolation=%r, "
        "crop_pct=%s, mean=(%s), std=(%s)).",
        size, params["resize_method"],
        params["eval_crop_share"] or f"{size}/{size + preprocessing.CROP_PADDING}", mean, std,
    )  # fmt: skip
