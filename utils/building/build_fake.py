"""Makes a data set of random pictures, to try a pipeline out: `mnasnet-data fake`.

The sizes of the pictures are distributed like ImageNet's. A picture is noise over a colour whose
hue tells the class, so that a network can learn something.
"""

from __future__ import annotations

import colorsys
import random
from typing import Any, NamedTuple

from utils.base.errors import UserError
from utils.building import picture_folders, shards, shared_arguments
from utils.reading import pictures

NAME = "random pictures"
IMAGES_A_SHARD = 1024
# (share, width, height): the commonest sizes of ImageNet.
SIZES = (
    (0.40, 500, 375),
    (0.09, 375, 500),
    (0.08, 500, 333),
    (0.04, 333, 500),
    (0.02, 500, 500),
)
# The rest: (share, smallest and largest longer side), uniform in its logarithm.
SPANS = ((0.340, 100, 500), (0.026, 500, 1000), (0.004, 1000, 4000))
QUALITY = 90
# Of the noise in a picture: gives JPEGs of 65 KB at 500 x 375.
_NOISE_SHARE = 0.12


class FakeOptions(NamedTuple):
    """What the user chose; `add_command` explains each."""

    output_dir: str
    num_train: int = 1024
    num_validation: int = 128
    num_classes: int = 10
    seed: int = 0
    num_threads: int | None = None


def build(options: FakeOptions) -> None:
    """Builds the data set, or resumes an interrupted build.

    Raises:
      UserError: there are fewer than two classes, or the output folder cannot be used.
    """
    if options.num_classes < 2:
        raise UserError(f"--num_classes={options.num_classes} is invalid: it must be at least 2.")
    pictures.require_pillow()
    names = ("num_train", "num_validation", "num_classes", "seed")
    builder = shards.builder("fake", **{name: getattr(options, name) for name in names})
    label_names = [f"class_{number:03d}" for number in range(options.num_classes)]
    description = shards.describe(NAME, builder, label_names, picture_folders.FEATURES)
    if shards.is_finished(options.output_dir, description):
        return

    def make(item: shards.Item) -> shards.Made:
        picture = draw(f"{options.seed} {item.key}", item.label, options.num_classes)
        more = {"image/filename": item.key}
        return picture_folders.make_record(picture, item.label, label_names[item.label - 1], more)

    plan = [
        *_plan(options, shards.TRAIN, options.num_train),
        *_plan(options, shards.VALIDATION, options.num_validation),
    ]
    shards.build(options.output_dir, description, plan, make, 0, options.num_threads)


def _plan(options: FakeOptions, split: str, count: int) -> list[shards.Shard]:
    """Returns the files of a split, with its classes in random order."""
    # Every class in turn, so that none is missing if there are enough images.
    labels = [number % options.num_classes + 1 for number in range(count)]
    random.Random(f"{split} {options.seed}").shuffle(labels)
    items = [shards.Item(f"{split}_{n:08d}.JPEG", label) for n, label in enumerate(labels)]
    return shards.split(split, items, -(-count // IMAGES_A_SHARD))


def size(rng: random.Random) -> tuple[int, int]:
    """Draws (width, height) in pixels as ImageNet has them."""
    at = rng.random()
    for share, width, height in SIZES:
        if at < share:
            return width, height
        at -= share
    shares = [share for share, _, _ in SPANS]
    _, smallest, largest = rng.choices(SPANS, shares)[0]
    longer = round(smallest * (largest / smallest) ** rng.random())
    shorter = max(32, round(longer * rng.uniform(0.65, 1.0)))
    return (longer, shorter) if rng.random() < 0.7 else (shorter, longer)


def image(rng: random.Random, width: int, height: int, label: int, num_classes: int) -> Any:
    """Returns Pillow's random picture of a class: noise over a colour of the class's hue.

    Args:
      rng: decides on the noise, and how strong and bright the colour is.
      width: in pixels.
      height: in pixels.
      label: of the class, from 1 to `num_classes`.
      num_classes: among which the hues are divided.
    """
    from PIL import Image

    color = colorsys.hsv_to_rgb(
        (label - 1) / num_classes, rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)
    )
    plain = Image.new("RGB", (width, height), tuple(round(255 * value) for value in color))
    noise = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    return Image.blend(plain, noise.convert("RGB"), _NOISE_SHARE)


def draw(seed: str, label: int, num_classes: int) -> pictures.Picture:
    """Returns a random picture of a class; the same arguments give the same bytes."""
    rng = random.Random(seed)
    width, height = size(rng)
    drawn = image(rng, width, height, label, num_classes)
    return pictures.Picture(pictures.encode(drawn, QUALITY, subsampling=2), height, width, None)


def add_command(commands) -> None:
    """Adds `fake` to the commands."""
    text = "make TFRecords of random pictures, to try a pipeline out"
    parser = commands.add_parser("fake", help=text, description=text)
    parser.add_argument("--output_dir", required=True, help="folder or bucket for the files")
    for name, what in (
        ("num_train", "images for training"),
        ("num_validation", "images for evaluation"),
        ("num_classes", "classes"),
    ):
        parser.add_argument(
            f"--{name}",
            type=shared_arguments.count,
            default=FakeOptions._field_defaults[name],
            help=f"{what} (default: %(default)s)",
        )
    shared_arguments.add_building(parser, "the pictures and of the shuffling")
    shared_arguments.set_run(parser, build, FakeOptions)
