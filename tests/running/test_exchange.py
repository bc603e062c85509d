"""What the workers of a training exchange in a step, counted in the graph of one of two workers."""

from exports import settings_of

import mnasnet_main
from utils.workers import tasks

import tensorflow.compat.v1 as tf


def operations_before(last):
    found, waiting = {last}, [last]
    while waiting:
        operation = waiting.pop()
        before = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        waiting += before - found
        found |= before
    return found


def test_all_gradients_are_one_sum(tmp_path):
    params = settings_of(tmp_path, None, add_summaries=False, sync_batch_norm=True)
    # Nothing listens there: the graph is built, but does not run.
    task = tasks.Task(("127.0.0.1:1", "127.0.0.1:2"), 0)
    with task.in_environment():
        strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
        with strategy.scope():
            images, labels = tf.zeros([4, 32, 32, 3]), tf.zeros([4], tf.int32)
            tf.train.get_or_create_global_step()
            spec = strategy.extended.call_for_each_replica(
                tf.autograph.experimental.do_not_convert(mnasnet_main.mnasnet_model_fn),
                (images, labels, tf.estimator.ModeKeys.TRAIN, params),
            )
    sums = [op for op in operations_before(spec.train_op) if op.type.startswith("CollectiveReduce")]
    sizes = [op.inputs[0].shape.num_elements() for op in sums]
    variables = tf.trainable_variables()
    # Two statistics of each normalized layer, and their gradients.
    assert len(sums) == 1 + 2 * sum("/gamma" in variable.name for variable in variables) > 1
    assert max(sizes) == sum(variable.shape.num_elements() for variable in variables)
