"""Builds the published recipe: learning-rate schedule, optimizer and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import utils.base.tensorflow_version  # noqa: F401

import tensorflow.compat.v1 as tf  # isort: skip
from tensorflow.python.training import slot_creator  # isort: skip  (internal; TensorFlow is pinned)

BASE_BATCH_SIZE = 256
_WEIGHTS = ("kernel", "depthwise_kernel", "bias", "gamma", "beta")


def steps_per_epoch(params: Mapping[str, Any]) -> float:
    """Returns the training steps an epoch, not rounded."""
    return params["num_train_images"] / params["train_batch_size"]


def learning_rate(global_step: tf.Tensor, params: Mapping[str, Any]) -> tf.Tensor:
    """Returns the learning rate of a step, a float32 scalar.

    It rises linearly from 0, then falls in a staircase of powers that is counted from step 0.
    """
    peak = params["base_learning_rate"] * params["train_batch_size"] / BASE_BATCH_SIZE
    epoch = steps_per_epoch(params)
    step = tf.cast(global_step, tf.float32)
    decayed = peak * tf.pow(
        tf.constant(params["lr_decay_rate"], tf.float32),
        tf.floor(step / (params["lr_decay_epochs"] * epoch)),
    )
    warmup_steps = int(params["warmup_epochs"] * epoch)
    if warmup_steps == 0:
        return decayed
    return tf.where(step < warmup_steps, peak * step / warmup_steps, decayed)


def regularized_variables() -> list[tf.Variable]:
    """Returns the variables under weight decay: all trainable ones but batch normalization's.

    Biases are included, as in the published program.
    """
    return [v for v in tf.trainable_variables() if "batch_normalization" not in v.name]


def frozen_variables() -> list[tf.Variable]:
    """Returns the weights that do not train, as `GlobalParams.frozen` says."""
    # By name, not by v.op, which variables lack where XLA lowers the step (utils.tpu_check).
    trained = {v.name for v in tf.trainable_variables()}
    return [
        v
        for v in tf.global_variables()
        if v.name.partition(":")[0].rpartition("/")[2] in _WEIGHTS and v.name not in trained
    ]


def averaged_variables() -> list[tf.Variable]:
    """Returns the variables that have a moving average: weights, and moving means and variances.

    Frozen ones too: a checkpoint has the same variables whatever is frozen, and their averages
    stay what they are, or go to the weights that they were made of.
    """
    variables = [*tf.trainable_variables(), *frozen_variables()]
    variables += [
        v
        for v in tf.global_variables()
        if ("moving_mean" in v.name or "moving_variance" in v.name)
        and "ExponentialMovingAverage" not in v.name
        and v not in variables
    ]
    return variables


def constant_variables() -> list[tf.Variable]:
    """Returns the variables with a moving average that no step changes.

    If all layers but the classifier are frozen, these are the frozen weights and all moving means
    and variances.
    """
    trained = {v.name for v in tf.trainable_variables()}
    return [v for v in averaged_variables() if v.name not in trained]


class _Averages(tf.train.ExponentialMovingAverage):
    """Averages that start at the initial value of their variable.

    TensorFlow's own ask, in the graph, whether the variable is set already. It never is: averages
    are initialized in the run that initializes the variables, or all are restored. The questions
    are a third of the operations of a training graph.
    """

    def apply(self, var_list=None, constant=()):
        """Makes averages of variables, and returns the operation that updates them.

        Args:
          var_list: the variables.
          constant: those among them that are equal to their averages, and stay so.
        """
        # Where XLA lowers the step (utils.tpu_check), variables have no initial value.
        in_graph = not tf.executing_eagerly_outside_functions()
        for variable in var_list if in_graph else ():
            with tf.init_scope():
                self._averages[variable.ref()] = slot_creator.create_slot(
                    variable, variable.initial_value, self.name,
                    colocate_with_primary=True, copy_xla_sharding=True,
                )  # fmt: skip
                tf.add_to_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES, variable)
        unchanged = {variable.ref() for variable in constant}
        return super().apply([v for v in var_list if v.ref() not in unchanged])


def moving_average(
    params: Mapping[str, Any], global_step: tf.Tensor | None = None
) -> tf.train.ExponentialMovingAverage | None:
    """Returns the averages, or None if `moving_average_decay` is 0."""
    if params["moving_average_decay"] == 0:
        return None
    return _Averages(params["moving_average_decay"], global_step)


class _RMSProp(tf.train.RMSPropOptimizer):
    """RMSProp with slots, at their initial values, for frozen variables.

    So a checkpoint has the same variables whatever is frozen, and training can resume from it with
    other layers frozen, or none, here or in the published program.
    """

    def _create_slots(self, var_list):
        super()._create_slots([*var_list, *frozen_variables()])


def train_op(
    loss: tf.Tensor, rate: tf.Tensor, global_step: tf.Tensor, params: Mapping[str, Any]
) -> tf.Operation:
    """One step: gradients, batch-norm statistics, RMSProp, then the averages."""
    optimizer = _RMSProp(
        rate, params["rmsprop_decay"], params["momentum"], params["rmsprop_epsilon"]
    )
    if params["use_tpu"]:
        optimizer = tf.tpu.CrossShardOptimizer(optimizer)
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        step = optimizer.minimize(loss, global_step)
    average = moving_average(params, global_step)
    if average is None:
        return step
    with tf.control_dependencies([step]):
        # Without the layers that features come from, their updates would be most of the step.
        constant = constant_variables() if params["cached_views"] else ()
        return average.apply(averaged_variables(), constant)
