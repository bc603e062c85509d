"""Turns the errors that end a run, and signals, into sentences that name what the user needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from utils.base import disk_errors, stopping
from utils.base.errors import UserError
from utils.reading import scan
from utils.training import checkpoints, inputs

import tensorflow.compat.v1 as tf


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
    except (tf.errors.OpError, *scan.DATA_ERRORS) as e:
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
        failure = disk_errors.find(e)
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
