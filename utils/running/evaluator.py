"""Evaluates the checkpoints of one run on one graph, which TPUEstimator would build each time.

Building takes longer than evaluating some hundred images. The session is new each time, and the
input starts anew, so the metrics are those of a graph of their own.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from utils.training import hooks, inputs

import tensorflow.compat.v1 as tf  # isort: skip

# Split -> its evaluator; a run has one split for evaluation from its start to its end.
_KEPT: weakref.WeakKeyDictionary[inputs.Split, Evaluator] = weakref.WeakKeyDictionary()


class Evaluator:
    """Evaluates with an estimator, and keeps the graph of its first evaluation.

    Attributes:
      progress: the hook that shows the progress of each evaluation; close it after each.
    """

    def __init__(self, estimator: tf.estimator.tpu.TPUEstimator, params: Mapping[str, Any]):
        """Keeps the estimator and what depends on the settings; nothing is built yet."""
        self._estimator = estimator
        self._settings = _that_matter(params)
        self._steps = math.ceil(params["num_eval_images"] / params["eval_batch_size"])
        self.progress = hooks.EvalProgressHook(self._steps)
        # On a TPU the estimator does more than run a session; rows of a table may change.
        self._keeps = not params["use_tpu"] and not params["bigtable_instance"]
        self._built: tuple[tf.Graph, tuple] | None = None

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Tells whether the graph is that of these settings."""
        return self._settings == _that_matter(params)

    def evaluate(self, checkpoint: str, split: inputs.Split) -> dict[str, Any]:
        """Returns the metrics of a checkpoint on all images of the split that the evaluator is of.

        They are written for TensorBoard, too.
        """
        if self._built is None:
            return self._build_and_evaluate(checkpoint, split)
        graph, (scaffold, update_op, metrics, all_hooks) = self._built
        with graph.as_default():
            graph._unsafe_unfinalize()  # each run adds a counter of its batches
            return self._estimator._evaluate_run(
                checkpoint, scaffold, update_op, metrics, all_hooks, self._estimator.eval_dir()
            )

    def _build_and_evaluate(self, checkpoint: str, split: inputs.Split) -> dict[str, Any]:
        # The estimator has no public way to use a graph again. It is pinned with TensorFlow.
        build = self._estimator._evaluate_build_graph

        def build_and_keep(*arguments, **named):
            scaffold, update_op, metrics, all_hooks = build(*arguments, **named)
            if self._keeps:
                # Without a scaffold of its own each session would add operations that restore.
                scaffold = scaffold or tf.train.Scaffold()
                made = (scaffold, update_op, metrics, all_hooks)
                self._built = (tf.get_default_graph(), made)
            return scaffold, update_op, metrics, all_hooks

        self._estimator._evaluate_build_graph = build_and_keep
        return self._estimator.evaluate(
            input_fn=split.input().input_fn,
            # Without a number of steps, images beyond num_eval_images are counted and show.
            steps=self._steps if split.is_endless else None,
            checkpoint_path=checkpoint,
            hooks=[self.progress],
        )


def of_split(split: inputs.Split, params: Mapping[str, Any], build: Callable[[], Any]) -> Evaluator:
    """Returns the evaluator of a split, the same as before if the settings are.

    Args:
      split: the images.
      params: all settings.
      build: makes the estimator.
    """
    kept = _KEPT.get(split)
    if kept is None or not kept.fits(params):
        kept = _KEPT[split] = Evaluator(build(), params)
    return kept


def _that_matter(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings but for the one that changes within a run; evaluations ignore it."""
    return {name: value for name, value in params.items() if name != "init_checkpoint"}
