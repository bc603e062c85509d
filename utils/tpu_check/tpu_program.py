"""Lowers one TPU core's step to HLO, XLA's language, and examines it on a machine without a TPU.

HLO shows what a graph cannot: static shapes, custom calls, the precision of each convolution.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mnasnet_main
from utils.config import settings

import tensorflow.compat.v1 as tf  # isort: skip

Lowered = collections.namedtuple("Lowered", ["text", "proto"])


def tpu_params(**given: Any) -> dict[str, Any]:
    """Returns complete settings of a run on a TPU: the defaults with `given` over them.

    bfloat16 needs tf.layers, so it sets use_keras=False unless `given` says otherwise.
    """
    params = {**settings.default_params(), "use_tpu": True, "data_dir": "null"}
    params["save_checkpoints_steps"] = params["iterations_per_loop"]
    if given.get("precision") == "bfloat16":
        params["use_keras"] = False
    return {**params, **given}


def step_specs(params: Mapping[str, Any], batch_size: int | None) -> list[tf.TensorSpec]:
    """Returns the specs of the images and labels that one core takes.

    Args:
      params: complete settings.
      batch_size: images of one core; None for an unknown number.
    """
    size = params["input_image_size"]
    shape = [batch_size, size, size, 3]
    if params["transpose_input"]:
        shape = shape[1:] + shape[:1]
    dtype = tf.bfloat16 if params["precision"] == "bfloat16" else tf.float32
    return [tf.TensorSpec(shape, dtype), tf.TensorSpec([batch_size], tf.int32)]


def step(params: Mapping[str, Any], training: bool) -> Callable:
    """Returns the model function as a function (images, labels) -> the results of one core's step.

    The cross-replica sums are left out, because XLA lowers them only on a machine with a TPU, and
    so are the summaries, which the host writes. The tests of TPUEstimator's graph cover both.

    Args:
      params: complete settings.
      training: whether it is the step of a training, else of an evaluation.
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
    """Lowers a step to HLO, before any optimization for a device.

    Args:
      function: maps tensors to tensors; it may make variables.
      specs: shapes and dtypes of its arguments.

    Returns:
      (text, proto): HLO as text and as a serialized HloProto.

    Raises:
      ValueError, TypeError, tf.errors.OpError: XLA cannot lower the step, because it handles
        strings, decodes pictures, calls Python or has an unknown batch.
    """
    # Imported here, because the module is internal to TensorFlow. Only functions of version 2 can
    # be lowered, and the rest of the package runs with version 1's behaviour.
    import tensorflow as tf2
    from tensorflow.python.eager import context

    with context.eager_mode():
        wrapped = tf.wrap_function(function, list(specs))
        compiled = tf2.function(lambda *arguments: wrapped(*arguments), jit_compile=True)
        lowering = compiled.experimental_get_compiler_ir(*specs)
        return Lowered(lowering(stage="hlo"), lowering(stage="hlo_serialized"))


def convolutions(hlo: str) -> collections.Counter[str]:
    """Counts the convolutions in HLO text by the dtype of their result: f32, bf16."""
    return collections.Counter(re.findall(r"= (\w+)\[[^=\n]*\bconvolution\(", hlo))


def hlo_problems(hlo: str, precision: str) -> list[str]:
    """Returns sentences for what a TPU could not run in a step's HLO text, or not as intended."""
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
