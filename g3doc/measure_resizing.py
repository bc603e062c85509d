"""Measures what it costs to resize pictures with TensorFlow 1's kernels where PyTorch trained.

python -m g3doc.measure_resizing MODEL.tflite

timm and torchvision resize the shorter side with Pillow, whose kernels grow with the factor and so
average what is lost (antialiasing), and cut the centre out afterwards. This package cuts the centre
out and resizes it with TensorFlow 1's kernels, which look at 4 x 4 pixels whatever the factor. The
pictures are windows of the photographs of `mnasnet-data natural`, at full resolution. They have no
ImageNet labels, so the two preparations are compared with each other.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image

import preprocessing
from utils.base import program, tables
from utils.base.errors import UserError
from utils.data import build_photographs
from utils.exporting import tflite

import tensorflow.compat.v1 as tf  # isort: skip

SIDES = (256, 375, 512, 872)  # 375 is the shorter side of most pictures of ImageNet
WINDOWS = 30  # of each photograph that is large enough
HEADER = (
    "picture", "pixels for one", "windows", "same class", "class, surest", "probability", "grey",
)  # fmt: skip


def as_in_pytorch(picture: Image.Image, size: int, share: float) -> np.ndarray:
    """Returns a picture as timm prepares it for evaluation, float32 [size, size, 3]."""
    scale = int(size / share) / min(picture.size)
    resized = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)), np.float32)


class InTensorFlow:
    """Prepares pictures as this package does."""

    def __init__(self, size: int, share: float):
        """Builds the graph for inputs of a size and a share of the shorter side."""
        self._session = tf.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._bytes = tf.placeholder(tf.string, [])
            self._image = preprocessing.preprocess_for_eval(
                self._bytes, False, size, eval_crop_share=share
            )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Returns a picture prepared for evaluation, float32 [size, size, 3]."""
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return self._session.run(self._image, {self._bytes: stream.getvalue()})


def windows(side: int) -> Iterator[Image.Image]:
    """Yields square windows of the photographs that are larger, always the same ones."""
    for photograph in build_photographs.PHOTOGRAPHS:
        picture = build_photographs.read(photograph)
        if min(picture.size) < side:
            continue
        draw = random.Random(f"{photograph.label} {side}")
        for _ in range(WINDOWS):
            left = draw.randint(0, picture.width - side)
            top = draw.randint(0, picture.height - side)
            yield picture.crop((left, top, left + side, top + side))


def row(interpreter: tflite.Interpreter, side: int) -> list[str]:
    """Returns the cells under HEADER for pictures of one size."""
    size = interpreter.image_size
    share = interpreter.eval_crop_share or preprocessing.crop_share(size)
    prepare = InTensorFlow(size, share)
    same, sure, differences, greys = [], [], [], []
    for picture in windows(side):
        ours, theirs = prepare(picture), as_in_pytorch(picture, size, share)
        p, q = interpreter.scores(ours), interpreter.scores(theirs)
        same.append(int(np.argmax(p) == np.argmax(q)))
        if q.max() > 0.5:
            sure.append(same[-1])
        differences.append(np.abs(p - q).max())
        greys.append(np.abs(ours - theirs).mean())
    return [
        f"{side} x {side}", f"{side * share / size:.2f}", str(len(same)),
        f"{100 * np.mean(same):.1f} %", f"{100 * np.mean(sure):.1f} % of {len(sure)}",
        f"{np.mean(differences):.3f}", f"{np.mean(greys):.1f}",
    ]  # fmt: skip


def main(argv: list[str]) -> None:
    """Prints a table in Markdown."""
    if len(argv) != 2:
        raise UserError("Name one .tflite file with --tflite_contract=app: see the first lines.")
    interpreter = tflite.open_interpreter(argv[1])
    if not interpreter.gives_probabilities:
        raise UserError(f"{argv[1]} gives no probabilities: export it with --tflite_contract=app.")
    print(tables.markdown(HEADER, [row(interpreter, side) for side in SIDES]))


if __name__ == "__main__":
    program.run(main)
