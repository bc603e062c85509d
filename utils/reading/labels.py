"""Reads and writes the names of classes, one a line."""

from __future__ import annotations

import os
from collections.abc import Iterable

from utils.base import files
from utils.base.errors import UserError

FILE_NAME = "labels.txt"


def write(folder: str, names: Iterable[str]) -> None:
    """Writes labels.txt, one name a line."""
    files.write_text(os.path.join(folder, FILE_NAME), "".join(f"{n}\n" for n in names))


IMAGENET_FILE = os.path.join(os.path.dirname(__file__), "imagenet_labels.txt")


def read(source: str, num_classes: int) -> list[str]:
    """Class names, one a line; 'imagenet' for the file that ships with the package."""
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
