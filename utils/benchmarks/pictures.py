"""Makes the pictures and the data set that benchmarks read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np

from utils.base.errors import UserError
from utils.reading import dataset_info, examples

import tensorflow.compat.v1 as tf  # isort: skip

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES_DIR = os.path.join(ROOT, "tests", "golden", "images")
WIDTH, HEIGHT = 500, 375
QUALITY = 95  # about 64 KB a picture


def make_pictures(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields JPEGs of 500 x 375 pixels: random crops of the photographs in tests/golden/images.

    Raises:
      UserError: the photographs are missing, because this is not a clone of the repository.
    """
    from PIL import Image

    if not os.path.isdir(IMAGES_DIR):
        raise UserError(f"{IMAGES_DIR} is missing: benchmarks run in a clone of the repository.")
    names = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
    photos = [Image.open(os.path.join(IMAGES_DIR, n)).convert("RGB") for n in names]
    rng = np.random.RandomState(seed)
    for number in range(count):
        photo = photos[number % len(photos)]
        width = rng.uniform(0.6, 1.0) * photo.width
        height = min(width * 3 / 4, photo.height)
        left = rng.uniform(0, photo.width - width)
        top = rng.uniform(0, photo.height - height)
        box = (left, top, left + width, top + height)
        encoded = io.BytesIO()
        photo.resize((WIDTH, HEIGHT), box=box).save(encoded, "JPEG", quality=QUALITY)
        yield encoded.getvalue()


def make_data(folder: str, num_images: int = 512, num_shards: int = 8) -> None:
    """Writes a data set of such pictures, with random labels of 1000 classes, into a folder."""
    pictures = list(make_pictures(num_images))
    rng = np.random.RandomState(1)
    for split in ("train", "validation"):
        for shard in range(num_shards):
            path = os.path.join(folder, f"{split}-{shard:05d}-of-{num_shards:05d}")
            with tf.io.TFRecordWriter(path) as writer:
                for picture in pictures[shard::num_shards]:
                    writer.write(examples.example(picture, rng.randint(1, 1001)))
    dataset_info.DatasetInfo("benchmark", num_images, num_images, 1000).write(folder)
