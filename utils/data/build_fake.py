"""Random pictures for trying out a pipeline: `mnasnet-data fake`.

Their sizes are distributed like ImageNet's, and so are the bytes they take. The mean colour of a
picture depends on its class, so that a network can learn something.
"""

from __future__ import annotations

import colorsys
import functools
import random
from typing import Any, NamedTuple

import numpy as np

from utils.base.errors import UserError
from utils.data import picture_folders, pictures, shards, shared_arguments

NAME = "random pictures"
IMAGES_A_SHARD = 1024
# (share, width, height): the commonest sizes of ImageNet.
SIZES = (
    (0.40, 500, 375), (0.09, 375, 500), (0.08, 500, 333), (0.04, 333, 500), (0.02, 500, 500),
)  # fmt: skip
# The rest: (share, least and greatest longer side), uniform in its logarithm.
SPANS = ((0.340, 100, 500), (0.026, 500, 1000), (0.004, 1000, 4000))
QUALITY = 90
# At this quality, an amplitude of noise that gives JPEGs of 64 to 110 KB at 500 x 375.
_NOISE = (8, 28)
_TILE = 1024
NUM_LEVELS = 8
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru")


class Options(NamedTuple):
    """What the user chose; see the command line."""

    output_dir: str
    num_train: int = 1024
    num_validation: int = 128
    num_classes: int = 10
    seed: int = 0
    num_threads: int | None = None


def build(options: Options) -> None:
    """Builds the data set, or goes on with it.

    Raises:
      UserError: one class is none, or the output folder cannot be used.
    """
    if options.num_classes < 2:
        raise UserError(f"--num_classes={options.num_classes} is not possible: the least is 2.")
    pictures.require_pillow()
    names = ("num_train", "num_validation", "num_classes", "seed")
    builder = shards.builder("fake", **{name: getattr(options, name) for name in names})
    label_names = [label_name(label) for label in range(1, options.num_classes + 1)]
    description = shards.describe(NAME, builder, label_names, picture_folders.FEATURES)
    if shards.is_finished(options.output_dir, description):
        return
    plan = []
    for split, count in (
        (shards.TRAIN, options.num_train),
        (shards.VALIDATION, options.num_validation),
    ):
        rng = random.Random(f"{split} {options.seed}")
        # Every class in turn, so that none is missing where there are enough images.
        labels = [number % options.num_classes + 1 for number in range(count)]
        rng.shuffle(labels)
        items = [shards.Item(f"{split}_{n:08d}.JPEG", label) for n, label in enumerate(labels)]
        plan += shards.split(split, items, -(-count // IMAGES_A_SHARD))

    def make(item: shards.Item) -> shards.Made:
        picture = draw(f"{options.seed} {item.key}", item.label, options.num_classes)
        more = {"image/filename": item.key}
        return picture_folders.make_record(picture, item.label, label_names[item.label - 1], more)

    shards.build(options.output_dir, description, plan, make, 0, options.num_threads)


def label_name(label: int) -> str:
    """A pronounceable name of its own for each class."""
    return "".join(_SYLLABLES[int(digit)] for digit in f"{label:03d}")


def size(rng: random.Random) -> tuple[int, int]:
    """(width, height) drawn as in ImageNet."""
    at = rng.random()
    for share, width, height in SIZES:
        if at < share:
            return width, height
        at -= share
    shares = [share for share, _, _ in SPANS]
    _, least, greatest = rng.choices(SPANS, shares)[0]
    longer = round(least * (greatest / least) ** rng.random())
    shorter = max(32, round(longer * rng.uniform(0.65, 1.0)))
    return (longer, shorter) if rng.random() < 0.7 else (shorter, longer)


@functools.lru_cache(maxsize=1)
def _tiles() -> list[Any]:
    """Gray noise around 128 of growing amplitude, as RGB pictures [_TILE, _TILE]."""
    from PIL import Image

    noise = np.random.RandomState(0).standard_normal((_TILE, _TILE))
    return [
        Image.fromarray(np.clip(np.rint(128 + amplitude * noise), 0, 255).astype(np.uint8)).convert(
            "RGB"
        )
        for amplitude in np.linspace(*_NOISE, NUM_LEVELS)
    ]


def _noise(rng: random.Random, width: int, height: int, level: int) -> Any:
    """A piece of the noise; coarser in pictures that are larger than a tile."""
    scale = -(-max(width, height) // _TILE)
    across, down = -(-width // scale), -(-height // scale)
    left, top = rng.randrange(_TILE - across + 1), rng.randrange(_TILE - down + 1)
    piece = _tiles()[level].crop((left, top, left + across, top + down))
    return piece if scale == 1 else piece.resize((width, height))


def _colors(rng: random.Random, label: int, num_classes: int) -> bytes:
    """RGB bytes of a coarse picture of 4 x 3: shades of the class's hue."""
    hue = (label - 1) / num_classes
    shades = [
        colorsys.hsv_to_rgb(
            (hue + rng.uniform(-0.04, 0.04)) % 1, rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9)
        )
        for _ in range(12)
    ]
    return bytes(round(255 * value) for shade in shades for value in shade)


def image(
    rng: random.Random, width: int, height: int, level: int, label: int, num_classes: int
) -> Any:
    """Pillow's random picture of a class; `level` of the noise sets the bytes its JPEG takes."""
    from PIL import Image, ImageChops

    coarse = Image.frombytes("RGB", (4, 3), _colors(rng, label, num_classes))
    smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
    return ImageChops.add(smooth, _noise(rng, width, height, level), offset=-128)


def draw(seed: str, label: int, num_classes: int) -> pictures.Picture:
    """A random picture of a class; the same for the same arguments."""
    rng = random.Random(seed)
    width, height = size(rng)
    drawn = image(rng, width, height, rng.randrange(NUM_LEVELS), label, num_classes)
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
            f"--{name}", type=shared_arguments.count, default=Options._field_defaults[name],
            help=f"{what} (default: %(default)s)",
        )  # fmt: skip
    shared_arguments.add_building(parser)
    parser.set_defaults(run=lambda arguments: build(shared_arguments.options(Options, arguments)))
