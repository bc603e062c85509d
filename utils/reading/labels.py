"""Reads, writes and compares the names of the classes of a data set and of a model.

The files that hold them have one name a line.
"""

from __future__ import annotations

import collections
import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError, quoted

FILE_NAME = "labels.txt"
IMAGENET_FILE = os.path.join(os.path.dirname(__file__), "imagenet_labels.txt")
UNEQUAL = 10  # how many times the smallest class the largest may be without a word


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


class Comparison(NamedTuple):
    """What the names of classes tell of a model and a data set.

    Attributes:
      order: for each class of the data set, its index in the model; None if the labels fit as they
        are, because the names are equal or not known, or if `difference` says why none fits.
      difference: a sentence about the first class of each that the other lacks; None if the model
        has all classes of the data set.
    """

    order: tuple[int, ...] | None = None
    difference: str | None = None


def compare(of_model: Sequence[str], of_data: Sequence[str]) -> Comparison:
    """Compares the names of a model's classes with those of a data set, which may lack some.

    A name that the model does not have may still be written otherwise (Unicode form, capitals,
    underscores for spaces), or be another name of a class of ImageNet, such as its synset.

    Args:
      of_model: names in the order of the model's outputs; empty if they are unknown.
      of_data: names in the order of the data set's labels; empty if they are unknown.
    """
    if not of_model or not of_data or list(of_model) == list(of_data):
        return Comparison()
    exact = _candidates(of_model, of_data, _exact_forms)
    if _is_clear(exact):
        return _in_order(exact, of_model)
    if len(of_model) == len(of_data) and all(
        _loose_forms(ours) & _loose_forms(theirs)
        for ours, theirs in zip(of_model, of_data, strict=True)
    ):
        return Comparison()
    loose = _candidates(of_model, of_data, _loose_forms)
    found = [indices or others for indices, others in zip(exact, loose, strict=True)]
    if _is_clear(found):
        return _in_order(found, of_model)
    return Comparison(difference=_difference(of_model, of_data, found))


def _candidates(
    of_model: Sequence[str], of_data: Sequence[str], forms: Callable[[str], set[str]]
) -> list[set[int]]:
    """Returns for each class of the data set the indices of the model's classes it may be."""
    places = collections.defaultdict(set)
    for index, name in enumerate(of_model):
        for form in forms(name):
            places[form].add(index)
    return [{index for form in forms(name) for index in places[form]} for name in of_data]


def _is_clear(found: list[set[int]]) -> bool:
    """Whether each class of the data set is one of the model, and no two are the same."""
    return all(len(indices) == 1 for indices in found) and len(set.union(*found)) == len(found)


def _in_order(found: list[set[int]], of_model: Sequence[str]) -> Comparison:
    order = tuple(index for indices in found for index in indices)
    return Comparison(None if order == tuple(range(len(of_model))) else order)


def _exact_forms(name: str) -> set[str]:
    return {unicodedata.normalize("NFC", name)}


def _loose_forms(name: str) -> set[str]:
    loose = _loose(name)
    return {loose, *_synsets().get(loose, ())}


def _loose(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


@functools.cache
def _synsets() -> dict[str, set[str]]:
    """Returns the synsets of ImageNet's classes by all their names."""
    found = collections.defaultdict(set)
    for line in files.read_text(IMAGENET_FILE).splitlines():
        synset, _, names = line.partition("\t")
        for name in (synset, names, *names.split(", ")):
            found[_loose(name)].add(synset)
    return dict(found)


def _difference(of_model: Sequence[str], of_data: Sequence[str], found: list[set[int]]) -> str:
    """Returns the first class of each that the other lacks, in words."""
    known = [index for indices in found for index in indices]
    lacking = [name for name, indices in zip(of_data, found, strict=True) if not indices]
    if not lacking:
        unclear = next(
            name
            for name, indices in zip(of_data, found, strict=True)
            if len(indices) > 1 or any(known.count(index) > 1 for index in indices)
        )
        return f"it is not clear which class of the model {quoted(unclear)} is"
    words = f"the model has no {quoted(lacking[0])}"
    missing = next((name for i, name in enumerate(of_model) if i not in known), None)
    return words if missing is None else f"{words}, and the data set no {quoted(missing)}"


def order(
    of_model: Sequence[str], of_data: Sequence[str], data_dir: str, remedy: str
) -> tuple[int, ...] | None:
    """Returns `Comparison.order`; UserError, with the remedy, if the classes are others."""
    found = compare(of_model, of_data)
    if found.difference:
        raise UserError(
            f"--data_dir={data_dir} has other names for its classes than the model: "
            f"{found.difference}: {remedy}."
        )
    return found.order


def log_order(order: Sequence[int] | None, of_model: Sequence[str], data_dir: str) -> None:
    """Logs that labels go by the names of the classes, if `order` says that they do."""
    if order is None:
        return
    lacking = [name for index, name in enumerate(of_model) if index not in order]
    why = "has the classes of the model in another order"
    if lacking:
        why = f"lacks {len(lacking)} of the model's {len(of_model)} classes, such as {lacking[0]!r}"
    logging.info("%s %s: its pictures are assigned by the names of the classes.", data_dir, why)


def unequal_sizes(names: Sequence[str], counts: Sequence[int]) -> str | None:
    """Returns words for classes of very unequal size: the smallest and the largest; else None.

    Args:
      names: of the classes, in order; empty if they are unknown.
      counts: images of each class; classes without any do not count.
    """
    sizes = [(count, number) for number, count in enumerate(counts) if count]
    if not sizes or max(sizes)[0] <= UNEQUAL * min(sizes)[0]:
        return None
    smallest, largest = (
        f"{count} ({quoted(names[number]) if names else f'class {number}'})"
        for count, number in (min(sizes), max(sizes))
    )
    return f"classes are of very unequal size, from {smallest} to {largest} images"
