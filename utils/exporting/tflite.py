"""Converts a checkpoint's network to TensorFlow Lite files, and runs such files."""

from __future__ import annotations

import contextlib
import copy
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np

import preprocessing
from utils.base import program
from utils.base.errors import UserError
from utils.config import network
from utils.exporting import metadata

import tensorflow.compat.v1 as tf

# Names in the model function's graph: the normalized images, the logits.
NORMALIZED_NAME = "truediv"
LOGITS_NAME = "logits"
# Kind of file -> what its name ends with.
SUFFIXES = {"float32": "", "dynamic": "_postquant", "float16": "_float16", "int8": "_int8"}

# Smallest range of a quantized activation; those of a network that learned are 1 and more.
LEAST_RANGE = 0.01
# What reading a damaged file raises: flatbuffers have no verifier in Python.
_UNREADABLE = (
    ValueError,
    TypeError,
    IndexError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    tf.errors.OpError,
)


class Converter:
    """Converts a trained network, which is in an open session, to .tflite files.

    Attributes:
      contract: what the files take and give.
      preparation: how the caller of the files prepares a picture.
    """

    def __init__(self, session: tf.Session, params: Mapping[str, Any]):
        """Takes the session of a SavedModel, or of `restored`.

        Args:
          session: its graph is that of the model function, and its variables have their values.
          params: complete settings.
        """
        self._session = session
        self._size = params["input_image_size"]
        self._normalization = network.mean_and_stddev(params)
        self.contract = metadata.CONTRACTS[params["tflite_contract"]]
        self.preparation = preprocessing.Preparation.of(params)
        if self.contract.takes_normalized:
            mean, stddev = self._normalization
            self.preparation = self.preparation._replace(mean=mean, stddev=stddev)
        self._shared: tf.lite.TFLiteConverter | None = None

    def convert(self, kind: str, calibration: Iterable[np.ndarray] = ()) -> bytes:
        """Returns the network as the content of a .tflite file.

        Args:
          kind: 'float32', 'dynamic' (weights of 8 bits), 'float16' (weights of 16 bits), or 'int8'
            (integers throughout: uint8 input and output, no float operator).
          calibration: images, float [S, S, 3] in [0, 255], that set the ranges of an int8 file's
            activations.

        Returns:
          A file whose tensors and signature the contract does not name yet: `metadata.add`
          names them.

        Raises:
          UserError: the network cannot be converted to int8, or a float operator would be left.
        """
        mean, stddev = self.preparation.mean, self.preparation.stddev
        with program.hold_native_output():
            converter = self._converter()
            converter.optimizations = [] if kind == "float32" else [tf.lite.Optimize.DEFAULT]
            converter.target_spec = tf.lite.TargetSpec()
            if kind == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if kind != "int8":
                return converter.convert()
            batches = [
                ((image[None] - mean) / stddev).astype(np.float32)
                for image in _full_range(calibration)
            ]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            return _integers_alone(converter, batches)

    def _converter(self) -> tf.lite.TFLiteConverter:
        """Returns the converter, which all kinds of files share."""
        if self._shared is None:
            with tf.Graph().as_default(), tf.Session() as session:
                images, scores = self._graph_to_convert()
                self._shared = tf.lite.TFLiteConverter.from_session(session, [images], [scores])
        return self._shared

    def _graph_to_convert(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds the network with constant weights to the default graph; returns (input, output).

        The published normalization broadcasts three numbers over the pixels. On a phone this takes
        as long as a tenth of the network, because kernels run along the last axis, which is three
        long. The same numbers repeated over a row of pixels cost nothing that can be measured.
        """
        shape = [1, self._size, self._size, 3]
        images = normalized = tf.placeholder(tf.float32, shape, self.contract.input_name)
        if self.preparation.is_raw:
            mean, stddev = (
                np.tile(np.array(values, np.float32), [1, 1, self._size, 1])
                for values in self._normalization
            )
            normalized = (images - mean) / stddev
        (logits,) = tf.import_graph_def(
            self._constant_weights(),
            input_map={f"{NORMALIZED_NAME}:0": normalized},
            return_elements=[f"{LOGITS_NAME}:0"],
            name="network",
        )
        if self.contract.gives_probabilities:
            return images, tf.nn.softmax(logits, name=self.contract.output_name)
        return images, tf.identity(logits, self.contract.output_name)

    def _constant_weights(self) -> tf.GraphDef:
        """Returns the network's graph, from the normalized images on, with constant weights."""
        graph = self._session.graph.as_graph_def()
        # What makes images of pictures stays out, because nothing is left that leads there.
        (normalized,) = (node for node in graph.node if node.name == NORMALIZED_NAME)
        normalized.CopyFrom(
            tf.NodeDef(name=NORMALIZED_NAME, op="Placeholder", attr={"dtype": normalized.attr["T"]})
        )
        verbosity = tf.logging.get_verbosity()
        tf.logging.set_verbosity(tf.logging.ERROR)  # freezing logs that it is deprecated
        frozen = tf.graph_util.convert_variables_to_constants(self._session, graph, [LOGITS_NAME])
        tf.logging.set_verbosity(verbosity)
        return frozen


@contextlib.contextmanager
def restored(model_fn: Callable, params: Mapping[str, Any], checkpoint: str) -> Iterator[Converter]:
    """Yields the network of a checkpoint, in a session of its own.

    The variables are restored by their own names, not by those of averages.

    Args:
      model_fn: the model function of an estimator.
      params: complete settings.
      checkpoint: path of the checkpoint, such as a SavedModel's variables.

    Raises:
      ValueError, tf.errors.OpError: the checkpoint is missing or of another network.
    """
    size = params["input_image_size"]
    with tf.Graph().as_default():
        images = tf.placeholder(tf.float32, [1, size, size, 3])
        # Converters read channels_last float graphs; the weights are the same.
        params = {**params, "data_format": "channels_last", "use_tpu": False}
        model_fn(images, None, tf.estimator.ModeKeys.PREDICT, params)
        tf.train.get_or_create_global_step()
        with tf.Session() as session:
            tf.train.Saver().restore(session, checkpoint)
            yield Converter(session, params)


def _full_range(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Returns calibration images, float32 [S, S, 3], that span exactly 0 to 255.

    Phones feed pixels as they are, so a uint8 input of raw pixels must have scale 1 and zero point
    0, and one of normalized pixels must reach from black to white. Bicubic
    resizing overshoots these limits, and pictures without black or white fall short of them.
    """
    clipped = [np.clip(image, 0, 255).astype(np.float32) for image in images]
    if clipped:
        clipped[0][0, 0], clipped[0][-1, -1] = 0, 255
    return clipped


def _with_least_range(calibrated: bytes) -> bytes:
    """Widens the ranges of a calibrated model's activations to at least LEAST_RANGE.

    A squeeze-and-excite unit that died in training gives zeros for all images. The scale of its
    activations would underflow; XNNPACK then refuses the whole file, which runs at twice the
    latency without XNNPACK.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(calibrated, 0)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        found = tensor.quantization
        # Weights and integers have no range yet.
        if found is None or found.min is None or found.max is None:
            continue
        found.max = np.maximum(found.max, np.add(found.min, LEAST_RANGE)).astype(np.float32)
    builder = flatbuffers.Builder(len(calibrated))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _integers_alone(converter, batches: list[np.ndarray]) -> bytes:
    """Returns an int8 file with uint8 input and output; UserError names operators left in float.

    Args:
      converter: of the network; it keeps nothing of this.
      batches: what the network takes for the pictures that set the ranges.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    converter = copy.copy(converter)
    converter.representative_dataset = lambda: ([batch] for batch in batches)
    try:
        # What converter.convert() does, with a look at the ranges in between.
        converter._experimental_calibrate_only = True
        content = mlir_quantize(
            _with_least_range(converter.convert()),
            input_data_type=tf.uint8,
            output_data_type=tf.uint8,
        )
    except Exception as e:  # the converter has error types of its own
        text = " ".join(str(e).split())
        raise UserError(
            f"This network cannot be converted to int8 ({text[:200]}): leave int8 out of "
            "--quantize."
        ) from e
    left = float_operators(content)
    if left:
        raise UserError(
            f"The int8 file would keep the float operators {', '.join(left)}: leave int8 out "
            "of --quantize."
        )
    return content


def float_operators(content: bytes) -> list[str]:
    """Returns the names of a .tflite file's operators that read or write float tensors."""
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
    """Runs a .tflite classifier of this program.

    A file that takes normalized pixels says so in its metadata; `scores` normalizes for it.

    Attributes:
      contract: what the file takes and gives; None for a file of before contracts, whose output
        are logits.
      preparation: how pictures are prepared for it.
    """

    def __init__(self, path: str | None = None, content: bytes | None = None, num_threads: int = 1):
        """Reads a file, or takes its content.

        Raises:
          ValueError: the file is not a classifier of square pictures.
        """
        if content is None:
            with tf.io.gfile.GFile(path, "rb") as f:
                content = f.read()
        with program.hold_native_output():
            self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=num_threads)
            self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        _check_is_classifier(self._input["shape"].tolist(), self._output["shape"].tolist())
        self.contract = metadata.contract(content)
        self.preparation = metadata.preparation(content, int(self._input["shape"][1]))

    @property
    def num_classes(self) -> int:
        """Returns the width of the output."""
        return int(self._output["shape"][1])

    @property
    def gives_probabilities(self) -> bool:
        """Whether `scores` are probabilities; if not, they are logits."""
        return self.contract is not None and self.contract.gives_probabilities

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Returns the file's output, float32 [classes], for an image, float [S, S, 3] in [0, 255].

        The input of an integer file is quantized here, and its output dequantized. The contract
        says whether the scores are probabilities or logits.
        """
        return self.dequantized(self.run(self.prepared(image)))

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Returns the input tensor, [1, S, S, 3], for an image, float [S, S, 3] in [0, 255]."""
        kind = self._input["dtype"]
        if not self.preparation.is_raw:
            image = (image - self.preparation.mean) / self.preparation.stddev
        if kind != np.float32:
            scale, zero = self._input["quantization"]
            limits = np.iinfo(kind)
            image = np.clip(np.rint(image / scale + zero), limits.min, limits.max)
        return image[None].astype(kind)

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the output tensor, [1, classes], for an input tensor."""
        self._interpreter.set_tensor(self._input["index"], tensor)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def dequantized(self, output: np.ndarray) -> np.ndarray:
        """Returns the scores, float32 [classes], in an output tensor."""
        scores = output[0]
        if scores.dtype == np.float32:
            return scores
        scale, zero = self._output["quantization"]
        return (scores.astype(np.float32) - zero) * scale

    def run_again(self) -> None:
        """Runs the network alone on the image of the last call of `logits`, to measure it."""
        self._interpreter.invoke()


def _check_is_classifier(input_shape: list[int], output_shape: list[int]) -> None:
    is_picture = len(input_shape) == 4 and input_shape == [1, input_shape[1], input_shape[1], 3]
    if not is_picture or len(output_shape) != 2 or output_shape[0] != 1:
        raise ValueError(f"it maps {input_shape} to {output_shape}")


def _check_whole(content: bytes) -> None:
    """Reads every table of a .tflite file, which fails for a table that lies outside the file.

    The interpreter trusts the file: with one that is cut short, the process would end with a
    segmentation fault.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    if not schema.Model.ModelBufferHasIdentifier(content, 0):
        raise ValueError("it lacks the identifier TFL3")
    schema.ModelT.InitFromPackedBuf(content, 0)


def open_interpreter(path: str, num_threads: int = 1) -> Interpreter:
    """Returns an interpreter for a file; UserError if the file is not a .tflite classifier."""
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            content = f.read()
        _check_whole(content)
        return Interpreter(content=content, num_threads=num_threads)
    except _UNREADABLE as e:
        raise UserError(
            f"{path} is not a .tflite classifier of square RGB pictures: export it again."
        ) from e
