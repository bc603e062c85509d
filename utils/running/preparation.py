"""Decides, before a training starts, where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base.errors import UserError
from utils.config import network_settings
from utils.training import checkpoints, evaluations, model_files, warm_start
from utils.weights import conversion


def prepare(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Decides where the weights come from and writes what model_dir keeps of the settings.

    The order of the decision matters:
    1. A checkpoint in model_dir: the training resumes from it, whatever --init_checkpoint says.
    2. --init_checkpoint: its weights, with a new optimizer, from step 0.
    3. Random weights, of which none may be frozen.

    Returns:
      The settings; init_checkpoint is a path of a checkpoint, or None if it is not to be read.
    """
    model_dir, last = params["model_dir"], params["train_steps"]
    model_files.check_what_is_there(model_dir)
    checkpoint = checkpoints.recover(model_dir, params["keep_checkpoint_max"])
    step = checkpoints.step_of(checkpoint)
    params = {**params, "init_checkpoint": None if checkpoint else params["init_checkpoint"]}
    if checkpoint:
        model_files.log_class_order(params)
    initial = initial_checkpoint(params)
    if not initial and not checkpoint and network_settings.frozen(params):
        raise UserError(
            f"{'--freeze_backbone' if params['freeze_backbone'] else '--freeze_until'} would "
            "freeze random weights: name trained ones with --init_checkpoint, or a --model_dir "
            "that has a checkpoint."
        )
    if step >= last:
        logging.info("%s is complete at step %d: nothing to train.", model_dir, step)
        evaluations.log_best(model_dir)
        return params
    if step:
        logging.info("Resuming from step %d of %d in %s.", step, last, model_dir)
        model_files.log_changes(params)
    model_files.record_params(params)
    if not (checkpoint and model_files.kept_label_names(model_dir)):
        model_files.keep_label_names(params)
    return {**params, "init_checkpoint": initial}


def initial_checkpoint(params: Mapping[str, Any]) -> str | None:
    """Returns the path of the checkpoint that --init_checkpoint stands for; None without it."""
    given = params["init_checkpoint"]
    return warm_start.resolve(conversion.initial_weights(given)) if given else None
