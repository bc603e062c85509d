"""Makes a data set of ImageNet (ILSVRC2012): `mnasnet-data imagenet`."""

from __future__ import annotations

import os
import random
import re
from typing import NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.building import picture_folders, shards, shared_arguments
from utils.building.picture_folders import Found
from utils.config import settings
from utils.reading import pictures, records
from utils.reading.dataset_info import IMAGENET_FILE

NAME = "ImageNet (ILSVRC2012)"
TRAIN_SHARDS, VALIDATION_SHARDS = 1024, 128
FEATURES = (*picture_folders.FEATURES, "image/class/synset")
DESCRIPTION = """\
Makes TFRecords of ImageNet as it is distributed: train/<synset>/*.JPEG, and validation/*.JPEG with
--validation_labels, a file with one synset a line in the order of the file names, or Kaggle's
LOC_val_solution.csv (or validation/<synset>/*.JPEG, which needs no file). Labels are 1..1000 in the
order of the synsets. Files that are not what their names say (one PNG, 22 CMYK JPEGs) become RGB
JPEGs; all others keep their bytes."""
_SYNSET = re.compile(r"n\d{8}")
# A synset, perhaps after the name of a picture and before boxes, as in Kaggle's file:
# ILSVRC2012_val_00000001,n01751748 111 108 370 297
_LABEL = re.compile(r"(?:(\S+?)(?:\.\w+)?[,\s]+)?(n\d{8})(?:[,\s].*)?")
_LABELS_FILE = (
    "https://raw.githubusercontent.com/tensorflow/models/master/research/slim/datasets/"
    "imagenet_2012_validation_synset_labels.txt"
)


class ImagenetOptions(NamedTuple):
    """What the user chose; `add_command` explains each."""

    input_dir: str
    output_dir: str
    validation_labels: str | None = None
    train_shards: int = TRAIN_SHARDS
    validation_shards: int = VALIDATION_SHARDS
    seed: int = 0
    max_bad_share: float = shards.MAX_BAD_SHARE
    num_threads: int | None = None


def build(options: ImagenetOptions) -> None:
    """Builds the data set, or resumes an interrupted build.

    Raises:
      UserError: the input has another layout, too much of it is unreadable, or the output folder
        cannot be used.
    """
    pictures.require_pillow()
    picture_folders.need_dir(options.input_dir, "input_dir")
    picture_folders.check_apart(options.input_dir, options.output_dir)
    given = shared_arguments.given(options, ("train_shards", "validation_shards", "seed"))
    builder = shards.builder("imagenet", **given)
    if shards.is_finished(options.output_dir, shards.describe(NAME, builder)):
        return
    train = _train(options.input_dir)
    synsets = sorted({synset for _, synset in train})
    validation = _validation(options, set(synsets))
    label_names = _label_names(synsets)
    _log_counts(synsets, train, validation)
    random.Random(options.seed).shuffle(train)
    labels = {synset: label for label, synset in enumerate(synsets, 1)}
    plan = []
    for split, found, count in (
        (shards.TRAIN, train, options.train_shards),
        (shards.VALIDATION, validation, options.validation_shards),
    ):
        items = [shards.Item(file.path, labels[synset], file.stamp) for file, synset in found]
        plan += shards.split(split, items, count)
    shards.build(
        options.output_dir,
        shards.describe(NAME, builder, label_names, FEATURES),
        plan,
        # The published accuracies are of pictures that were not turned by their EXIF data.
        picture_folders.PictureMaker(
            options.input_dir, label_names, upright=False, synsets=synsets
        ),
        options.max_bad_share,
        options.num_threads or picture_folders.num_threads(options.input_dir),
    )


def _log_counts(synsets, train, validation) -> None:
    """Logs which counts are not those of the whole of ImageNet."""
    for what, count, expected in (
        ("synsets", len(synsets), settings.IMAGENET_CLASSES),
        ("pictures for training", len(train), settings.IMAGENET_TRAIN_IMAGES),
        ("pictures for validation", len(validation), settings.IMAGENET_EVAL_IMAGES),
    ):
        if count != expected:
            note = f": labels are 1..{count}" if what == "synsets" else ""
            logging.info("%d %s, where ImageNet has %d%s.", count, what, expected, note)


def _label_names(synsets: list[str]) -> list[str]:
    """Returns the names of synsets; the synset itself if it is not one of ImageNet's 1000."""
    lines = files.read_text(IMAGENET_FILE).splitlines()
    names = dict(line.split("\t", 1) for line in lines)
    return [names.get(synset, synset) for synset in synsets]


def _by_synset(root: str, split: str) -> list[tuple[Found, str]]:
    """Returns (picture, synset) of <split>/<synset>/*, ordered by synset and file name.

    Raises:
      UserError: a folder is empty or is not named like a synset.
    """
    folder = os.path.join(root, split)
    synsets = picture_folders.folders(folder)
    for name in synsets:
        if not _SYNSET.fullmatch(name):
            raise UserError(
                f"{os.path.join(folder, name)} is not named like a synset (n01440764): for classes "
                "of your own use `mnasnet-data folder`."
            )
    found = picture_folders.walk_all(folder, synsets)
    for synset, pictures_found in zip(synsets, found, strict=True):
        if not pictures_found:
            raise UserError(
                f"{os.path.join(folder, synset)} has no pictures: unpack {synset}.tar into it or "
                "remove it."
            )
    return [
        (Found(f"{split}/{synset}/{path}", stamp), synset)
        for synset, pictures_found in zip(synsets, found, strict=True)
        for path, stamp in pictures_found
    ]


