"""A data set from folders of pictures, one a class: `mnasnet-data folder`."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from typing import NamedTuple

from absl import logging

from utils.base.errors import UserError
from utils.data import picture_folders, pictures, shards, shared_arguments
from utils.data.picture_folders import Found

SHARE = 0.1
PICTURES_A_SHARD = 1024
MAX_SHARDS = {shards.TRAIN: 1024, shards.VALIDATION: 128}
DESCRIPTION = """\
Makes TFRecords of folders of pictures: train/<class>/* and validation/<class>/* (or val, valid, or
else test), or <class>/*, which --validation_share splits. JPEG, PNG, GIF (its first frame), BMP
and WebP are taken whatever their names; hidden files and texts are passed over. RGB and grey JPEGs
keep their bytes; all others become RGB JPEGs, turned upright as EXIF says, transparency laid over
white."""
_TEST = "test"
# Taken for classes, these would train a network to tell the splits apart.
_SPLIT_NAMES = (shards.TRAIN, "training", *picture_folders.VALIDATION_FOLDERS, "eval", "dev", _TEST)

# class name -> its pictures, with paths below the input folder
Classes = dict[str, list[Found]]


class Options(NamedTuple):
    """What the user chose; see the command line."""

    input_dir: str
    output_dir: str
    validation_share: float | None = None
    train_shards: int | None = None
    validation_shards: int | None = None
    name: str | None = None
    seed: int = 0
    max_bad_share: float = shards.MAX_BAD_SHARE
    num_threads: int | None = None


def build(options: Options) -> None:
    """Builds the data set, or goes on with it.

    Raises:
      UserError: the input is not laid out so, too much of it is unreadable, or the output folder
        cannot be used.
    """
    pictures.require_pillow()
    picture_folders.need_dir(options.input_dir, "input_dir")
    picture_folders.check_apart(options.input_dir, options.output_dir)
    name, builder = _name(options), _builder(options)
    if shards.is_finished(options.output_dir, shards.describe(name, builder)):
        return
    splits = _splits(options)
    class_names = sorted(splits[shards.TRAIN])
    plan = []
    for split, classes in splits.items():
        items = [
            shards.Item(found.path, label, found.stamp)
            for label, class_name in enumerate(class_names, 1)
            for found in classes.get(class_name, [])
        ]
        # Evaluation is shuffled too, so that its first images are not all of one class.
        random.Random(f"{split} {options.seed}").shuffle(items)
        plan += shards.split(split, items, _num_shards(options, split, len(items)))
    shards.build(
        options.output_dir,
        shards.describe(name, builder, class_names, picture_folders.FEATURES),
        plan,
        picture_folders.PictureMaker(options.input_dir, class_names),
        options.max_bad_share,
        options.num_threads or picture_folders.num_threads(options.input_dir),
    )


def _name(options: Options) -> str:
    path = options.input_dir.rstrip("/")
    return options.name or os.path.basename(path if "://" in path else os.path.abspath(path))


def _builder(options: Options) -> str:
    """The builder's text with the arguments that determine the bytes, where they were given."""
    names = ("validation_share", "train_shards", "validation_shards", "seed")
    return shards.builder("folder", **shared_arguments.given(options, names))


def _num_shards(options: Options, split: str, num_pictures: int) -> int:
    given = options.train_shards if split == shards.TRAIN else options.validation_shards
    return given or min(MAX_SHARDS[split], -(-num_pictures // PICTURES_A_SHARD))


def _splits(options: Options) -> dict[str, Classes]:
    """The classes of both splits, checked; training has them all."""
    root = options.input_dir
    names = picture_folders.folders(root)
    evaluation = _evaluation_folder(root, names)
    if evaluation:
        if options.validation_share is not None:
            raise UserError(
                f"--validation_share is for a folder without {evaluation}, but "
                f"--input_dir={root} has one: leave the flag out."
            )
        picture_folders.log_files_beside(root)
        train = _classes(root, f"{shards.TRAIN}/")
        held_out = _classes(root, f"{evaluation}/")
    else:
        share = SHARE if options.validation_share is None else options.validation_share
        train, held_out = _split_by_share(_classes(root, ""), share)
    if len(train) < 2:
        raise UserError(
            f"--input_dir={root} has too few folders of pictures for training ({len(train)}): 2 "
            "classes, a folder each, are the least."
        )
    unknown = sorted(set(held_out) - set(train))
    if unknown:
        raise UserError(
            f"--input_dir={root} has the class {unknown[0]!r} for validation, but not for training."
        )
    missing = sorted(set(train) - set(held_out))
    if missing:
        logging.info("No picture of %d classes, such as %s, is in validation.",
                     len(missing), missing[0])  # fmt: skip
    return {shards.TRAIN: train, shards.VALIDATION: held_out}


def _evaluation_folder(root: str, names: list[str]) -> str | None:
    """The folder beside train that evaluation is made of; None where the folders are classes.

    Raises:
      UserError: folders are named like splits, but it is not clear which is what.
    """
    chosen = picture_folders.validation_folder(root, names) or (_TEST if _TEST in names else None)
    if shards.TRAIN in names and chosen:
        left_out = [name for name in names if name not in (shards.TRAIN, chosen)]
        if chosen != shards.VALIDATION:
            logging.info("The pictures for evaluation are those of %s.", chosen)
        if left_out:
            logging.info("Left out: the folders %s.", ", ".join(left_out))
        return chosen
    like_splits = [name for name in names if _is_like_a_split(name)]
    if len(names) == 1 and like_splits:
        raise UserError(
            f"--input_dir={root} has only {names[0]}: add the folder of the other split, or split "
            f"this one with --input_dir={os.path.join(root, names[0])} --validation_share={SHARE}."
        )
    # There are pictures of trains, too.
    if like_splits == [shards.TRAIN] and not picture_folders.folders(
        os.path.join(root, shards.TRAIN)
    ):
        return None
    if like_splits:
        raise UserError(
            f"--input_dir={root} has the folder {like_splits[0]}, which is named like a split, not "
            f"like a class: name the splits {shards.TRAIN} and {shards.VALIDATION}, or give it "
            "another name if it is a class."
        )
    return None


def _is_like_a_split(name: str) -> bool:
    """Whether a folder is hardly a class by its name: Train, val2017, test1."""
    return name.lower().rstrip("0123456789") in _SPLIT_NAMES


def _classes(root: str, prefix: str) -> Classes:
    """The pictures of each folder in a folder; UserError for an empty one."""
    folder = os.path.join(root, prefix) if prefix else root
    names = picture_folders.folders(folder)
    picture_folders.log_files_beside(folder)
    found = picture_folders.walk_all(folder, names)
    for name, pictures_found in zip(names, found, strict=True):
        if not pictures_found:
            raise UserError(
                f"The class folder {os.path.join(folder, name)} has no pictures: fill it or "
                "remove it."
            )
        _check_name(name, folder)
    return {
        name: [Found(f"{prefix}{name}/{path}", stamp) for path, stamp in pictures_found]
        for name, pictures_found in zip(names, found, strict=True)
    }


def _check_name(name: str, folder: str) -> None:
    """UserError for a name that cannot stand on a line of labels.txt."""
    try:
        name.encode()
        possible = len(name.splitlines()) == 1 and name == name.strip()
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UserError(
            f"{folder} has the class folder {name!r}, whose name cannot be a line of labels.txt: "
            "rename it."
        )


def _split_by_share(classes: Classes, share: float) -> tuple[Classes, Classes]:
    """Holds out the share of every class, at least one picture: those whose paths hash lowest.

    So pictures that are added later leave nearly all others in their split.
    """
    train, held_out = {}, {}
    for name, found in classes.items():
        if len(found) < 2:
            raise UserError(
                f"Class {name!r} has one picture, which cannot be in both splits: add pictures or "
                "remove the class."
            )
        ranked = sorted(found, key=lambda picture: _hash(picture.path))
        count = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
        held_out[name], train[name] = ranked[:count], ranked[count:]
    return {k: sorted(v) for k, v in train.items()}, {k: sorted(v) for k, v in held_out.items()}


def _hash(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


def add_command(commands) -> None:
    """Adds `folder` to the commands."""
    parser = commands.add_parser(
        "folder", help="make TFRecords of folders of pictures", description=DESCRIPTION
    )
    shared_arguments.add_input(parser)
    parser.add_argument(
        "--validation_share", type=_validation_share,
        help=f"share of each class that is held out where no folder is (default: {SHARE})",
    )  # fmt: skip
    for split, most in MAX_SHARDS.items():
        parser.add_argument(
            f"--{split}_shards", type=shared_arguments.count,
            help=f"files (default: one for {PICTURES_A_SHARD} pictures, at most {most})",
        )  # fmt: skip
    parser.add_argument("--name", help="of the data set (default: the folder's)")
    parser.set_defaults(run=lambda arguments: build(shared_arguments.options(Options, arguments)))


def _validation_share(text: str) -> float:
    value = shared_arguments.share(text)
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} would leave a split empty: 0.1 is usual")
    return value
