"""Trains, evaluates and exports MnasNet with TPUEstimator, on a TPU, GPU or CPU.

python mnasnet_main.py --tpu=NAME --data_dir=gs://... --model_dir=gs://...
python mnasnet_main.py --help
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

import imagenet_input
import mnasnet_models
import preprocessing
from utils.base import files, folder_lock, program, stopping
from utils.base.errors import UserError
from utils.config import network_settings, setting_flags
from utils.exporting import export
from utils.reading import bad_images
from utils.training import (
    averages,
    checkpoints,
    configuration,
    devices,
    evaluations,
    explanations,
    hooks,
    inputs,
    model_files,
    optimization,
    warm_start,
)

import tensorflow.compat.v1 as tf  # isort: skip

_START = time.monotonic()
DESCRIPTION = "Trains, evaluates and exports MnasNet on a TPU, GPU or CPU."
TOP_K = 5


# The model function.


def mnasnet_model_fn(features, labels, mode, params):
    """The model function of TPUEstimator.

    Args:
      features: images [N, H, W, 3] in [0, 255], or [H, W, 3, N] on a TPU with transpose_input.
      labels: int32 [N], 0-based; `imagenet_input.PADDING` marks images that do not count.
      mode: a tf.estimator.ModeKeys.
      params: all settings, see `utils.config.settings.default_params`; nothing else is read.

    Returns:
      A tf.estimator.tpu.TPUEstimatorSpec.
    """
    logits = _logits(_network_images(features, mode, params), mode, params)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return _predict_spec(logits, params)
    cross_entropy = _cross_entropy(logits, labels, params)
    loss = cross_entropy + _weight_decay(params)
    if mode == tf.estimator.ModeKeys.EVAL:
        return _eval_spec(logits, labels, loss, params)
    return _train_spec(loss, cross_entropy, params)


def _network_images(images, mode, params):
    """What the network takes: normalized, in its layout and precision."""
    if isinstance(images, dict):
        images = images["feature"]  # a plain ServingInputReceiver's wrapping
    if params["use_tpu"] and params["transpose_input"] and mode != tf.estimator.ModeKeys.PREDICT:
        images = tf.transpose(images, [3, 0, 1, 2])
    # Pixels may travel in bfloat16, but are normalized in float32.
    images = preprocessing.normalize(
        tf.cast(images, tf.float32), **network_settings.normalization(params)
    )
    if params["data_format"] == "channels_first":
        images = tf.transpose(images, [0, 3, 1, 2])
    return tf.cast(images, tf.bfloat16 if params["precision"] == "bfloat16" else tf.float32)


def _logits(images, mode, params):
    bfloat16 = params["precision"] == "bfloat16"
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    overrides = network_settings.overrides(params)
    if is_training:  # what trains is no property of the network
        overrides["frozen"] = network_settings.frozen(params)
    with tf.tpu.bfloat16_scope() if bfloat16 else contextlib.nullcontext():
        logits, _ = mnasnet_models.build_mnasnet_model(
            images, params["model_name"], is_training, overrides
        )
    return tf.cast(logits, tf.float32)


def _cross_entropy(logits, labels, params):
    """Mean over the images that count, with label smoothing."""
    one_hot = tf.one_hot(labels, params["num_label_classes"])
    weights = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    return tf.losses.softmax_cross_entropy(
        one_hot, logits, weights, label_smoothing=params["label_smoothing"]
    )


def _weight_decay(params):
    squares = [tf.nn.l2_loss(v) for v in optimization.regularized_variables()]
    return params["weight_decay"] * tf.add_n(squares)


def _predict_spec(logits, params):
    predictions = {
        "classes": tf.argmax(logits, axis=1, name="ArgMax"),
        "probabilities": tf.nn.softmax(logits, name="softmax_tensor"),
    }
    outputs = tf.estimator.export.PredictOutput(predictions)
    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=tf.estimator.ModeKeys.PREDICT,
        predictions=predictions,
        export_outputs={"serving_default": outputs, "classify": outputs},
        scaffold_fn=averages.export_scaffold(params),
    )


def _eval_spec(logits, labels, loss, params):
    # The loss of each image, so that the metric counts each once whatever the batch size.
    one_hot = tf.one_hot(labels, params["num_label_classes"])
    losses = tf.losses.softmax_cross_entropy(
        one_hot,
        logits,
        label_smoothing=params["label_smoothing"],
        loss_collection=None,
        reduction=tf.losses.Reduction.NONE,
    )
    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=tf.estimator.ModeKeys.EVAL,
        loss=loss,
        eval_metrics=(_metrics, [labels, logits, losses]),
        scaffold_fn=averages.averages_scaffold(True),
    )


def _metrics(labels, logits, losses):
    """Metrics over the images that count; `images` is their number."""
    counts = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    in_top_k = tf.nn.in_top_k(logits, tf.maximum(labels, 0), min(TOP_K, logits.shape[1]))
    total = tf.get_variable(
        "images", [], tf.float64, tf.zeros_initializer(), trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
    )  # fmt: skip
    add = tf.assign_add(total, tf.reduce_sum(tf.cast(counts, tf.float64)))
    return {
        "top_1_accuracy": tf.metrics.accuracy(labels, tf.argmax(logits, axis=1), counts),
        "top_5_accuracy": tf.metrics.mean(tf.cast(in_top_k, tf.float32), counts),
        "cross_entropy": tf.metrics.mean(losses, counts),
        "images": (tf.identity(total), add),
    }


def _train_spec(loss, cross_entropy, params):
    global_step = tf.train.get_or_create_global_step()
    rate = optimization.learning_rate(global_step, params)
    op = optimization.train_op(loss, rate, global_step, params)
    scalars = {
        "cross_entropy": cross_entropy,
        "learning_rate": rate,
        "epoch": tf.cast(global_step, tf.float32) / optimization.steps_per_epoch(params),
    }
    host_call = None
    if params["add_summaries"] and not params["use_tpu"]:
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
    elif params["add_summaries"] and not params["skip_host_call"] and params["model_dir"]:
        host_call = hooks.summary_host_call({"loss": loss, **scalars}, global_step, params)
    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=tf.estimator.ModeKeys.TRAIN,
        loss=loss,
        train_op=op,
        host_call=host_call,
        # After TPUEstimator's own hooks, one of which makes Ctrl-C kill the process; and after the
        # saver, so that a signal during the last save waits for it, too.
        training_hooks=[*hooks.saver_hooks(params), stopping.StopHook()],
        scaffold_fn=_init_scaffold(params),
    )


def _init_scaffold(params):
    """Initial weights from --init_checkpoint; None without one."""
    if not params["init_checkpoint"]:
        return None
    path = params["init_checkpoint"]
    return lambda: tf.train.Scaffold(init_fn=warm_start.init_fn(path))


# The program.


def build_estimator(params: Mapping[str, Any], training: bool) -> tf.estimator.tpu.TPUEstimator:
    """The estimator for the settings; TPUs are asked for only if one is used."""
    cluster = None
    if params["use_tpu"]:
        cluster = devices.resolve_tpu(params)
    config = tf.estimator.tpu.RunConfig(
        cluster=cluster,
        model_dir=params["model_dir"],
        tf_random_seed=params["tf_random_seed"],
        save_checkpoints_steps=params["save_checkpoints_steps"],
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
    return tf.estimator.tpu.TPUEstimator(
        use_tpu=params["use_tpu"],
        model_fn=mnasnet_model_fn,
        config=config,
        params=dict(params),
        train_batch_size=params["train_batch_size"],
        eval_batch_size=params["eval_batch_size"],
        predict_batch_size=params["eval_batch_size"],
        export_to_tpu=params["export_to_tpu"],
    )


def train(params: Mapping[str, Any], until: int) -> None:
    """Trains to a global step, from the last checkpoint on."""
    estimator = build_estimator(params, training=True)
    checkpoint = checkpoints.latest(params["model_dir"])
    step = checkpoints.step_of(checkpoint)
    all_hooks = [
        hooks.ShapesHook(checkpoint),
        hooks.ProgressHook(params, step),
    ]
    with explanations.explaining_errors(params, is_training=True), hooks.closing(all_hooks):
        estimator.train(
            input_fn=inputs.build(True, params, step).input_fn,
            max_steps=until,
            hooks=all_hooks,
        )
    if stopping.is_requested():
        saved = checkpoints.step_of(checkpoints.latest(params["model_dir"]))
        logging.info(
            "Saved step %d in %s: the same command resumes from there.", saved, params["model_dir"]
        )
    stopping.raise_if_requested()


def evaluate(params: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Evaluates a checkpoint on every image once, and records and archives the result."""
    estimator = build_estimator(params, training=False)
    steps = math.ceil(params["num_eval_images"] / params["eval_batch_size"])
    progress = hooks.EvalProgressHook(steps)
    start = time.monotonic()
    with (
        explanations.explaining_errors(params, is_training=False),
        hooks.closing([progress]),
    ):
        metrics = estimator.evaluate(
            input_fn=inputs.build(False, params).input_fn,
            # Off the TPU the data end by themselves, and images beyond num_eval_images show.
            steps=steps if params["use_tpu"] or params["data_dir"] == "null" else None,
            checkpoint_path=checkpoint,
            hooks=[progress],
        )
    metrics = {name: float(value) for name, value in metrics.items()}
    metrics["global_step"], metrics["images"] = int(metrics["global_step"]), int(metrics["images"])
    metrics["skipped_images"] = inputs.num_skipped(False, params)
    counted = metrics["images"] + metrics["skipped_images"]
    # Black images fill the last batch.
    if params["data_dir"] != "null" and not inputs.is_enough(counted, params):
        raise inputs.wrong_count(counted, params)
    # When this was known: curves over time need it. CPU time tells more on a machine that is busy.
    metrics["seconds"] = round(time.monotonic() - _START, 1)
    metrics["cpu_seconds"] = round(time.process_time(), 1)
    logging.info(
        "Step %d: top-1 %.2f %%, top-5 %.2f %%, loss %.4f on %d images%s in %.1f s.",
        metrics["global_step"], 100 * metrics["top_1_accuracy"], 100 * metrics["top_5_accuracy"],
        metrics["cross_entropy"], metrics["images"],
        f" ({metrics['skipped_images']} bad ones left out)" if metrics["skipped_images"] else "",
        time.monotonic() - start,
    )  # fmt: skip
    # In this order: a checkpoint whose evaluation is recorded is not evaluated again.
    evaluations.archive_if_best(params["model_dir"], checkpoint, metrics)
    evaluations.record(params["model_dir"], metrics)
    return metrics


