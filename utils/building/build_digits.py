"""Makes the sample data set, scikit-learn's 1,797 handwritten digits: `mnasnet-data sample`.

The digits are real images that come with a package, so a first training needs no network. Source:
E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository.
"""

from __future__ import annotations

import numpy as np

from utils.base.errors import UserError
from utils.building import picture_folders, shards
from utils.reading import examples, pictures

NUM_TRAIN_SHARDS = 4
EVAL_SHARE = 5  # one image in five
SIDE = 96
DIGIT_SIDE = 48  # within the centre crop at 64 pixels, which takes 64 / (64 + 32) of the side
QUALITY = 92
LABEL_NAMES = tuple(str(digit) for digit in range(10))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [1797, 8, 8], dark on white, and labels 0..9."""
    try:
        from sklearn import datasets
    except ImportError as e:
        raise UserError("The sample data set needs scikit-learn: pip install scikit-learn.") from e
    digits = datasets.load_digits()
    images = np.rint(255 - digits.images * (255 / 16)).astype(np.uint8)
    return images, digits.target


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    digit = Image.fromarray(image).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    margin = (SIDE - DIGIT_SIDE) // 2
    picture.paste(digit.convert("RGB"), (margin, margin))
    return pictures.encode(picture, QUALITY, subsampling=2)


def build(output_dir: str) -> None:
    """Writes the data set: 80 % for training, 20 % for evaluation, every class in both.

    A folder that holds the data set already is left alone. One digit of each class that is held out
    of training goes to a picture file, to try a model on.

    Raises:
      UserError: scikit-learn is not installed, or the folder cannot be used.
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
    plan = [
        *_plan(shards.TRAIN, NUM_TRAIN_SHARDS, rng.permutation(order[~is_eval]), labels),
        *_plan(shards.VALIDATION, 1, rng.permutation(order[is_eval]), labels),
    ]

    def make(item: shards.Item) -> shards.Made:
        return shards.Made(examples.example(_jpeg(images[int(item.key)]), item.label))

    held_out = {labels[i]: images[i] for i in reversed(order[is_eval])}
    picture_folders.write_samples(
        output_dir, {f"digit-{digit}.jpg": _jpeg(held_out[digit]) for digit in sorted(held_out)}
    )
    shards.build(output_dir, description, plan, make)


def _plan(split: str, num_shards: int, order: np.ndarray, labels: np.ndarray) -> list[shards.Shard]:
    """Deals the digits of a split out to its files, one after the other."""
    items = [shards.Item(str(i), int(labels[i]) + 1) for i in order]
    return [
        shards.Shard(shards.file_name(split, number, num_shards), items[number::num_shards])
        for number in range(num_shards)
    ]


def add_command(commands) -> None:
    """Adds `sample` to the commands."""
    text = "make the sample: scikit-learn's digits"
    sample = commands.add_parser("sample", help=text, description=text)
    sample.add_argument("--output_dir", required=True, help="folder for the files")
    sample.set_defaults(run=lambda arguments: build(arguments.output_dir))
