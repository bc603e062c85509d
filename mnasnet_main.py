"""Trains, evaluates and exports MnasNet with TPUEstimator, on a TPU, GPU or CPU.

python mnasnet_main.py --data_dir=DATA --model_dir=MODEL --export_dir=EXPORT
python mnasnet_main.py --tpu=NAME --data_dir=gs://DATA --model_dir=gs://MODEL
python mnasnet_main.py --help
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base import files, folder_lock, program, stopping
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf
from utils.config import loading, settings

with importing_later():
    import imagenet_input
    import mnasnet_models
    import preprocessing
    from utils.config import network
    from utils.exporting import export as exporting  # `export` is a published function
    from utils.reading import records
    from utils.running import cached_views, estimator, loop
    from utils.showing import report_page
    from utils.training import (
        averages,
        checkpoints,
        configuration,
        evaluations,
        hooks,
        inputs,
        model_files,
        optimization,
        warm_start,
    )
    from utils.weights import conversion
    from utils.workers import rendezvous, tasks, watchdog

DESCRIPTION = "Trains, evaluates and exports MnasNet on a TPU, GPU or CPU."

# Published here, although the published program does not use it: (factor, epoch to start at).
LR_SCHEDULE = [(1.0, 5), (0.1, 30), (0.01, 60), (0.001, 80), (0.0001, 90)]


def __getattr__(name: str) -> Any:
    """Returns FAKE_DATA_DIR, which is published here, too; its module loads TensorFlow."""
    if name == "FAKE_DATA_DIR":
        return records.FAKE_DATA_DIR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The model function.


def mnasnet_model_fn(features, labels, mode, params):
    """Builds the network with its loss and metrics: the model function of TPUEstimator.

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
    cross_entropy = evaluations.cross_entropy(logits, labels, params)
    squares = [tf.nn.l2_loss(v) for v in optimization.regularized_variables()]
    loss = cross_entropy + params["weight_decay"] * tf.add_n(squares)
    if mode == tf.estimator.ModeKeys.EVAL:
        return _eval_spec(logits, labels, loss, params)
    if params["cached_views"]:
        cached_views.mark(labels)
    return _train_spec(loss, cross_entropy, params)


def build_model_fn(features, labels, mode, params):
    """Builds the network as `mnasnet_model_fn` does, from settings of which some may be missing.

    The published program passes this function to TPUEstimator. Settings that `params` lacks have
    their defaults.
    """
    return mnasnet_model_fn(features, labels, mode, settings.completed(params))


def _network_images(images, mode, params):
    """Normalizes images and brings them into the network's layout and precision."""
    if isinstance(images, dict):
        images = images["feature"]  # a plain ServingInputReceiver's wrapping
    if params["use_tpu"] and params["transpose_input"] and mode != tf.estimator.ModeKeys.PREDICT:
        images = tf.transpose(images, [3, 0, 1, 2])
    if mode == tf.estimator.ModeKeys.PREDICT:
        images = tf.identity(images, imagenet_input.SERVING_IMAGES)
    # Pixels may travel in bfloat16, but are normalized in float32.
    images = preprocessing.normalize(tf.cast(images, tf.float32), **network.normalization(params))
    if params["data_format"] == "channels_first":
        images = tf.transpose(images, [0, 3, 1, 2])
    return tf.cast(images, tf.bfloat16 if params["precision"] == "bfloat16" else tf.float32)


def _logits(images, mode, params):
    """Returns the network's float32 logits [N, classes]."""
    bfloat16 = params["precision"] == "bfloat16"
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    overrides = network.overrides(params)
    if is_training:  # how layers train is not a property of the network
        overrides["frozen"] = network.frozen(params)
        overrides["sync_batch_norm"] = params["sync_batch_norm"]
    with tf.tpu.bfloat16_scope() if bfloat16 else contextlib.nullcontext():
        logits, _ = mnasnet_models.build_mnasnet_model(
            images, params["model_name"], is_training, overrides
        )
    return tf.cast(logits, tf.float32)


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
    losses = evaluations.cross_entropies(logits, labels, params)
    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=tf.estimator.ModeKeys.EVAL,
        loss=loss,
        eval_metrics=(evaluations.of_batch, [labels, logits, losses]),
        scaffold_fn=averages.averages_scaffold(True),
    )


