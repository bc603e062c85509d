"""Trains one model in several processes, each with a device, through MultiWorkerMirroredStrategy.

TensorFlow sums the gradients of all workers in every step. Each worker has its part of the batch,
the same graph and the same weights. TPUEstimator does not divide the batch for this strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import imagenet_input
from utils.base import files
from utils.cluster import tasks
from utils.cluster.lost import WorkerLost

import tensorflow.compat.v1 as tf  # isort: skip

# How a worker learns of a lost one.
_LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def run_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of RunConfig that make a training one of several workers; none alone.

    The estimator must be built, and trained, within `Task.in_environment`. It must save nothing
    itself: it would save each checkpoint twice, and one at step 0.
    """
    task = tasks.current()
    seed = params["tf_random_seed"]
    return {
        "train_distribute": tf.distribute.experimental.MultiWorkerMirroredStrategy(),
        "save_checkpoints_steps": None,
        "save_checkpoints_secs": None,
        # The chief's initial weights count; with its dropout all parts of a batch would agree.
        "tf_random_seed": None if seed is None else seed + task.index,
    }


def without_autograph(estimator: tf.estimator.Estimator) -> None:
    """Has TensorFlow call the model function of an estimator as it is.

    For several workers it would first rewrite the source of every function that it calls, for
    control flow that this package does not use, which takes seconds of each worker's start.
    """
    # An attribute, because TensorFlow forbids a subclass to have a method of this name.
    estimator._call_model_fn = tf.autograph.experimental.do_not_convert(estimator._call_model_fn)


def train(
    estimator: tf.estimator.Estimator,
    source: imagenet_input.ImageNetTFExampleInput,
    until: int,
    hooks: Sequence[tf.train.SessionRunHook],
) -> None:
    """Trains to a global step, alone or as one of several workers.

    Args:
      estimator: with `run_config`, if there are several workers.
      source: the training images; each worker reads its share of them.
      until: the global step.
      hooks: of this process.

    Raises:
      WorkerLost: another worker ended, or cannot be reached.
    """
    if tasks.current().count == 1:
        estimator.train(input_fn=source.input_fn, max_steps=until, hooks=list(hooks))
        return
    input_fn = of_worker(source.input_fn)
    spec = tf.estimator.TrainSpec(input_fn, until, list(hooks))
    try:
        # `Estimator.train` refuses several workers. No task evaluates, but an EvalSpec must be.
        tf.estimator.train_and_evaluate(estimator, spec, tf.estimator.EvalSpec(input_fn))
    except _LOSSES as e:
        if files.is_of_bucket(e):
            raise
        raise WorkerLost(
            f"Another worker ended or cannot be reached ({files.reason(e)[:200]}): start all "
            "workers again; they resume from the last checkpoint."
        ) from e


def of_worker(input_fn: Callable) -> Callable:
    """Returns an input function that reads the share of a worker, as TensorFlow names it.

    Args:
      input_fn: of `imagenet_input`; takes params.
    """

    def share(params, input_context=None):
        if input_context is None:
            return input_fn(params)
        return input_fn({**params, "context": _InputContext(input_context)})

    return share


class _InputContext:
    """Says which worker's share to read, in the words of TPUEstimator's context."""

    def __init__(self, context: tf.distribute.InputContext):
        self.num_hosts = context.num_input_pipelines
        self._index = context.input_pipeline_id

    def current_input_fn_deployment(self):
        """Returns a tuple whose second entry is the number of this worker."""
        return None, self._index