def _split_folder(root: str, split: str) -> str:
    """Returns the folder of a split: train, or ILSVRC2012_img_train; UserError if none is there."""
    names = picture_folders.folders(root)
    found = [name for name in names if records.split_of(name)[0] == split]
    if not found:
        raise UserError(
            f"--input_dir={root} has no folder {split}: add it, or name the folder that has it (in "
            "Kaggle's download ILSVRC/Data/CLS-LOC)."
        )
    return picture_folders.plainest(root, found)


def _train(root: str) -> list[tuple[Found, str]]:
    """Returns (picture, synset) of training; UserError if there are fewer than 2 synsets."""
    split = _split_folder(root, shards.TRAIN)
    train = _by_synset(root, split)
    if len({synset for _, synset in train}) < 2:
        raise UserError(
            f"{os.path.join(root, split)} has fewer than 2 folders of synsets (n01440764): "
            "unpack the tar files of the classes there, each into its folder."
        )
    return train


def _validation(options: ImagenetOptions, synsets: set[str]) -> list[tuple[Found, str]]:
    """Returns (picture, synset) of validation in the order of the file names.

    Args:
      options: what the user chose.
      synsets: of training; pictures of others are left out.

    Raises:
      UserError: there is no such folder, or it does not fit --validation_labels.
    """
    root = options.input_dir
    split = _split_folder(root, shards.VALIDATION)
    folder = os.path.join(root, split)
    if picture_folders.folders(folder):
        if options.validation_labels:
            raise UserError(
                f"--validation_labels is for pictures without folders, but {folder} has folders: "
                "leave the flag out."
            )
        found = _by_synset(root, split)
        found.sort(key=lambda pair: os.path.basename(pair[0].path))
    else:
        found = _flat(root, split, options.validation_labels)
    known = [pair for pair in found if pair[1] in synsets]
    if not known:
        raise UserError(f"{folder} has no pictures of the synsets in {shards.TRAIN}.")
    if len(known) < len(found):
        logging.info(
            "%d pictures of synsets that are not in train are left out of validation.",
            len(found) - len(known),
        )
    return known


def _flat(root: str, split: str, labels_path: str | None) -> list[tuple[Found, str]]:
    """Returns (picture, synset) of validation pictures that are not in folders of synsets."""
    found = [
        Found(f"{split}/{path}", stamp)
        for path, stamp in picture_folders.walk_all(root, [split])[0]
    ]
    folder = os.path.join(root, split)
    if labels_path is None:
        raise UserError(
            f"{folder} has pictures without folders: name the file of their synsets with "
            f"--validation_labels: {_LABELS_FILE}."
        )
    labels = _validation_labels(labels_path)
    if isinstance(labels, dict):
        names = [os.path.splitext(os.path.basename(file.path))[0] for file in found]
        missing = [name for name in names if name not in labels]
        if missing:
            raise UserError(f"{labels_path} has no line for {missing[0]} in {folder}.")
        labels = [labels[name] for name in names]
    if len(labels) != len(found):
        raise UserError(
            f"{labels_path} has {len(labels)} synsets for {len(found)} pictures in {folder}: one a "
            "picture is needed, in the order of the file names."
        )
    return list(zip(found, labels, strict=True))


def _validation_labels(path: str) -> list[str] | dict[str, str]:
    """Reads the synsets of the validation pictures.

    Returns:
      The synsets in the order of the file names; or by file names without endings, if each line
      begins with one (as in Kaggle's LOC_val_solution.csv).

    Raises:
      UserError: a line has no synset.
    """
    lines = [line.strip() for line in files.read_text(path).splitlines() if line.strip()]
    if lines and lines[0].startswith("ImageId,"):
        del lines[0]
    labels = []
    for line in lines:
        label = _LABEL.fullmatch(line)
        if label is None:
            what = (
                "numbers, as the development kit has, are in another order than the labels here"
                if line.split()[-1].isdigit()
                else "one a line is expected"
            )
            raise UserError(
                f"{path}: {line[:40]!r} is not a synset (n01440764): {what}; use {_LABELS_FILE}."
            )
        labels.append((os.path.basename(label[1] or ""), label[2]))
    if any(name for name, _ in labels):
        return dict(labels)
    return [synset for _, synset in labels]


def add_command(commands) -> None:
    """Adds `imagenet` to the commands."""
    parser = commands.add_parser(
        "imagenet", help="make TFRecords of ImageNet (ILSVRC2012)", description=DESCRIPTION
    )
    shared_arguments.add_input(parser)
    parser.add_argument("--validation_labels", help="file with the synsets of validation/*.JPEG")
    for split, count in ((shards.TRAIN, TRAIN_SHARDS), (shards.VALIDATION, VALIDATION_SHARDS)):
        parser.add_argument(
            f"--{split}_shards",
            type=shared_arguments.count,
            default=count,
            help="files (default: %(default)s)",
        )
    shared_arguments.set_run(parser, build, ImagenetOptions)
