"""Compares what a .tflite file gives in TensorFlow 2.15, in LiteRT and in MediaPipe."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import numpy as np

import preprocessing
from utils.base import files
from utils.base.errors import UserError
from utils.check_exports.worker import Worker
from utils.exporting import samples, tflite, tflite_metadata

import tensorflow.compat.v1 as tf  # isort: skip

TURNS = 50


@dataclasses.dataclass
class Picture:
    """Holds a picture as the two ways of preparation want it.

    Attributes:
      name: path of its file.
      path: .npy file of the whole picture, uint8 [H, W, 3].
      cropped: the picture as for evaluation, float32 [S, S, 3] in [0, 255].
      squeezed: the whole picture squeezed into a square, likewise.
    """

    name: str
    path: str
    cropped: np.ndarray
    squeezed: np.ndarray


@dataclasses.dataclass
class Agreement:
    """Says how well another runtime agrees with TensorFlow 2.15 on pictures.

    Attributes:
      same: number of pictures with the same best class.
      difference: largest difference of a score, as a share of the picture's largest score.
    """

    same: int
    difference: float


def read_pictures(
    paths: Sequence[str], classifier: tflite.Interpreter, folder: str
) -> list[Picture]:
    """Reads picture files and prepares them as a file of the export wants them.

    Args:
      paths: JPEG, PNG, GIF or BMP files.
      classifier: one of the export's files; all take pictures alike.
      folder: local folder for arrays.

    Raises:
      UserError: a file cannot be read or decoded.
    """
    found = []
    with tf.Graph().as_default(), tf.Session() as session:
        content = tf.placeholder(tf.string, [])
        whole = preprocessing.decode_whole(content)
        cropped = preprocessing.preprocess_image(
            content, image_size=classifier.image_size,
            resize_method=classifier.resize_method or "bicubic",
            eval_crop_share=classifier.eval_crop_share,
        )  # fmt: skip
        squeezed = samples.squeeze(content, classifier.image_size)
        for number, name in enumerate(paths):
            data = files.read_bytes(name)
            try:
                pixels, *inputs = session.run([whole, cropped, squeezed], {content: data})
            except tf.errors.OpError as e:
                raise UserError(f"{name} cannot be read as a picture: {files.reason(e)}.") from e
            path = os.path.join(folder, f"picture-{number}.npy")
            np.save(path, pixels)
            found.append(Picture(name, path, *inputs))
    return found


def _agreement(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Agreement:
    pairs = list(zip(expected, found, strict=True))
    return Agreement(
        sum(int(np.argmax(e) == np.argmax(f)) for e, f in pairs),
        max(float(np.abs(e - f).max() / max(1e-6, np.abs(e).max())) for e, f in pairs),
    )


class File:
    """Runs one .tflite file in TensorFlow 2.15 and, through a worker, in other runtimes."""

    def __init__(self, path: str, worker: Worker, pictures: Sequence[Picture], folder: str):
        """Opens a file; UserError if it is not a .tflite classifier."""
        self._path, self._worker, self._pictures = path, worker, pictures
        self._interpreter = tflite.open_interpreter(path)
        self._tensors = []
        for number, picture in enumerate(pictures):
            tensor = os.path.join(folder, f"{os.path.basename(path)}-{number}.npy")
            np.save(tensor, self._interpreter.prepared(picture.cropped))
            self._tensors.append(tensor)

    @property
    def takes_raw_pixels(self) -> bool:
        """Returns whether MediaPipe can feed the file.

        It refuses means and deviations that differ from channel to channel, and feeds pixels as
        they are to every file with a uint8 input.
        """
        return self._interpreter.takes_raw_pixels

    def in_litert(self) -> Agreement:
        """Compares LiteRT on the cropped pictures; UserError if it fails."""
        self._worker.ask("open_file", path=self._path)
        found = []
        for tensor in self._tensors:
            output = f"{tensor}.output.npy"
            self._worker.ask("run_file", tensor=tensor, output=output)
            found.append(self._interpreter.dequantized(np.load(output)))
        return _agreement([self._interpreter.scores(p.cropped) for p in self._pictures], found)

    def latencies(self) -> tuple[float, float]:
        """Returns the median seconds of a picture in TensorFlow 2.15 and in LiteRT.

        They take turns on one thread each, so that a disturbance meets both. LiteRT runs the file
        that `in_litert` opened.
        """
        ours, theirs = [], []
        for turn in range(TURNS):
            tensor = self._tensors[turn % len(self._tensors)]
            value = np.load(tensor)
            start = time.perf_counter()
            self._interpreter.run(value)
            ours.append(time.perf_counter() - start)
            theirs.append(self._worker.ask("run_file", tensor=tensor)["seconds"])
        return float(np.median(ours)), float(np.median(theirs))

    def in_mediapipe(self) -> Agreement:
        """Compares MediaPipe, which squeezes pictures, with this program on squeezed pictures.

        Raises:
          UserError: MediaPipe fails, or names a class otherwise than the file's label list.
        """
        paths = [picture.path for picture in self._pictures]
        answer = self._worker.ask("classify", path=self._path, pictures=paths)
        names = tflite_metadata.label_names(self._path)
        found = []
        for categories in answer["results"]:
            scores = np.zeros(self._interpreter.num_classes, np.float32)
            for index, name, score in categories:
                if names and name != names[index]:
                    raise UserError(
                        f"MediaPipe calls class {index} of {self._path} {name!r}, and its label "
                        f"list {names[index]!r}."
                    )
                scores[index] = score
            found.append(scores)
        return _agreement([self._interpreter.scores(p.squeezed) for p in self._pictures], found)
