"""Reads and writes the files that name the classes of a data set or a model, one a line."""

from __future__ import annotations

import os
from collections.abc import Iterable

from utils.base import files
from utils.base.errors import UserError

FILE_NAME = "labels.txt"
IMAGENET_FILE = os.path.join(os.path.dirname(__file__), "imagenet_labels.txt")


def write(folder: str, names: Iterable[str]) -> None:
    """Writes labels.txt into a folder, one name a line in the order of the classes."""
    files.write_text(os.path.join(folder, FILE_NAME), "".join(f"{n}\n" for n in names))


def read(source: str, num_classes: int) -> list[str]:
    """Reads the names of classes.

    Args:
      source: path of a file with one name a line; 'imagenet' stands for ImageNet's 1000 names,
        which ship with the package.
      num_classes: number of names that there must be.

    Raises:
      UserError: the file cannot be read, or has another number of names.
    """
    path = IMAGENET_FILE if source == "imagenet" else source
    lines = files.read_text(path).splitlines()
    if source == "imagenet":
        lines = [line.partition("\t")[2] for line in lines]
    if len(lines) != num_classes:
        raise UserError(
            f"--labels={source} has {len(lines)} names for {num_classes} classes: name the file "
            "that belongs to these weights."
        )
    return lines
