"""TensorFlow Lite: converting a checkpoint's network, and running a .tflite file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import utils.tensorflow_version  # noqa: F401
from utils import quiet
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
# Kind of file -> what its name ends with.
SUFFIXES = {"float32": "", "dynamic": "_postquant", "float16": "_float16", "int8": "_int8"}


class Network:
    """A checkpoint's network in a session of its own, with a static batch of one.

    Input `images` float32 [1, S, S, 3], RGB in [0, 255]: the normalization is inside. Output
    `logits` float32 [1, classes].
    """

    def __init__(self, model_fn, params: Mapping[str, Any], checkpoint: str):
        size = params["input_image_size"]
        self._graph = tf.Graph()
        with self._graph.as_default():
            self.images = tf.placeholder(tf.float32, [1, size, size, 3], INPUT_NAME)
            # Converters read channels_last float graphs; the weights are the same.
            params = {**params, "data_format": "channels_last", "use_tpu": False}
            tf.train.get_or_create_global_step()
            spec = model_fn(self.images, None, tf.estimator.ModeKeys.PREDICT, params)
            self._logits = self._graph.get_tensor_by_name(f"{OUTPUT_NAME}:0")
            self._session = tf.Session()
            spec.scaffold_fn().saver.restore(self._session, checkpoint)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._session.close()

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits [classes] of one image, float [S, S, 3] in [0, 255]."""
        return self._session.run(self._logits, {self.images: image[None]})[0]

    def convert(self, kind: str, calibration: Iterable[np.ndarray] = ()) -> bytes:
        """The network as a .tflite file's content.

        Args:
          kind: 'float32', 'dynamic' (weights of 8 bits), 'float16' (weights), or 'int8' (integers
            alone: uint8 input and output, no float operator).
          calibration: for int8, images float [S, S, 3] that set the ranges of the activations.

        Raises:
          UserError: a float operator would be left in an int8 file; it is named.
        """
        with self._graph.as_default(), quiet.native_output():
            converter = tf.lite.TFLiteConverter.from_session(
                self._session, [self.images], [self._logits]
            )
            if kind != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if kind == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if kind == "int8":
                images = [image[None].astype(np.float32) for image in calibration]
                converter.representative_dataset = lambda: ([image] for image in images)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = tf.uint8
                converter.inference_output_type = tf.uint8
            try:
                content = converter.convert()
            except Exception as e:  # the converter has error types of its own
                if kind != "int8":
                    raise
                text = " ".join(str(e).split())
                raise UserError(
                    f"This network cannot be converted to int8 ({text[:200]}): leave int8 out of "
                    "--quantize."
                ) from e
        left = float_operators(content) if kind == "int8" else []
        if left:
            raise UserError(
                f"The int8 file would keep the float operators {', '.join(left)}: leave int8 out "
                "of --quantize."
            )
        return content


def float_operators(content: bytes) -> list[str]:
    """Names of a .tflite file's operators that read or write float tensors."""
    # The schema's Python code, generated from the published flatbuffers schema.
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64}
    found = set()
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            tensors = [operator.Inputs(i) for i in range(operator.InputsLength())]
            tensors += [operator.Outputs(i) for i in range(operator.OutputsLength())]
            if any(t >= 0 and graph.Tensors(t).Type() in floats for t in tensors):
                code = model.OperatorCodes(operator.OpcodeIndex())
                found.add(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
    return sorted(found)


class Interpreter:
    """Runs a .tflite classifier of this package on one thread (unless told otherwise)."""

    def __init__(self, path: str | None = None, content: bytes | None = None, num_threads: int = 1):
        with quiet.native_output():
            self._interpreter = tf.lite.Interpreter(
                model_path=path, model_content=content, num_threads=num_threads
            )
            self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    @property
    def image_size(self) -> int:
        return int(self._input["shape"][1])

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits [classes] of one image, float [S, S, 3] in [0, 255].

        An integer file's input is quantized and its output dequantized here.
        """
        kind = self._input["dtype"]
        if kind != np.float32:
            scale, zero = self._input["quantization"]
            limits = np.iinfo(kind)
            image = np.clip(np.rint(image / scale + zero), limits.min, limits.max)
        self._interpreter.set_tensor(self._input["index"], image[None].astype(kind))
        self._interpreter.invoke()
        output = self._interpreter.get_tensor(self._output["index"])[0]
        if output.dtype != np.float32:
            scale, zero = self._output["quantization"]
            output = (output.astype(np.float32) - zero) * scale
        return output


def open_interpreter(path: str, num_threads: int = 1) -> Interpreter:
    """An interpreter for a file; UserError if it is no .tflite classifier."""
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            return Interpreter(content=f.read(), num_threads=num_threads)
    except (ValueError, RuntimeError, tf.errors.OpError) as e:
        raise UserError(f"{path} is no .tflite classifier: export it again.") from e
