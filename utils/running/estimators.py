"""Builds the estimator of a run from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from utils.base.errors import UserError
from utils.cluster import tasks
from utils.running import distributed, kept_graphs
from utils.training import devices

import tensorflow.compat.v1 as tf  # isort: skip


def build(
    params: Mapping[str, Any], training: bool, model_fn: Callable[..., Any]
) -> kept_graphs.Estimator:
    """Returns the estimator for the settings; a TPU is looked up only if they use one.

    Args:
      params: all settings.
      training: whether it trains, perhaps as one of several workers; else it evaluates.
      model_fn: the model function.

    Raises:
      UserError: the TPU cannot be found, or TensorFlow executes eagerly.
    """
    if tf.executing_eagerly():
        raise UserError(
            "TensorFlow executes eagerly, and an estimator needs its graphs: call "
            "tf.compat.v1.disable_v2_behavior() first, or mnasnet_main.main, which does."
        )
    workers = tasks.current().count if training else 1
    how: dict[str, Any] = {
        "cluster": devices.resolve_tpu(params) if params["use_tpu"] else None,
        "tf_random_seed": params["tf_random_seed"],
        "save_checkpoints_steps": params["save_checkpoints_steps"],
    }
    if workers > 1:
        how.update(distributed.run_config(params))
    config = tf.estimator.tpu.RunConfig(
        **how,
        model_dir=params["model_dir"],
        keep_checkpoint_max=params["keep_checkpoint_max"],
        save_summary_steps=params["log_step_count_steps"] if params["add_summaries"] else 0,
        # The estimator's own hooks print two lines a step on a CPU; ours replace them.
        log_step_count_steps=None,
        session_config=devices.config(params, training),
        tpu_config=tf.estimator.tpu.TPUConfig(
            iterations_per_loop=params["iterations_per_loop"],
            per_host_input_for_training=tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2,
        ),
    )
    estimator = kept_graphs.Estimator(
        use_tpu=params["use_tpu"],
        model_fn=model_fn,
        config=config,
        params=params,
        train_batch_size=params["train_batch_size"] // workers,
        eval_batch_size=params["eval_batch_size"],
        predict_batch_size=params["eval_batch_size"],
        export_to_tpu=params["export_to_tpu"],
    )
    if workers > 1:
        distributed.without_autograph(estimator)
    return estimator
