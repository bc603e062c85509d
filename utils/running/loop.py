"""What a run does around its training: workers, first weights, next stop, words at its end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from utils.base import files, stopping
from utils.base.errors import UserError
from utils.config import network
from utils.reading import scan
from utils.training import checkpoints, evaluations, inputs, model_files, warm_start
from utils.weights import conversion
from utils.workers import gang, rendezvous, tasks
from utils.workers.rendezvous import WorkerLost

import tensorflow.compat.v1 as tf

_PAUSE = 0.5  # seconds between two looks for the chief's checkpoint


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Makes this process, for the block, one of the workers that its environment names, if any.

    Raises:
      UserError: as `tasks.joined`.
    """
    with tasks.joined() as task:
        if task.count > 1:
            found = gang.take_gpu(task.local_index)
            if found > 1 and task.local_index is None:
                logging.warning(
                    "This worker trains on one of the %d GPUs that it sees: start one worker for "
                    "each GPU.",
                    found,
                )
            if not task.is_chief:
                logging.set_verbosity(logging.WARNING)
        gang.end_with_launcher()
        yield


def starts_workers(params: Mapping[str, Any]) -> bool:
    """Whether this process is to start workers."""
    alone = tasks.current().count == 1 and not params["use_tpu"]
    return alone and gang.num_workers(params) > 1


def start_workers(program: str, argv: Sequence[str], params: Mapping[str, Any]) -> int:
    """Starts the workers of this machine and waits for their end; returns the exit status.

    Args:
      program: path of the program.
      argv: its name and its arguments.
      params: all settings, which have been checked.
    """
    count = gang.num_workers(params)
    logging.info("Starting %d workers on this machine.", count)
    command = [sys.executable, os.path.abspath(program), *argv[1:]]
    return gang.run(command, count, params["max_restarts"])


def is_idle(params: Mapping[str, Any]) -> bool:
    """Whether this process is a worker of a mode that the chief runs alone."""
    if tasks.current().is_chief or params["mode"] in gang.TRAINING_MODES:
        return False
    logging.warning("--mode=%s is the chief's work alone.", params["mode"])
    return True


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
    if not initial and not checkpoint and network.frozen(params):
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


def next_stop(params: Mapping[str, Any], step: int) -> int:
    """Returns the global step to which to train next: of the next evaluation, or the last."""
    last, every = params["train_steps"], params["steps_per_eval"]
    if params["mode"] != "train_and_eval":
        return last
    return min(last, (step // every + 1) * every)


def follow(
    params: Mapping[str, Any], train: Callable[[Mapping[str, Any], int, inputs.Split], None]
) -> None:
    """The loop of a non-chief worker: it trains; the chief evaluates and saves.

    Args:
      params: all settings.
      train: trains on a split to a global step.

    Raises:
      UserError: the chief has other settings, or refuses; or the data cannot be read here.
      WorkerLost: the chief is gone.
    """
    step = rendezvous.follow(tasks.current(), params, params["step_timeout"])["step"]
    params = {
        **params,
        "add_summaries": False,
        "init_checkpoint": None if step else initial_checkpoint(params),
        "keep_checkpoint_max": 0,  # what is kept is the chief's business
    }
    split = inputs.Split(params, is_training=True)
    split.check()
    while step < params["train_steps"]:
        _wait_for(params["model_dir"], step, params["step_timeout"])
        until = next_stop(params, step)
        train(params, until, split)
        params, step = {**params, "init_checkpoint": None}, until


def _wait_for(model_dir: str, step: int, patience: float) -> None:
    """Waits until the chief has written the checkpoint of a step, from which all go on.

    Raises:
      UserError: the latest checkpoint here is of a later step.
      WorkerLost: it does not come.
    """
    end = time.monotonic() + patience
    while (found := checkpoints.step_of(checkpoints.latest(model_dir))) < step:
        if time.monotonic() > end:
            raise WorkerLost(
                f"The checkpoint of step {step}, which the chief has, did not appear in "
                f"--model_dir={model_dir} within {patience:g} s (the latest here is of step "
                f"{found}): all workers need one folder that they share, such as a bucket or a "
                "network disk."
            )
        time.sleep(_PAUSE)
    if found > step:
        raise UserError(
            f"--model_dir={model_dir} has a checkpoint of step {found} here, but the chief's "
            f"latest is of step {step}: all workers need one folder that they share."
        )


@contextlib.contextmanager
def explaining_errors(split: inputs.Split) -> Iterator[None]:
    """Raises UserError for what ended a training on a split, or its evaluation.

    Errors that no user can fix pass through.
    """
    params = split.params
    try:
        with _ending_when_a_bucket_is_away(params):
            yield
    except tf.train.NanLossDuringTrainingError as e:
        raise UserError(
            "The loss is not a number: lower --base_learning_rate, or check the labels."
        ) from e
    except tf.errors.NotFoundError as e:
        if "not found in checkpoint" not in str(e):
            raise
        raise UserError(
            f"The checkpoint in --model_dir={params['model_dir']} lacks variables that these "
            "settings need: leave out --use_keras and --moving_average_decay, so that the "
            "checkpoint decides, or start from it in a new folder with --init_checkpoint."
        ) from e
    except RuntimeError as e:
        if "TPU cores" not in str(e):
            raise
        raise UserError(
            f"--tpu={params['tpu']} has no TPU cores: run on a TPU VM with its TensorFlow, or use "
            "--use_tpu=False."
        ) from e
    except (tf.errors.OpError, *scan.data_errors()) as e:
        reason = split.explain(e)
        if reason is None:
            raise
        raise reason from e


@contextlib.contextmanager
def _ending_when_a_bucket_is_away(params: Mapping[str, Any]) -> Iterator[None]:
    """Lets a session end with the error of a bucket that does not answer.

    TensorFlow asks a bucket again for three minutes. Its sessions then take the error for one of a
    lost TPU or worker: they begin anew, without a word and without end, with images that the
    training has had, and TPUEstimator keeps the error to itself. Without a TPU there is nothing to
    begin anew with. The errors are named in private places, but TensorFlow is pinned.
    """
    if params["use_tpu"]:
        yield
        return
    from tensorflow_estimator.python.estimator.tpu import error_handling

    from tensorflow.python.training import monitored_session

    places = ((monitored_session, "_PREEMPTION_ERRORS"), (error_handling, "_IGNORED_ERRORS"))
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, ())
        yield
    finally:
        for (module, name), kinds in zip(places, before, strict=True):
            setattr(module, name, kinds)


@contextlib.contextmanager
def naming_what_is_saved(params: Mapping[str, Any]) -> Iterator[None]:
    """Says, if the disk or a signal ends a training, which checkpoint it can go on from.

    Raises:
      UserError: in place of an error of the disk.
    """
    try:
        yield
    except BaseException as e:
        failure = files.failure_of(e)
        if failure:
            kept = checkpoints.latest(params["model_dir"])
            raise UserError(f"{failure}" + (f" ({kept} is kept)." if kept else ".")) from e
        if stopping.behind(e) and params["mode"] in ("train", "train_and_eval"):
            _log_saved(params["model_dir"])
        raise


def _log_saved(model_dir: str) -> None:
    """Logs the last line of a training that a signal ended."""
    try:
        checkpoint = checkpoints.latest(model_dir)
    except (UserError, tf.errors.OpError):  # the folder, too, may have been why it was stopped
        return
    if checkpoint:
        step = checkpoints.step_of(checkpoint)
        logging.info("Saved step %d in %s: the same command resumes from there.", step, model_dir)
    else:
        logging.info("No step was saved in %s: the same command begins anew.", model_dir)