def run_training(params: Mapping[str, Any]) -> None:
    """mode=train and train_and_eval: trains to train_steps, with evaluations on the way."""
    files.make_writable_dir(params["model_dir"], "model_dir")
    if params["export_dir"]:
        export.check(params)
    with folder_lock.hold(params["model_dir"], "model_dir", "training"):
        _run_training(params)


def _run_training(params: Mapping[str, Any]) -> None:
    model_dir, last = params["model_dir"], params["train_steps"]
    with_eval = params["mode"] == "train_and_eval"
    model_files.check_what_is_there(model_dir)
    checkpoint = checkpoints.recover(model_dir, params["keep_checkpoint_max"])
    step = checkpoints.step_of(checkpoint)
    if checkpoint:
        # Only a training that begins takes its weights from elsewhere.
        params = {**params, "init_checkpoint": None}
    elif params["init_checkpoint"]:
        warm_start.resolve(params["init_checkpoint"])
    elif network_settings.frozen(params):
        raise UserError(
            f"{'--freeze_backbone' if params['freeze_backbone'] else '--freeze_until'} would keep "
            "random weights: name trained ones with --init_checkpoint, or a --model_dir that has a "
            "checkpoint."
        )
    if step >= last:
        logging.info("%s is complete at step %d: nothing to train.", model_dir, step)
        evaluations.log_best(model_dir)
    else:
        if step:
            logging.info("Going on from step %d of %d in %s.", step, last, model_dir)
            model_files.log_changes(params)
        model_files.record_params(params)
        model_files.keep_label_names(params)
    if with_eval and step:
        _evaluate_once(params, checkpoints.latest(model_dir))
    while step < last:
        until = min(last, (step // params["steps_per_eval"] + 1) * params["steps_per_eval"])
        train(params, until if with_eval else last)
        params = {**params, "init_checkpoint": None}
        checkpoint = checkpoints.latest(model_dir)
        before, step = step, checkpoints.step_of(checkpoint)
        if step == before:  # the input has ended at once
            raise UserError(f"The training images have ended at step {step}: are there any?")
        if with_eval:
            _evaluate_once(params, checkpoint)
    if skipped := inputs.num_skipped(True, params):
        logging.info(
            "%d bad training images were left out in each epoch: see %s.",
            skipped, os.path.join(model_dir, bad_images.FILE_NAME),
        )  # fmt: skip
    if params["export_dir"]:
        run_export(params)


def _evaluate_once(params: Mapping[str, Any], checkpoint: str | None) -> None:
    step = checkpoints.step_of(checkpoint)
    if checkpoint is None or any(
        e["global_step"] == step for e in evaluations.read(params["model_dir"])
    ):
        return
    evaluate(params, checkpoint)


def run_evaluation(params: Mapping[str, Any]) -> None:
    """mode=eval: evaluates each new checkpoint of a training run, until its last step."""
    model_dir = params["model_dir"]
    model_files.check_what_is_there(model_dir)
    evaluated = 0
    for checkpoint in checkpoints.follow(model_dir, params["eval_timeout"]):
        step = checkpoints.step_of(checkpoint)
        try:
            _evaluate_once(params, checkpoint)
        except (tf.errors.OpError, ValueError, IndexError):
            if checkpoints.is_complete(checkpoint):
                raise
            logging.info("%s is gone or incomplete; waiting for the next one.", checkpoint)
            continue
        evaluated += 1
        if step >= params["train_steps"]:
            logging.info("Evaluated the last step, %d.", step)
            break
        # Training writes none at step 0: it is imported, and nobody may ever write another.
        if step == 0 and params["eval_timeout"] is None:
            logging.info("Evaluated the imported weights.")
            break
    else:
        logging.info("No new checkpoint in %s for %s s.", model_dir, params["eval_timeout"])
    if not evaluated:
        raise UserError(
            f"--model_dir={model_dir} got no checkpoint within --eval_timeout="
            f"{params['eval_timeout']}: is the training running, and writing there?"
        )
    evaluations.log_best(model_dir)


def _checkpoint_to_export(params: Mapping[str, Any]) -> str | None:
    """The latest checkpoint, the archived best, or the one that --export_checkpoint names."""
    wanted = params["export_checkpoint"]
    if wanted is None or params["mode"] != "export_only":
        return checkpoints.latest(params["model_dir"])
    if wanted == "best":
        best = evaluations.best(params["model_dir"])
        if best and checkpoints.find(best["checkpoint"]) is None:
            raise UserError(
                f"The best checkpoint, {best['checkpoint']}, is missing: restore it from a copy, "
                "or name another one with --export_checkpoint."
            )
        return best["checkpoint"] if best else None
    found = checkpoints.find(wanted)
    if found is None:
        raise UserError(
            f"--export_checkpoint={wanted} is no checkpoint: name a path such as "
            "DIR/model.ckpt-1000, or 'best'."
        )
    return found


def run_export(params: Mapping[str, Any]) -> None:
    """mode=export_only, and the end of a training: exports a checkpoint."""
    checkpoint = _checkpoint_to_export(params)
    if checkpoint is None:
        wants_best = params["export_checkpoint"] == "best" and params["mode"] == "export_only"
        kind = "best checkpoint (evaluation keeps it)" if wants_best else "checkpoint to export"
        raise UserError(f"--model_dir={params['model_dir']} holds no {kind}: train first.")
    # bfloat16 is for training on TPUs; phones and servers take float32, of the same weights. The
    # graph for TPUs, too, is made without one.
    params = {**params, "precision": "float32", "use_tpu": False}
    export.export(params, checkpoint, mnasnet_model_fn)


MODES = {
    "train": run_training,
    "train_and_eval": run_training,
    "eval": run_evaluation,
    "export_only": run_export,
}


def main(argv: list[str]) -> None:
    """Reads the settings, checks them and the data, and runs the mode."""
    params = configuration.resolve(setting_flags.parse_settings(argv, DESCRIPTION))
    configuration.log_summary(params)
    if params["mode"] != "export_only":
        inputs.check(params)
    with explanations.explaining_disk_errors(params):
        MODES[params["mode"]](params)


def console() -> None:
    """The console command `mnasnet`."""
    program.run(main)


if __name__ == "__main__":
    console()
