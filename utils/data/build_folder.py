"""Makes a data set of folders of pictures, one a class: `mnasnet-data folder`."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from typing import NamedTuple

from absl import logging

from utils.base.errors import UserError
from utils.data import picture_folders, shared_arguments
from utils.data.picture_folders import Found
from utils.pictures import opening
from utils.sharding import data_set, shards
from utils.sharding.task_folders import Task

SHARE = 0.1
PICTURES_A_SHARD = 1024
MAX_SHARDS = {shards.TRAIN: 1024, shards.VALIDATION: 128}
DESCRIPTION = """\
Makes TFRecords of folders of pictures: train/<class>/* and validation/<class>/* (or val, valid, or
else test), or <class>/*, which --validation_share splits. JPEG, PNG, GIF (its first frame), BMP,
WebP, TIFF, HEIC and AVIF are recognized by their content; hidden files, texts and videos are
skipped. RGB and grey JPEGs keep their bytes. All others become RGB JPEGs: turned upright as EXIF
says, transparency laid over white."""
_TEST = "test"
# A network trained on these as classes would tell the splits apart.
_SPLIT_NAMES = (shards.TRAIN, "training", *picture_folders.VALIDATION_FOLDERS, "eval", "dev", _TEST)

# class name -> its pictures, with paths below the input folder
Classes = dict[str, list[Found]]


class Options(NamedTuple):
    """What the user chose; `add_command` explains each."""

    input_dir: str
    output_dir: str
    validation_share: float | None = None
    train_shards: int | None = None
    validation_shards: int | None = None
    name: str | None = None
    seed: int = 0
    max_bad_share: float = shards.MAX_BAD_SHARE
    num_threads: int | None = None
    task: Task | None = None
    finish: bool = False


def build(options: Options) -> None:
    """Builds the data set, or resumes an interrupted build.

    Raises:
      UserError: the input has another layout, too much of it is unreadable, or the output folder
        cannot be used.
    """
    opening.require_pillow()
    picture_folders.need_dir(options.input_dir, "input_dir")
    picture_folders.check_apart(options.input_dir, options.output_dir)
    name, builder = _name(options), _builder(options)
    if shards.is_finished(options.output_dir, shards.describe(name, builder)):
        return
    splits = _splits(options)
    class_names = sorted(splits[shards.TRAIN])
    data_set.build(
        options.output_dir,
        shards.describe(name, builder, class_names, picture_folders.FEATURES),
        [
            shard
            for split, classes in splits.items()
            for shard in _plan(options, split, classes, class_names)
        ],
        picture_folders.PictureMaker(options.input_dir, class_names),
        options.max_bad_share,
        options.num_threads or picture_folders.num_threads(options.input_dir),
        options.task,
        options.finish,
    )


def _plan(
    options: Options, split: str, classes: Classes, class_names: list[str]
) -> list[shards.Shard]:
    """Returns the files of a split, with its pictures in random order."""
    items = [
        shards.Item(found.path, label, found.stamp)
        for label, class_name in enumerate(class_names, 1)
        for found in classes.get(class_name, [])
    ]
    # Evaluation is shuffled too, so that its first images are not all of one class.
    random.Random(f"{split} {options.seed}").shuffle(items)
    return shards.split(split, items, _num_shards(options, split, len(items)))


def _name(options: Options) -> str:
    """Returns the name of the data set: as given, or the input folder's."""
    path = options.input_dir.rstrip("/")
    return options.name or os.path.basename(path if "://" in path else os.path.abspath(path))


def _builder(options: Options) -> str:
    """Returns the builder's text with those given arguments that determine the bytes."""
    names = ("validation_share", "train_shards", "validation_shards", "seed")
    return shards.builder("folder", **shared_arguments.given(options, names))


def _num_shards(options: Options, split: str, num_pictures: int) -> int:
    """Returns the number of a split's files: as given, or by the number of pictures."""
    given = options.train_shards if split == shards.TRAIN else options.validation_shards
    return given or min(MAX_SHARDS[split], -(-num_pictures // PICTURES_A_SHARD))


def _splits(options: Options) -> dict[str, Classes]:
    """Returns the classes of both splits, checked: training has all classes.

    Raises:
      UserError: the input has another layout.
    """
    root = options.input_dir
    names = picture_folders.folders(root)
    evaluation = _evaluation_folder(root, names)
    if evaluation:
        if options.validation_share is not None:
            raise UserError(
                f"--validation_share is for a folder without {evaluation}, but "
                f"--input_dir={root} has one: leave the flag out."
            )
        picture_folders.log_files_left_out(root)
        train = _classes(root, f"{shards.TRAIN}/")
        held_out = _classes(root, f"{evaluation}/")
    else:
        share = SHARE if options.validation_share is None else options.validation_share
        train, held_out = _split_by_share(_classes(root, ""), share)
    _check_classes(root, train, held_out)
    return {shards.TRAIN: train, shards.VALIDATION: held_out}


def _check_classes(root: str, train: Classes, held_out: Classes) -> None:
    """Checks that training has two classes and all those of validation; logs what the latter lacks.

    Raises:
      UserError: training has fewer classes.
    """
    if len(train) < 2:
        raise UserError(
            f"--input_dir={root} has too few folders of pictures for training ({len(train)}): make "
            "at least 2, one for each class."
        )
    unknown = sorted(set(held_out) - set(train))
    if unknown:
        raise UserError(
            f"--input_dir={root} has the class {unknown[0]!r} for validation, but not for "
            "training: add pictures for training or remove the class."
        )
    missing = sorted(set(train) - set(held_out))
    if missing:
        logging.info(
            "Validation has no pictures of %d classes, such as %s.", len(missing), missing[0]
        )


def _evaluation_folder(root: str, names: list[str]) -> str | None:
    """Returns the folder that evaluation is made of; None if the folders are classes.

    Raises:
      UserError: folders are named like splits, but it is not clear which split each is.
    """
    chosen = picture_folders.validation_folder(root, names) or (_TEST if _TEST in names else None)
    if shards.TRAIN in names and chosen:
        left_out = [name for name in names if name not in (shards.TRAIN, chosen)]
        if chosen != shards.VALIDATION:
            logging.info("The pictures for evaluation are those of %s.", chosen)
        if left_out:
            logging.info("Left out: the folders %s.", ", ".join(left_out))
        return chosen
    _check_no_split(root, names)
    return None


def _check_no_split(root: str, names: list[str]) -> None:
    """Raises UserError if one of the folders, all taken for classes, is named like a split."""
    like_splits = [name for name in names if _is_like_a_split(name)]
    if len(names) == 1 and like_splits:
        raise UserError(
            f"--input_dir={root} has only {names[0]}: add the folder of the other split, or split "
            f"this one with --input_dir={os.path.join(root, names[0])} --validation_share={SHARE}."
        )
    # Trains may be a class, too.
    is_class = like_splits == [shards.TRAIN] and not picture_folders.folders(
        os.path.join(root, shards.TRAIN)
    )
    if like_splits and not is_class:
        raise UserError(
            f"--input_dir={root} has the folder {like_splits[0]}, which is named like a split, not "
            f"like a class: name the splits {shards.TRAIN} and {shards.VALIDATION}, or give it "
            "another name if it is a class."
        )


def _is_like_a_split(name: str) -> bool:
    """Says whether a folder's name is hardly that of a class: Train, val2017, test1."""
    return name.lower().rstrip("0123456789") in _SPLIT_NAMES


def _classes(root: str, prefix: str) -> Classes:
    """Returns the pictures of each class folder in a folder.

    Raises:
      UserError: a class folder is empty, or its name cannot be a line of labels.txt.
    """
    folder = os.path.join(root, prefix) if prefix else root
    names = picture_folders.folders(folder)
    picture_folders.log_files_left_out(folder)
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
    """Raises UserError for a name that cannot be a line of labels.txt."""
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
    """Returns the classes of training and those held out: a share of each, at least one picture.

    The pictures whose paths have the lowest hashes are held out. So when pictures are added later,
    nearly all others stay in their split.

    Raises:
      UserError: a class has only one picture.
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
        help=f"share of each class to hold out if there is no validation folder (default: {SHARE})",
    )  # fmt: skip
    for split, most in MAX_SHARDS.items():
        parser.add_argument(
            f"--{split}_shards", type=shared_arguments.count,
            help=f"files (default: one for {PICTURES_A_SHARD} pictures, at most {most})",
        )  # fmt: skip
    parser.add_argument(
        "--name", type=str, help="name of the data set (default: the folder's name)"
    )
    parser.set_defaults(run=lambda arguments: build(shared_arguments.options(Options, arguments)))


def _validation_share(text: str) -> float:
    """Returns a share for argparse that leaves no split empty."""
    value = shared_arguments.share(text)
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} would leave a split empty: 0.1 is usual")
    return value
