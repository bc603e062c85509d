"""Makes a data set of natural pictures, crops of eleven photographs: `mnasnet-data natural`.

Each photograph is a class. Fine-tuning is for such data: few pictures of one's own classes, 40 a
class. The photographs come with scikit-image and matplotlib, and all are CC0 or in the public
domain:

  astronaut  E. Collins, by NASA; public domain
  bricks     CC0Textures, Bricks25; CC0
  cameraman  by Lav Varshney; CC0
  cat        Chelsea, by Stefan van der Walt; CC0
  espresso   pikolo espresso, by Rachel Michetti; CC0
  galaxies   the Hubble eXtreme Deep Field, by NASA; public domain
  grass      by linolafett, DeviantArt; CC0
  gravel     CC0Textures, Gravel04; CC0
  officer    Grace M. Hopper, by James S. Davis, US Navy; public domain (matplotlib)
  retina     by Mikael Häggström, Wikimedia Commons; CC0
  rocket     a Falcon 9 on its pad, by SpaceX; public domain

(The other pictures of scikit-image state no licence or "no known restrictions"; those of
scikit-learn ask for attribution.)

Training and validation crops come from disjoint regions. A photograph is divided into 5 x 5 cells,
and every crop lies inside one cell. The five cells of `EVAL_COLUMNS`, one in each row and each
column, are for validation, the other twenty for training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Sequence

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.building import picture_folders, shards
from utils.reading import examples, pictures

GRID = 5
EVAL_COLUMNS = (2, 0, 3, 1, 4)  # by row: a knight's moves, so that no two of them touch
TRAIN_CROPS = 2  # a cell
EVAL_CROPS = 6
SMALLEST_SIDE = 0.75  # of a crop, relative to its cell's shorter side
SIDE = 160  # the centre crop at 128 pixels, which takes 128 / (128 + 32) of it, is not resized
NUM_TRAIN_SHARDS = 4
QUALITY = 92


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A picture in an installed package.

    Attributes:
      label: name of its class.
      package: the package's import name.
      path: within the package.
      sha256: of the file. Other releases may ship another picture, under another licence.
    """

    label: str
    package: str
    path: str
    sha256: str


def _skimage(label: str, name: str, sha256: str) -> Photograph:
    """Returns a photograph of scikit-image."""
    return Photograph(label, "skimage", f"data/{name}", sha256)


PHOTOGRAPHS = (
    _skimage(
        "astronaut",
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    _skimage(
        "bricks", "brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"
    ),
    _skimage(
        "cameraman",
        "camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    _skimage(
        "cat", "chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"
    ),
    _skimage(
        "espresso", "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"
    ),
    _skimage(
        "galaxies",
        "hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    _skimage(
        "grass", "grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"
    ),
    _skimage(
        "gravel", "gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"
    ),
    Photograph(
        "officer",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    ),
    _skimage(
        "retina", "retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"
    ),
    _skimage(
        "rocket", "rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"
    ),
)

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside


def read(photograph: Photograph):
    """Returns the photograph as Pillow's picture in RGB.

    Raises:
      UserError: its package is not installed, or holds another picture.
    """
    from PIL import Image

    path = files.in_package(photograph.package, photograph.path)
    if path is None:
        raise UserError(
            f"The natural pictures need {photograph.path} of the package {photograph.package}: "
            "run pip install 'scikit-image>=0.22' matplotlib, or make setup."
        )
    with open(path, "rb") as f:
        content = f.read()
    if hashlib.sha256(content).hexdigest() != photograph.sha256:
        raise UserError(
            f"{path} is not the picture that the data set is made of: install the versions of "
            "scikit-image and matplotlib that requirements.txt names."
        )
    return Image.open(io.BytesIO(content)).convert("RGB")


def cells(size: tuple[int, int]) -> tuple[list[Box], list[Box]]:
    """Returns the regions of a picture of (width, height) for training and for validation."""
    xs, ys = ([extent * i // GRID for i in range(GRID + 1)] for extent in size)
    training: list[Box] = []
    validation: list[Box] = []
    for row in range(GRID):
        for column in range(GRID):
            box = (xs[column], ys[row], xs[column + 1], ys[row + 1])
            (validation if column == EVAL_COLUMNS[row] else training).append(box)
    return training, validation


def crops(regions: Sequence[Box], each: int, rng: np.random.RandomState) -> list[Box]:
    """Draws random squares, `each` of them inside every region."""
    boxes = []
    for left, top, right, bottom in regions:
        longest = min(right - left, bottom - top)
        for _ in range(each):
            side = rng.randint(int(SMALLEST_SIDE * longest), longest + 1)
            x, y = rng.randint(left, right - side + 1), rng.randint(top, bottom - side + 1)
            boxes.append((x, y, x + side, y + side))
    return boxes


def _jpeg(picture, box: Box) -> bytes:
    from PIL import Image

    crop = picture.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return pictures.encode(crop, QUALITY, subsampling=2)


def build(output_dir: str) -> None:
    """Writes the data set: 440 crops for training, 330 for validation.

    A folder that holds the data set already is left alone. The first validation crop of each class
    goes to a picture file, to try a model on.

    Raises:
      UserError: a package or its picture is missing, or the folder cannot be used.
    """
    label_names = [photograph.label for photograph in PHOTOGRAPHS]
    description = shards.describe(
        "crops of natural photographs (scikit-image, matplotlib)",
        shards.builder("natural"),
        label_names,
    )
    if shards.is_finished(output_dir, description):
        return
    rng = np.random.RandomState(0)
    jpegs: dict[str, list[list[bytes]]] = {shards.TRAIN: [], shards.VALIDATION: []}
    for photograph in PHOTOGRAPHS:
        picture = read(photograph)
        for split, regions, each in zip(
            jpegs, cells(picture.size), (TRAIN_CROPS, EVAL_CROPS), strict=True
        ):
            jpegs[split].append([_jpeg(picture, box) for box in crops(regions, each, rng)])
    plan = [
        *_plan(shards.TRAIN, NUM_TRAIN_SHARDS, jpegs[shards.TRAIN], rng),
        *_plan(shards.VALIDATION, 1, jpegs[shards.VALIDATION], rng),
    ]

    def make(item: shards.Item) -> shards.Made:
        split, number = item.key.split(" ")
        return shards.Made(examples.example(jpegs[split][item.label - 1][int(number)], item.label))

    picture_folders.write_samples(
        output_dir,
        {
            f"{label}.jpg": crops_of_label[0]
            for label, crops_of_label in zip(label_names, jpegs[shards.VALIDATION], strict=True)
        },
    )
    shards.build(output_dir, description, plan, make)


def _plan(split, num_shards, by_class, rng) -> list[shards.Shard]:
    """Returns the files of a split, with the pictures of all classes in random order."""
    items = [
        shards.Item(f"{split} {number}", label)
        for label, of_class in enumerate(by_class, start=1)
        for number in range(len(of_class))
    ]
    return shards.split(split, [items[i] for i in rng.permutation(len(items))], num_shards)


def add_command(commands) -> None:
    """Adds `natural` to the commands."""
    text = "make the pictures for fine-tuning: crops of photographs"
    natural = commands.add_parser("natural", help=text, description=text)
    natural.add_argument("--output_dir", required=True, help="folder for the files")
    natural.set_defaults(run=lambda arguments: build(arguments.output_dir))
