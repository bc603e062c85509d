"""The sample data set: scikit-learn's 1,797 handwritten digits as JPEG in TFRecords.

Real images that come with a package, so that a first training needs no network. Source:
E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository.
"""

from __future__ import annotations

import io
import os

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.data import shards
from utils.reading import examples

import tensorflow.compat.v1 as tf  # isort: skip

NUM_TRAIN_SHARDS = 4
EVAL_SHARE = 5  # one image in five
SIDE = 96
DIGIT_SIDE = 48  # within the centre crop at 64 pixels, which takes 64 / (64 + 32) of the side
PICTURES_DIR = "pictures"
LABEL_NAMES = tuple(str(digit) for digit in range(10))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8], dark on white, and labels 0..9."""
    try:
        from sklearn import datasets
    except ImportError as e:
        raise UserError("The sample data need scikit-learn: pip install scikit-learn.") from e
    digits = datasets.load_digits()
    images = np.rint(255 - digits.images * (255 / 16)).astype(np.uint8)
    return images, digits.target


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    digit = Image.fromarray(image).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    margin = (SIDE - DIGIT_SIDE) // 2
    picture.paste(digit.convert("RGB"), (margin, margin))
    picture.save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def build(output_dir: str) -> None:
    """Writes the data set: 80 % for training, 20 % for evaluation, every class in both.

    A folder that holds it already is left alone.
    """
    description = shards.describe(
        "handwritten digits (scikit-learn)", shards.builder("sample"), LABEL_NAMES
    )
    if shards.is_finished(output_dir, description):
        return
    images, labels = _digits()
    order = np.random.RandomState(0).permutation(len(images))
    order = order[np.argsort(labels[order], kind="stable")]
    is_eval = np.arange(len(order)) % EVAL_SHARE == 0
    rng = np.random.RandomState(1)
    plan = []
    for split, selected, num_shards in (
        (shards.TRAIN, order[~is_eval], NUM_TRAIN_SHARDS),
        (shards.VALIDATION, order[is_eval], 1),
    ):
        selected = rng.permutation(selected)
        for number in range(num_shards):
            name = f"{split}-{number:05d}-of-{num_shards:05d}"
            part = [shards.Item(str(i), int(labels[i]) + 1) for i in selected[number::num_shards]]
            plan.append(shards.Shard(name, part))

    def make(item: shards.Item) -> shards.Made:
        return shards.Made(examples.example(_jpeg(images[int(item.key)]), item.label))

    _write_pictures(output_dir, images, labels, order[is_eval])
    shards.build(output_dir, description, plan, make)


def _write_pictures(output_dir: str, images, labels, held_out) -> None:
    """Writes one held-out digit of each class as a picture file, to try a model on."""
    folder = os.path.join(output_dir, PICTURES_DIR)
    files.make_writable_dir(folder, "output_dir")
    for digit in range(len(LABEL_NAMES)):
        chosen = next(i for i in held_out if labels[i] == digit)
        with tf.io.gfile.GFile(os.path.join(folder, f"digit-{digit}.jpg"), "wb") as f:
            f.write(_jpeg(images[chosen]))


def add_sample(commands) -> None:
    text = "make the sample: scikit-learn's digits"
    sample = commands.add_parser("sample", help=text, description=text)
    sample.add_argument("--output_dir", required=True, help="folder for the files")
    sample.set_defaults(run=lambda arguments: build(arguments.output_dir))