def _train_spec(loss, cross_entropy, params):
    global_step = tf.train.get_or_create_global_step()
    rate = optimization.learning_rate(global_step, params)
    op = optimization.train_op(loss, rate, global_step, params)
    stop_hook = rendezvous.stop_hook()
    scalars = {
        "cross_entropy": cross_entropy,
        "learning_rate": rate,
        "epoch": tf.cast(global_step, tf.float32) / optimization.steps_per_epoch(params),
    }
    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=tf.estimator.ModeKeys.TRAIN,
        loss=loss,
        train_op=op,
        host_call=hooks.training_summaries(loss, scalars, global_step, params),
        # StopHook comes after TPUEstimator's own hooks, one of which makes Ctrl-C kill the process,
        # and after the saver, so that a signal during the last save waits for the save, too.
        training_hooks=[*hooks.saver_hooks(params), stop_hook],
        scaffold_fn=warm_start.scaffold(
            params["init_checkpoint"],
            params["use_tpu"],
            model_files.label_names(params) if params["init_checkpoint"] else (),
        ),
    )


# The program.


def build_estimator(params: Mapping[str, Any], training: bool) -> tf.estimator.tpu.TPUEstimator:
    """Returns the estimator for the settings; a TPU is looked up only if they use one."""
    return estimator.build(params, training, mnasnet_model_fn)


def train(
    params: Mapping[str, Any],
    until: int,
    split: inputs.Split,
    views: cached_views.CachedViews | None = None,
) -> None:
    """Trains on a split from the latest checkpoint to a global step, and saves there.

    Args:
      params: all settings.
      until: the global step.
      split: the training images.
      views: their cached views, which the steps then take instead.

    Raises:
      UserError: the images, the checkpoint or the loss are not usable.
      stopping.Stop: a signal asked for the end; what was trained is saved.
    """
    task = tasks.current()
    checkpoint = checkpoints.latest(params["model_dir"])
    step = checkpoints.step_of(checkpoint)
    all_hooks = [hooks.ShapesHook(checkpoint), watchdog.hook(task, params["step_timeout"])]
    if task.is_chief:
        all_hooks += [
            hooks.EventsHook(params, step, split),
            *([views.hook()] if views else []),
            hooks.ProgressHook(params, step),  # last: the others' set-up is no part of the speed
        ]
    with loop.explaining_errors(split), hooks.closing(all_hooks), task.in_environment():
        trainer = estimator.of_split(split, params, lambda: build_estimator(params, training=True))
        source = views.input() if views else split.input(step)
        estimator.train(trainer, source, until, all_hooks)
    stopping.raise_if_requested()


def evaluate(params: Mapping[str, Any], checkpoint: str, split: inputs.Split) -> dict[str, Any]:
    """Evaluates a checkpoint on every image of a split once; records it, and archives the best.

    Returns what evaluations.json holds of it, see `evaluations.metrics_of`.

    Raises:
      UserError: the images or the checkpoint are not usable.
    """
    evaluator = estimator.of_split(
        split,
        params,
        lambda: estimator.Evaluator(build_estimator(params, training=False), split),
    )
    start = time.monotonic()
    with loop.explaining_errors(split), hooks.closing([evaluator.progress]):
        values = evaluator.evaluate(checkpoint)
    found = evaluations.metrics_of(values, split.num_skipped)
    split.check_count(found["images"] + found["skipped_images"])
    evaluations.log(found, time.monotonic() - start, params["num_label_classes"])
    evaluations.log_unsettled(model_files.trained_with(params), found["global_step"])
    evaluations.keep(params["model_dir"], checkpoint, found)
    return found


def run_training(params: Mapping[str, Any]) -> None:
    """mode=train and train_and_eval: trains to train_steps, with evaluations on the way."""
    if not tasks.current().is_chief:
        loop.follow(params, train)
        return
    with rendezvous.opened(tasks.current()) as meeting:
        splits = inputs.checked_splits(params)
        files.make_writable_dir(params["model_dir"], "model_dir")
        exporting.check(params)
        report_page.check(params)
        with folder_lock.hold(params["model_dir"], "model_dir", "training"):
            prepared = loop.prepare(params)
            step = checkpoints.step_of(checkpoints.latest(params["model_dir"]))
            meeting.lead(params, {"step": step}, params["step_timeout"])
            splits.train.log_shares(tasks.current().count)
            _train_and_evaluate(prepared, splits)
            splits.train.log_skipped()
            _finish(prepared)


