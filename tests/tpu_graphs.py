"""Builds the graph that TPUEstimator would run on a TPU, and says what is wrong with it.

The graph is complete: replication, infeed, cross-replica sums, outfeed. No TPU is needed, because
only a session needs the device.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import mnasnet_main
from utils.training import inputs

import tensorflow.compat.v1 as tf


class _Built(Exception):
    """Ends an estimator's run once the graph is built."""


class _KeepGraph(tf.train.SessionRunHook):
    def begin(self):
        # The graph is complete and no session exists yet: all that follows needs the device.
        self.graph = tf.get_default_graph()
        raise _Built


def estimator_graph(
    params: Mapping[str, Any], training: bool, num_hosts: int = 1, cores_per_host: int = 8
) -> tf.Graph:
    """Builds the graph of the program's TPUEstimator for a TPU of that many hosts and cores.

    Args:
      params: complete settings with use_tpu; `tpu` is replaced. Training needs a model_dir.
      training: whether it is the graph of the training, else of the evaluation.
      num_hosts: machines that feed the cores.
      cores_per_host: cores that each of them feeds.
    """
    addresses = [f"10.0.0.{host + 1}:8470" for host in range(num_hosts)]
    params = {**params, "tpu": "grpc://" + ",".join(addresses)}
    estimator = mnasnet_main.build_estimator(params, training)
    input_fn = inputs.Split(params, training).input().input_fn
    return built_graph(estimator, input_fn, training, num_hosts, cores_per_host)


def built_graph(
    estimator: tf.estimator.tpu.TPUEstimator,
    input_fn: Callable,
    training: bool,
    num_hosts: int,
    cores_per_host: int,
) -> tf.Graph:
    """Builds the graph of any TPUEstimator; see `estimator_graph`."""
    metadata = tf.tpu.experimental.TPUSystemMetadata(
        num_cores=num_hosts * cores_per_host,
        num_hosts=num_hosts,
        num_of_cores_per_host=cores_per_host,
        topology=None,
        devices=(),
    )
    # The estimator asks the TPU what it is, once, and keeps the answer here.
    for master in {estimator.config.master, estimator.config.evaluation_master}:
        estimator._ctx._lazy_tpu_system_metadata_dict[master] = metadata
    hook = _KeepGraph()
    try:
        if training:
            estimator.train(input_fn, max_steps=1, hooks=[hook])
        else:
            # Any name will do: it is read when a session starts.
            estimator.evaluate(input_fn, steps=1, hooks=[hook], checkpoint_path="unread")
    except _Built:
        return hook.graph
    raise AssertionError("the estimator returned without building a graph")


def replicas(graph: tf.Graph) -> int:
    """Returns the number of copies of the step: the cores of all hosts."""
    (metadata,) = operations(graph, "TPUReplicateMetadata")
    return metadata.get_attr("num_replicas")


def operations(graph: tf.Graph, kind: str) -> list[tf.Operation]:
    """Returns the operations of one type."""
    return [op for op in graph.get_operations() if op.type == kind]


def replicated(graph: tf.Graph) -> list[tf.Operation]:
    """Returns the operations that run on every core."""
    return [op for op in graph.get_operations() if "_tpu_replicate" in op.node_def.attr]


class Infeed(NamedTuple):
    """Describes what one core takes at a step, and who feeds it."""

    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[tf.DType, ...]
    host: str
    core: int


def infeeds(graph: tf.Graph) -> list[Infeed]:
    """Returns the infeed of every core."""
    return [
        Infeed(
            shapes=tuple(tuple(tensor.shape.as_list()) for tensor in op.inputs),
            dtypes=tuple(tensor.dtype for tensor in op.inputs),
            host=op.device.rpartition("/device:")[0],
            core=op.get_attr("device_ordinal"),
        )
        for op in operations(graph, "InfeedEnqueueTuple")
    ]


# Types of operations that only hosts run. Those with strings need no list: their dtypes tell.
_HOST_ONLY = re.compile(
    r"Summary|PyFunc|Jpeg|Png|DecodeImage|^Print|Iterator|Dataset|^Save|^Restore"
)


def _is_cudnn_workspace(op: tf.Operation, tensor: tf.Tensor) -> bool:
    """Whether a tensor is batch norm's output for GPUs, which has no shape (or its gradient)."""
    if op.type == "ZerosLike":
        return _is_cudnn_workspace(op.inputs[0].op, op.inputs[0])
    return op.type.startswith("FusedBatchNorm") and tensor.value_index == 5


def graph_problems(ops: Iterable[tf.Operation]) -> list[str]:
    """Returns sentences for what a core could not run among operations, or not at full speed."""
    problems = []
    for op in ops:
        if _HOST_ONLY.search(op.type):
            problems.append(f"{op.name} ({op.type}) runs on hosts only")
        for tensor in op.outputs:
            if _is_cudnn_workspace(op, tensor):
                continue
            if tensor.dtype.base_dtype == tf.string:
                problems.append(f"{op.name} ({op.type}) gives strings")
            elif tensor.dtype.base_dtype in (tf.float64, tf.complex128):
                problems.append(f"{op.name} ({op.type}) computes in {tensor.dtype.name}")
            elif tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
                problems.append(f"{op.name} ({op.type}) has the unknown shape {tensor.shape}")
    return problems
