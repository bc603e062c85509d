"""Builds the published recipe: learning-rate schedule, optimizer and averages."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow.compat.v1 as tf

# Internal; TensorFlow is pinned.
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import ops
from tensorflow.python.training import slot_creator

BASE_BATCH_SIZE = 256
_WEIGHTS = ("kernel", "depthwise_kernel", "bias", "gamma", "beta")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_KERNEL_ONLY = "KernelGradientOf"


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

    Moving means and variances differ between workers, which average them when they save. Their
    averages do as well: that gives the same numbers, as all of it is linear, without two more sums
    over the workers for each layer in every step.
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
            with tf.init_scope(), _like(variable):
                self._averages[variable.ref()] = slot_creator.create_slot(
                    variable,
                    variable.initial_value,
                    self.name,
                    colocate_with_primary=True,
                    copy_xla_sharding=True,
                )
                tf.add_to_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES, variable)
        unchanged = {variable.ref() for variable in constant}
        updated = [v for v in var_list if v.ref() not in unchanged]
        of_worker = [v for v in updated if _differs_between_workers(v)]
        if not of_worker:
            return super().apply(updated)
        common = super().apply([v for v in updated if not _differs_between_workers(v)])
        return tf.group(common, *self._updates(of_worker))

    def _updates(self, variables: Sequence[tf.Variable]) -> list[tf.Operation]:
        """Returns the operations that update averages in this worker alone."""
        steps = tf.cast(self._num_updates, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + steps) / (10.0 + steps))
        averages = [(self._averages[variable.ref()], variable) for variable in variables]
        return [
            average.assign_sub((average - variable) * (1.0 - decay))
            for average, variable in averages
        ]


def _differs_between_workers(variable: tf.Variable) -> bool:
    """Whether each of several workers has a value of its own."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas > 1 and variable.synchronization == tf.VariableSynchronization.ON_READ


def _like(variable: tf.Variable) -> contextlib.AbstractContextManager:
    """Returns a block whose new variables differ between workers if this one does."""
    if not _differs_between_workers(variable):
        return contextlib.nullcontext()
    how = {"synchronization": variable.synchronization, "aggregation": variable.aggregation}
    return tf.variable_creator_scope(lambda create, **given: create(**{**given, **how}))


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


def _kernel_only(convolution: str) -> None:
    """Registers a gradient of a kind of convolution that leaves out the gradient of its input."""
    whole = ops.gradient_registry.lookup(convolution)

    @tf.RegisterGradient(_KERNEL_ONLY + convolution)
    def kernel_only(op, gradient):
        return [None, whole(op, gradient)[1]]


for _convolution in _CONVOLUTIONS:
    _kernel_only(_convolution)


def _leave_out_unused_gradients() -> None:
    """Lets convolutions that no trained variable precedes compute the kernel's gradient alone.

    TensorFlow would compute the gradient of the images, or of the last frozen block's output, and
    throw it away: 3 % of a step of A1.
    """
    trained = {v.name.partition(":")[0] for v in tf.trainable_variables()}
    operations = tf.get_default_graph().get_operations()
    if not trained <= {op.name for op in operations}:
        return  # a function's graph, as XLA lowers it, has its variables elsewhere
    depends: dict[tf.Operation, bool] = {}
    for op in operations:  # in the order of their creation
        inputs = [tensor.op for tensor in op.inputs]
        depends[op] = op.name in trained or any(depends.get(source, False) for source in inputs)
        if op.type in _CONVOLUTIONS and not depends.get(inputs[0], True):
            kind = attr_value_pb2.AttrValue(s=(_KERNEL_ONLY + op.type).encode())
            op._set_attr("_gradient_op_type", kind)


def train_op(
    loss: tf.Tensor, rate: tf.Tensor, global_step: tf.Tensor, params: Mapping[str, Any]
) -> tf.Operation:
    """One step: gradients, batch-norm statistics, RMSProp, then the averages."""
    optimizer = _RMSProp(
        rate, params["rmsprop_decay"], params["momentum"], params["rmsprop_epsilon"]
    )
    if params["use_tpu"]:  # XLA leaves out by itself what nothing reads
        optimizer = tf.tpu.CrossShardOptimizer(optimizer)
    else:
        _leave_out_unused_gradients()
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        step = optimizer.minimize(loss, global_step)
    average = moving_average(params, global_step)
    if average is None:
        return step
    with tf.control_dependencies([step]):
        # Without the layers that features come from, their updates would be most of the step.
        constant = constant_variables() if params["cached_views"] else ()
        return average.apply(averaged_variables(), constant)