def _train_and_evaluate(params: Mapping[str, Any], splits: inputs.Splits) -> None:
    """Trains to train_steps; in mode=train_and_eval, evaluates every steps_per_eval steps.

    The checkpoint that a training resumes from is evaluated first, unless that was done.
    """
    last, with_eval = params["train_steps"], params["mode"] == "train_and_eval"
    checkpoint = checkpoints.latest(params["model_dir"])
    step = checkpoints.step_of(checkpoint)
    views = cached_views.of_run(params, splits.train)
    while True:
        if step and (with_eval or (step >= last and params["eval_after_training"])):
            _evaluate_once(params, checkpoint, splits.eval)
        if step >= last:
            break
        train(params, loop.next_stop(params, step), splits.train, views)
        params = {**params, "init_checkpoint": None}
        checkpoint = checkpoints.latest(params["model_dir"])
        before, step = step, checkpoints.step_of(checkpoint)
        if step == before:  # the input ended at once
            raise UserError(f"The training images ended at step {step}: are there any?")


def _finish(params: Mapping[str, Any]) -> None:
    """Exports and reports, if export_dir and report are given."""
    if params["export_dir"]:
        run_export(params)
    report_page.finish(params, mnasnet_model_fn)


def _evaluate_once(params: Mapping[str, Any], checkpoint: str | None, split: inputs.Split) -> None:
    """Evaluates a checkpoint unless there is none or its evaluation is recorded."""
    step = checkpoints.step_of(checkpoint)
    if checkpoint is not None and not evaluations.is_recorded(params["model_dir"], step):
        evaluate(params, checkpoint, split)


def run_evaluation(params: Mapping[str, Any]) -> None:
    """mode=eval: evaluates each new checkpoint of a training until its last step, then exports."""
    splits = inputs.checked_splits(params)
    model_dir = params["model_dir"]
    model_files.check_what_is_there(model_dir)
    model_files.log_class_order(params)
    exporting.check(params)
    report_page.check(params)
    evaluated = 0
    for checkpoint in checkpoints.follow(model_dir, params["eval_timeout"]):
        step = checkpoints.step_of(checkpoint)
        try:
            _evaluate_once(params, checkpoint, splits.eval)
        except (tf.errors.OpError, ValueError, IndexError):
            if checkpoints.is_complete(checkpoint):
                raise
            logging.info("%s is gone or incomplete; waiting for the next one.", checkpoint)
            continue
        evaluated += 1
        if step >= params["train_steps"]:
            logging.info("Evaluated the last step, %d.", step)
            break
        # Training writes no checkpoint at step 0: it is imported, and may remain the only one.
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
    _finish(params)


def run_export(params: Mapping[str, Any]) -> None:
    """mode=export_only, and the end of a training or of mode=eval: exports a checkpoint."""
    checkpoint = evaluations.checkpoint_to_export(params)
    # bfloat16 is for training on TPUs; phones and servers take float32, of the same weights. The
    # graph for TPUs, too, is made without a TPU.
    params = {**params, "precision": "float32", "use_tpu": False}
    exporting.export(params, checkpoint, mnasnet_model_fn)


def export(est, export_dir: str, params=None, post_quantize: bool = True) -> None:
    """Exports the latest checkpoint of an estimator; the published name for it.

    Args:
      est: an estimator of `build_model_fn` or `mnasnet_model_fn`, as `build_estimator` returns it.
      export_dir: folder or bucket for the SavedModel and the .tflite files.
      params: settings over those of `est`; a boolean is post_quantize, which first stood here.
      post_quantize: whether to write a .tflite file with weights quantized to 8 bits, too.

    Raises:
      UserError: export_dir is empty, or as `utils.exporting.export.export`.
    """
    if not export_dir:
        raise UserError("export_dir is empty: name a folder for the exported files.")
    if isinstance(params, bool):
        params, post_quantize = None, params
    given = {"model_dir": est.model_dir, "export_dir": export_dir, "post_quantize": post_quantize}
    run_export(settings.completed({**est.params, **(params or {}), **given}))


MODES = {
    "train": run_training,
    "train_and_eval": run_training,
    "eval": run_evaluation,
    "export_only": run_export,
}


def main(argv: list[str]) -> int | None:
    """Reads the settings, checks them and the data, and runs the mode; returns the exit status.

    A notebook, too, may call it, whether or not TensorFlow executes eagerly there.
    """
    given = loading.parse_flags(argv, DESCRIPTION)
    with loop.joined(), program.graph_mode():
        params = configuration.resolve(given, conversion.initial_weights)
        if loop.starts_workers(params):
            return loop.start_workers(__file__, argv, params)
        if loop.is_idle(params):
            return None
        configuration.log_summary(params)
        with loop.naming_what_is_saved(params):
            loading.call_as_absl_does(MODES[params["mode"]], params)
    return None


def console() -> None:
    """Runs the program; it is the console command `mnasnet`."""
    program.run(main)


if __name__ == "__main__":
    console()
