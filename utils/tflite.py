"""TensorFlow Lite: converting a checkpoint's network, and running a .tflite file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import utils.tensorflow_version  # noqa: F401
from utils import quiet
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


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
            self.logits = self._graph.get_tensor_by_name(f"{OUTPUT_NAME}:0")
            self.session = tf.Session()
            spec.scaffold_fn().saver.restore(self.session, checkpoint)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.session.close()

    def run(self, image: np.ndarray) -> np.ndarray:
        """Logits [classes] of one image [S, S, 3]."""
        return self.session.run(self.logits, {self.images: image[None]})[0]

    def convert(self, optimizations=()) -> bytes:
        """The network as a .tflite file's content."""
        with self._graph.as_default(), quiet.native_output():
            converter = tf.lite.TFLiteConverter.from_session(
                self.session, [self.images], [self.logits]
            )
            converter.optimizations = list(optimizations)
            return converter.convert()


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

    def run(self, image: np.ndarray) -> np.ndarray:
        """Logits [classes] of one image, float [S, S, 3] in [0, 255]."""
        self._interpreter.set_tensor(self._input["index"], image[None].astype(np.float32))
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])[0]


def open_interpreter(path: str, num_threads: int = 1) -> Interpreter:
    """An interpreter for a file; UserError if it is no .tflite classifier."""
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            return Interpreter(content=f.read(), num_threads=num_threads)
    except (ValueError, RuntimeError, tf.errors.OpError) as e:
        raise UserError(f"{path} is no .tflite classifier: export it again.") from e
