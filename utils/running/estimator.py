"""The estimator of a run: from its settings, on a TPU or with one or several workers.

TPUEstimator would build its graphs anew for each interval between evaluations, which takes longer
than a few hundred steps of a small network. Here the graphs stay, sessions are new, and random
numbers and input start as in a run that was interrupted there. So a run gives the same weights and
metrics either way. The estimator has no public way to use a graph again; it is pinned with
TensorFlow.

Several workers train through MultiWorkerMirroredStrategy: TensorFlow sums the gradients of all
workers in every step. Each has its part of the batch, the same graph and the same weights.
TPUEstimator does not divide the batch for this strategy.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import imagenet_input
from utils.base import files
from utils.base.errors import UserError
from utils.training import devices, hooks, inputs
from utils.workers import tasks
from utils.workers.rendezvous import WorkerLost

import tensorflow.compat.v1 as tf

ModeKeys = tf.estimator.ModeKeys
# How a worker learns of a lost one.
_LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def build(params: Mapping[str, Any], training: bool, model_fn: Callable[..., Any]) -> Estimator:
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
        how.update(_of_workers(params))
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
    estimator = Estimator(
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
        # TensorFlow would first rewrite the source of every function that the model function calls,
        # for control flow that it does not use: seconds of each worker's start. An attribute,
        # because TensorFlow forbids a subclass to have a method of this name.
        estimator._call_model_fn = tf.autograph.experimental.do_not_convert(
            estimator._call_model_fn
        )
    return estimator


def _of_workers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of RunConfig that make a training one of several workers.

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


def train(
    estimator: tf.estimator.Estimator,
    source: imagenet_input.ImageNetTFExampleInput,
    until: int,
    hooks: Sequence[tf.train.SessionRunHook],
) -> None:
    """Trains to a global step, alone or as one of several workers.

    Args:
      estimator: of `build`, for a training.
      source: the training images; each worker reads its share of them.
      until: the global step.
      hooks: of this process.

    Raises:
      WorkerLost: another worker ended, or cannot be reached.
    """
    if tasks.current().count == 1:
        estimator.train(input_fn=source.input_fn, max_steps=until, hooks=list(hooks))
        return
    input_fn = _share_of_worker(source.input_fn)
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


def _share_of_worker(input_fn: Callable) -> Callable:
    """Returns an input function that reads the share of a worker, as TensorFlow names it."""

    def share(params, input_context=None):
        if input_context is None:
            return input_fn(params)
        return input_fn({**params, "context": _InputContext(input_context)})

    return share


class _InputContext:
    """A worker's share in the words of TPUEstimator's context."""

    def __init__(self, context: tf.distribute.InputContext):
        self.num_hosts = context.num_input_pipelines
        self._index = context.input_pipeline_id

    def current_input_fn_deployment(self):
        """Returns a tuple whose second entry is the number of this worker."""
        return None, self._index


class _Training(NamedTuple):
    """What the estimator made for its first training."""

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
        hooks.open_writer(self._estimator.eval_dir())
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
