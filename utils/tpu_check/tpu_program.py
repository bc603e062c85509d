"""The program that a TPU would run, built and examined on a machine without one.

Two views of it. `estimator_graph` builds TPUEstimator's complete graph: replication, infeed,
cross-replica sums, outfeed. `lower` compiles one core's step to HLO, XLA's language, which shows
what the graph cannot: static shapes, custom calls, the precision of each convolution. `*_problems`
say in sentences what a TPU would not run, or not run well.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import mnasnet_main
from utils.config import settings
from utils.training import inputs

import tensorflow.compat.v1 as tf  # isort: skip

Lowered = collections.namedtuple("Lowered", ["text", "proto"])


def tpu_params(**given: Any) -> dict[str, Any]:
    """Complete settings of a run on a TPU; bfloat16 brings the layers that it needs."""
    params = {**settings.default_params(), "use_tpu": True, "data_dir": "null"}
    params["save_checkpoints_steps"] = params["iterations_per_loop"]
    if given.get("precision") == "bfloat16":
        params["use_keras"] = False
    return {**params, **given}


# The estimator's graph.


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
    """The graph that the program's TPUEstimator builds for a TPU of that many hosts and cores.

    Args:
      params: complete settings with use_tpu; `tpu` is replaced. Training needs a model_dir.
      training: the training graph, else the evaluation's.
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
    """The graph of any TPUEstimator; see `estimator_graph`."""
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
    """Copies of the step: cores over all hosts."""
    (metadata,) = operations(graph, "TPUReplicateMetadata")
    return metadata.get_attr("num_replicas")


def operations(graph: tf.Graph, kind: str) -> list[tf.Operation]:
    """Operations of one type."""
    return [op for op in graph.get_operations() if op.type == kind]


def replicated(graph: tf.Graph) -> list[tf.Operation]:
    """Operations that run on every core."""
    return [op for op in graph.get_operations() if "_tpu_replicate" in op.node_def.attr]


class Infeed(NamedTuple):
    """What one core takes at a step: shapes and dtypes of its tensors, and who feeds it."""

    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[tf.DType, ...]
    host: str
    core: int


def infeeds(graph: tf.Graph) -> list[Infeed]:
    """The infeed of every core."""
    return [
        Infeed(
            shapes=tuple(tuple(tensor.shape.as_list()) for tensor in op.inputs),
            dtypes=tuple(tensor.dtype for tensor in op.inputs),
            host=op.device.rpartition("/device:")[0],
            core=op.get_attr("device_ordinal"),
        )
        for op in operations(graph, "InfeedEnqueueTuple")
    ]


# Op types that belong to the host. Where dtypes tell (strings), no list is needed.
_HOST_ONLY = re.compile(
    r"Summary|PyFunc|Jpeg|Png|DecodeImage|^Print|Iterator|Dataset|^Save|^Restore"
)


def _is_cudnn_workspace(op: tf.Operation, tensor: tf.Tensor) -> bool:
    """Batch norm's last output is for GPUs: TensorFlow gives it, and its gradient, no shape."""
    if op.type == "ZerosLike":
        return _is_cudnn_workspace(op.inputs[0].op, op.inputs[0])
    return op.type.startswith("FusedBatchNorm") and tensor.value_index == 5


def graph_problems(ops: Iterable[tf.Operation]) -> list[str]:
    """What a core of a TPU could not run among operations, or not at full speed."""
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


# One core's step in HLO.


def step_specs(params: Mapping[str, Any], batch_size: int | None) -> list[tf.TensorSpec]:
    """Images and labels as one core takes them; batch_size is a core's."""
    size = params["input_image_size"]
    shape = [batch_size, size, size, 3]
    if params["transpose_input"]:
        shape = shape[1:] + shape[:1]
    dtype = tf.bfloat16 if params["precision"] == "bfloat16" else tf.float32
    return [tf.TensorSpec(shape, dtype), tf.TensorSpec([batch_size], tf.int32)]


def step(params: Mapping[str, Any], training: bool) -> Callable:
    """The model function as a function (images, labels) -> what one core's step gives.

    Without the cross-replica sums, which XLA can lower on a machine with a TPU only, and without
    summaries, which are the host's. `graph_problems` and the sums' number cover those.
    """
    mode = tf.estimator.ModeKeys.TRAIN if training else tf.estimator.ModeKeys.EVAL
    transposed = params["transpose_input"]
    params = {**params, "use_tpu": False, "add_summaries": False, "model_dir": None}

    def run(images, labels):
        if transposed:  # what the model function does with use_tpu alone
            images = tf.transpose(images, [3, 0, 1, 2])
        spec = mnasnet_main.mnasnet_model_fn(images, labels, mode, params)
        if not training:
            return spec.loss, spec.eval_metrics[1]
        with tf.control_dependencies([spec.train_op]):
            return tf.identity(spec.loss)

    return run


def lower(function: Callable, specs: Sequence[tf.TensorSpec]) -> Lowered:
    """Compiles a step to HLO, before any optimization for a device.

    Args:
      function: tensors to tensors; it may make variables.
      specs: of its arguments.

    Returns:
      (text, proto): HLO as text and as a serialized HloProto.

    Raises:
      ValueError, TypeError, tf.errors.OpError: XLA cannot compile it (strings, pictures, Python,
        an unknown batch).
    """
    # Imported here: internal to TensorFlow. Lowering is only offered to functions of version 2,
    # and the rest of the package runs with version 1's behaviour.
    import tensorflow as tf2
    from tensorflow.python.eager import context

    with context.eager_mode():
        wrapped = tf.wrap_function(function, list(specs))
        compiled = tf2.function(lambda *arguments: wrapped(*arguments), jit_compile=True)
        lowering = compiled.experimental_get_compiler_ir(*specs)
        return Lowered(lowering(stage="hlo"), lowering(stage="hlo_serialized"))


def convolutions(hlo: str) -> collections.Counter[str]:
    """Convolutions in HLO text by the dtype of their result: f32, bf16."""
    return collections.Counter(re.findall(r"= (\w+)\[[^=\n]*\bconvolution\(", hlo))


def hlo_problems(hlo: str, precision: str) -> list[str]:
    """What in a step's HLO text a TPU could not run, or not as intended."""
    problems = [
        f"custom call {target}" for target in re.findall(r"custom_call_target=\"(\w+)\"", hlo)
    ] or (["custom call"] if "custom-call" in hlo else [])
    bounded = re.findall(r"\w+\[[\d,]*<=[\d,<=]*\]", hlo)
    if bounded:
        problems.append(f"shapes that depend on the data, such as {bounded[0]}")
    if re.search(r"\b(f64|c128)\[", hlo):
        problems.append("numbers of 64 bits")
    dtype = {"float32": "f32", "bfloat16": "bf16"}[precision]
    others = {k: n for k, n in convolutions(hlo).items() if k != dtype}
    if others:
        problems.append(f"convolutions that are not {dtype}: {others}")
    return problems
