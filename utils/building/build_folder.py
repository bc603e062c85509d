"""Makes a data set of folders of pictures, one a class: `mnasnet-data folder`."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from utils.base.errors import UserError
from utils.building import picture_folders, shards, shared_arguments
from utils.building.picture_folders import Found
from utils.reading import dataset_info, pictures, records

SHARE = 0.1
PICTURES_A_SHARD = 1024
MAX_SHARDS = {shards.TRAIN: 1024, shards.VALIDATION: 128}
DESCRIPTION = """\
Makes TFRecords of folders of pictures: train/<class>/* and validation/<class>/* (or else test, or
other names of splits, such as seg_train and seg_test), or <class>/*, which --validation_share
splits. JPEG, PNG, GIF (its first frame), BMP, WebP, TIFF, PPM, HEIC and AVIF are recognized by
their content; hidden files, texts and videos are skipped. RGB and grey JPEGs keep their bytes. All
others become RGB JPEGs: turned upright as EXIF says, transparency laid over white."""
_DEEPEST = 3  # folders in folders that zip files leave above the classes

# class name -> its pictures, with paths below the input folder
Classes = dict[str, list[Found]]


class FolderOptions(NamedTuple):
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


def build(options: FolderOptions) -> None:
    """Builds the data set, or resumes an interrupted build.

    Raises:
      UserError: the input has another layout, too much of it is unreadable, or the output folder
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
    shards.build(
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
    )


def _plan(
    options: FolderOptions, split: str, classes: Classes, class_names: list[str]
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


def _name(options: FolderOptions) -> str:
    """Returns the name of the data set: as given, or the input folder's."""
    path = options.input_dir.rstrip("/")
    return options.name or os.path.basename(path if "://" in path else os.path.abspath(path))


def _builder(options: FolderOptions) -> str:
    """Returns the builder's text with those given arguments that determine the bytes."""
    names = ("validation_share", "train_shards", "validation_shards", "seed")
    return shards.builder("folder", **shared_arguments.given(options, names))


def _num_shards(options: FolderOptions, split: str, num_pictures: int) -> int:
    """Returns the number of a split's files: as given, or by the number of pictures."""
    given = options.train_shards if split == shards.TRAIN else options.validation_shards
    return given or min(MAX_SHARDS[split], -(-num_pictures // PICTURES_A_SHARD))


def _splits(options: FolderOptions) -> dict[str, Classes]:
    """Returns the classes of both splits, checked and logged: training has all classes.

    Raises:
      UserError: the input has another layout.
    """
    root = options.input_dir
    names = picture_folders.folders(root)
    found = _split_folders(root, names)
    if found:
        if options.validation_share is not None:
            raise UserError(
                f"--validation_share is for a folder without {found[1]}, but "
                f"--input_dir={root} has one: leave the flag out."
            )
        train, held_out = _classes(root, found)
        tops = {folder.split("/")[0] for folder in found}
        left_out = [name for name in names if name not in tops]
    else:
        share = SHARE if options.validation_share is None else options.validation_share
        (classes,) = _classes(root, [""])
        train, held_out = _split_by_share(classes, share)
        found = (_name(options), f"{share:g} of each class, held out")
        left_out = []
    _check_classes(root, train, held_out)
    _log_splits(found, train, held_out, left_out)
    return {shards.TRAIN: train, shards.VALIDATION: held_out}


def _check_classes(root: str, train: Classes, held_out: Classes) -> None:
    """Raises UserError if training has not two classes and all those of evaluation."""
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


def _log_splits(
    sources: tuple[str, str], train: Classes, held_out: Classes, left_out: list[str]
) -> None:
    """Logs what is taken for what, and whether classes are of very unequal size.

    Args:
      sources: what the pictures of training and evaluation are, in words.
      train: classes of training.
      held_out: classes of evaluation.
      left_out: folders that are neither.
    """

    def counts(classes):
        return f"{len(classes)} classes, {sum(map(len, classes.values())):,} pictures"

    missing = sorted(set(train) - set(held_out))
    lacks = f", none of {', '.join(missing[:3])}" if missing else ""
    logging.info(
        "Training: %s (%s); evaluation: %s (%s%s)%s. Classes: %s to %s.",
        sources[0],
        counts(train),
        sources[1],
        counts(held_out),
        lacks + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
        f"; left out: {', '.join(left_out)}" if left_out else "",
        min(train),
        max(train),
    )
    unequal = dataset_info.unequal_sizes([*train], [len(found) for found in train.values()])
    if unequal:
        logging.warning("The training's %s: look at each class's own accuracy.", unequal)


def _split_folders(root: str, names: list[str]) -> tuple[str, str] | None:
    """Returns the folders of the classes of training and evaluation; None if all are classes.

    Two folders are splits if their names differ in the split alone, and the same classes are below.

    Raises:
      UserError: folders are named like splits, but it is not clear which split each is.
    """
    split_of = {name: records.split_of(name) for name in names}
    pairs, like_splits = {}, set()
    trains = [name for name in names if split_of[name][0] == shards.TRAIN]
    others = [name for name in names if split_of[name][0] not in (None, shards.TRAIN)]
    for train, other in itertools.product(trains, others):
        below, classes = _levels(root, train)[-1]
        same = [folder for folder, found in _levels(root, other) if found & classes]
        alike = split_of[train][1] == split_of[other][1]
        if same and alike:
            pairs[train, other] = (below, same[0])
        elif same or alike:
            like_splits |= {train, other}
    if not pairs:
        like_splits |= {name for name, (split, rest) in split_of.items() if split and not rest}
        _check_no_split(
            root, sorted(like_splits, key=lambda name: (split_of[name][0] != shards.TRAIN, name))
        )
        return None
    train = picture_folders.plainest(root, {train for train, _ in pairs})
    others = [other for first, other in pairs if first == train]
    validation = [name for name in others if split_of[name][0] == shards.VALIDATION]
    return pairs[train, picture_folders.plainest(root, validation or others)]


def _levels(root: str, folder: str) -> list[tuple[str, set[str]]]:
    """Returns a folder and the classes in it; while it holds one folder alone, that one's, too.

    Zip files often leave such folders: seg_train/seg_train/<class>.
    """
    inside = picture_folders.folders(os.path.join(root, folder))
    levels = [(folder, {_class_name(name) for name in inside})]
    if len(inside) == 1 and folder.count("/") < _DEEPEST:
        levels += [level for level in _levels(root, f"{folder}/{inside[0]}") if level[1]]
    return levels


def _check_no_split(root: str, like_splits: list[str]) -> None:
    """Raises UserError if one of the folders, all taken for classes, is named like a split."""
    with_classes = [
        folder for folder, classes in (_levels(root, name)[-1] for name in like_splits) if classes
    ]
    is_test = any(records.split_of(name)[0] == records.TEST for name in like_splits)
    # Trains may be a class, too, but unlabelled pictures for a test hardly.
    if not like_splits or (len(like_splits) == 1 and not with_classes and not is_test):
        return
    remedy = (
        f"add one, or split what is there: --input_dir={os.path.join(root, with_classes[0])} "
        f"--validation_share={SHARE}"
        if with_classes
        else f"make {like_splits[0]}/<class>/*, or give the folder another name if it is a class"
    )
    raise UserError(
        f"--input_dir={root} has {' and '.join(like_splits[:2])}, named like a split, but not two "
        "such folders, named alike (train and test), with the same class folders in both: "
        f"{remedy}."
    )


def _classes(root: str, parents: Sequence[str]) -> list[Classes]:
    """Returns the pictures of each class folder in some folders.

    Args:
      root: the input folder.
      parents: of the class folders, below the input folder; "" is that itself.

    Raises:
      UserError: the class folders are further down, or one of them cannot be a class.
    """
    folders = {
        parent: picture_folders.folders(os.path.join(root, parent) if parent else root)
        for parent in parents
    }
    paths = [os.path.join(parent, name) for parent, names in folders.items() for name in names]
    found = dict(zip(paths, picture_folders.walk_all(root, paths), strict=True))
    if "" in folders:
        _check_depth(root, found)
    made, nested = [], []
    for parent, names in folders.items():
        classes: Classes = {}
        for name in names:
            path = os.path.join(parent, name)
            inner = {file.path.split("/")[0] for file in found[path] if "/" in file.path}
            if len(names) > 2 and inner >= set(names) - {name}:
                logging.warning("%s is left out: it holds the other classes again.", path)
                continue
            _check_class(root, path, found[path], inner)
            nested += [path] if len(inner) > 1 else []
            classes.setdefault(_class_name(name), []).extend(
                Found(f"{path}/{file.path}", file.stamp) for file in found[path]
            )
        made.append(classes)
    if nested:
        logging.warning(
            "%d class folders hold folders, such as %s: their pictures count for the outer class. "
            "If the inner folders are the classes, name the folder that holds them.",
            len(nested),
            nested[0],
        )
    return made


def _class_name(folder: str) -> str:
    # macOS writes an accent apart from its letter.
    return unicodedata.normalize("NFC", folder)


def _check_depth(root: str, found: dict[str, list[Found]]) -> None:
    """Raises UserError if all pictures are in one folder, which holds the class folders."""
    tops = [top for top, files in found.items() if files]
    if len(tops) != 1:
        return
    above = os.path.commonpath([os.path.dirname(file.path) for file in found[tops[0]]])
    below = (file.path.removeprefix(above).lstrip("/") for file in found[tops[0]])
    if len({path.split("/")[0] for path in below if "/" in path}) > 1:
        raise UserError(
            f"--input_dir={root} has pictures in {tops[0]} alone, whose folders seem to be the "
            f"classes: use --input_dir={os.path.join(root, tops[0], above).rstrip('/')}."
        )


def _check_class(root: str, path: str, found: list[Found], inner: set[str]) -> None:
    """Raises UserError if a folder, with pictures in the inner folders, cannot be a class."""
    folder = os.path.join(root, path)
    if not found:
        raise UserError(f"The class folder {folder} has no pictures: fill it or remove it.")
    _check_name(os.path.basename(path), os.path.dirname(folder))
    splits = {records.split_of(name)[0]: name for name in inner}
    if shards.TRAIN in splits and len(splits.keys() - {None}) > 1:
        raise UserError(
            f"The class folder {folder} holds splits, such as {splits[shards.TRAIN]}: move their "
            f"pictures to {shards.TRAIN}/{path}, {shards.VALIDATION}/{path} and so on."
        )


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
        "--validation_share",
        type=_validation_share,
        help=f"share of each class to hold out if there is no validation folder (default: {SHARE})",
    )
    for split, most in MAX_SHARDS.items():
        parser.add_argument(
            f"--{split}_shards",
            type=shared_arguments.count,
            help=f"files (default: one for {PICTURES_A_SHARD} pictures, at most {most})",
        )
    parser.add_argument(
        "--name", type=str, help="name of the data set (default: the folder's name)"
    )
    shared_arguments.set_run(parser, build, FolderOptions)


def _validation_share(text: str) -> float:
    """Returns a share for argparse that leaves no split empty."""
    value = shared_arguments.share(text)
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} would leave a split empty: 0.1 is usual")
    return value
