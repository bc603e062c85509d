"""Trains and evaluates on graphs that stay from one interval of a run to the next.

TPUEstimator would build both anew each time, which takes longer than a few hundred steps of a small
network. Only the graphs stay: sessions are new, random numbers and input start as in a run that was
interrupted there. So a run gives the same weights and metrics either way.

The estimator has no public way to use a graph again; it is pinned with TensorFlow.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from utils.cluster import tasks
from utils.training import hooks, inputs, summaries

import tensorflow.compat.v1 as tf  # isort: skip

ModeKeys = tf.estimator.ModeKeys


class _Training(NamedTuple):
    """Holds what the estimator made for its first training."""

    graph: tf.Graph
    iterator: tf.data.Iterator
    spec: tf.estimator.EstimatorSpec
    global_step: tf.Variable


class Estimator(tf.estimator.tpu.TPUEstimator):
    """Builds the graph of trainings once, and that of evaluations once.

    The settings and the images must stay the same; only the image to start at may change. On a TPU
    the estimator does more than run sessions, and rows of a table may change; nothing is kept then,
    nor with hooks that cannot start again.
    """

    def __init__(self, *, params: Mapping[str, Any], **more: Any):
        """Takes the arguments of TPUEstimator; `params` are all settings."""
        super().__init__(params=dict(params), **more)
        self._keeps = not (
            params["use_tpu"]
            or params["bigtable_instance"]
            or params["use_async_checkpointing"]
            or tasks.current().count > 1
        )
        self._training: _Training | None = None
        self._evaluation: tuple[tf.Graph, tuple] | None = None
        # TensorFlow forbids a subclass to have methods of these names.
        self._train_model_default = self._train_anew_or_again
        self._train_with_estimator_spec = self._keep_and_train
        self._evaluate_build_graph = self._build_and_keep

    def _train_anew_or_again(self, input_fn, hooks, saving_listeners):
        if self._training is None:
            return super()._train_model_default(input_fn, hooks, saving_listeners)
        graph, iterator, spec, global_step = self._training
        with graph.as_default(), graph.device(self._device_fn):
            graph._unsafe_unfinalize()  # for the input, which begins elsewhere
            images = self._call_input_fn(input_fn, ModeKeys.TRAIN)
            start = _InitializerHook(iterator.make_initializer(images))
            return super()._train_with_estimator_spec(
                spec, [start], hooks, global_step, saving_listeners
            )

    def _keep_and_train(self, spec, worker_hooks, hooks, global_step, listeners):
        if self._keeps and len(worker_hooks) == 1:  # that which starts the input
            self._training = _Training(
                tf.get_default_graph(), worker_hooks[0]._iterator, spec, global_step
            )
        return super()._train_with_estimator_spec(spec, worker_hooks, hooks, global_step, listeners)

    def _build_and_keep(self, input_fn, hooks=None, checkpoint_path=None):
        scaffold, *others = super()._evaluate_build_graph(input_fn, hooks, checkpoint_path)
        made = (scaffold or tf.train.Scaffold(), *others)
        if self._keeps:
            self._evaluation = (tf.get_default_graph(), made)
        return made

    def evaluate_again(self, checkpoint: str) -> dict[str, Any] | None:
        """Evaluates a checkpoint as the first `evaluate` did; None if there was none, or on a TPU.

        The hooks are those of the first evaluation.
        """
        if self._evaluation is None:
            return None
        graph, made = self._evaluation
        with graph.as_default():
            graph._unsafe_unfinalize()  # each evaluation adds a counter of its batches
            return self._evaluate_run(checkpoint, *made, self.eval_dir())


class _InitializerHook(tf.train.SessionRunHook):
    """Starts the input of a session."""

    def __init__(self, initializer: tf.Operation):
        self._initializer = initializer

    def after_create_session(self, session, coord):
        session.run(self._initializer)


class Evaluator:
    """Evaluates checkpoints on all images of a split.

    Attributes:
      progress: the hook that shows the progress of each evaluation; close it after each.
    """

    def __init__(self, estimator: Estimator, split: inputs.Split):
        params = split.params
        self._estimator, self._split = estimator, split
        self._steps = math.ceil(params["num_eval_images"] / params["eval_batch_size"])
        self.progress = hooks.EvalProgressHook(self._steps)

    def evaluate(self, checkpoint: str) -> dict[str, Any]:
        """Returns the metrics of a checkpoint, and writes them for TensorBoard."""
        # Before the estimator opens its own, which begins with the graph, twice.
        summaries.open_writer(self._estimator.eval_dir())
        again = self._estimator.evaluate_again(checkpoint)
        if again is not None:
            return again
        return self._estimator.evaluate(
            input_fn=self._split.input().input_fn,
            # Without a number of steps, images beyond num_eval_images are counted and show.
            steps=self._steps if self._split.is_endless else None,
            checkpoint_path=checkpoint,
            hooks=[self.progress],
        )


class _Kept(NamedTuple):
    settings: dict[str, Any]
    made: Any


# A run has one split of each kind, from its start to its end.
_KEPT: weakref.WeakKeyDictionary[inputs.Split, _Kept] = weakref.WeakKeyDictionary()


def of_split(split: inputs.Split, params: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Returns what `make` made for a split, the same as before if the settings are.

    Args:
      split: the images.
      params: all settings; init_checkpoint may change, which the first training of a run uses up.
      make: makes an estimator or an evaluator.
    """
    settings = {name: value for name, value in params.items() if name != "init_checkpoint"}
    kept = _KEPT.get(split)
    if kept is None or kept.settings != settings:
        kept = _KEPT[split] = _Kept(settings, make())
    return kept.made
