"""Reads numbers in bytes, within limits that weights files of every format have in common.

Weights files come from strangers. The sizes in a file's table are added up before an array is made,
so that a few bytes cannot ask for more memory than the machine has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from utils.base.errors import quoted

BFLOAT16 = "bfloat16"

_MOST_DIMENSIONS = 32  # NumPy has no more
_MOST_TENSORS = 10_000
_MOST_BYTES = 1 << 30
# Arrays may take more bytes than the file: halves become float32, and layers may share a tensor.
_MOST_COPIES = 8
_LEAST_ITEM = 4
_LONGEST_NAME = 256
DAMAGED = "download it again or save it anew"


class Malformed(Exception):
    """Says what is wrong with a file, and the remedy; the reader puts the path before it."""

    def __init__(self, problem: str, remedy: str = DAMAGED):
        super().__init__(f"{problem}; {remedy}")


def array(data: bytes | bytearray | memoryview, kind: str) -> np.ndarray:
    """Returns the flat array of some bytes, with halves as float32.

    Args:
      data: the numbers, little-endian.
      kind: name of a NumPy type such as '<f4', or BFLOAT16.
    """
    if kind == BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    numbers = np.frombuffer(data, kind)
    return numbers.astype(np.float32) if kind == "<f2" else numbers


def item_size(kind: str) -> int:
    """Returns how many bytes a number of a kind takes in a file."""
    return 2 if kind == BFLOAT16 else np.dtype(kind).itemsize


def check_dimensions(shape: Sequence[int]) -> None:
    """Raises Malformed for more dimensions than an array can have (NumPy would crash)."""
    if len(shape) > _MOST_DIMENSIONS:
        raise Malformed(
            f"a tensor in it has {len(shape)} dimensions, but the most is {_MOST_DIMENSIONS}"
        )


def check(tensors: Mapping[str, tuple[Sequence[int], str]], file_size: int) -> None:
    """Raises Malformed if a file's tensors cannot be those of a network.

    Args:
      tensors: name -> (shape, kind of number), as the file's table has them.
      file_size: bytes of the file.
    """
    _check_names(tensors)
    for shape, _ in tensors.values():
        check_dimensions(shape)
    total = sum(
        # NumPy checks the other dimensions of an array without numbers, so they must be possible.
        math.prod(max(size, 1) for size in shape) * max(item_size(kind), _LEAST_ITEM)
        for shape, kind in tensors.values()
    )
    if total > min(_MOST_BYTES, max(_MOST_COPIES * file_size, 1)):
        raise Malformed(
            f"its tensors would take {total} bytes, but the file has {file_size} and the most is "
            f"{_MOST_BYTES}",
            "save the model's state_dict() alone",
        )


def _check_names(names: Iterable[str]) -> None:
    for number, name in enumerate(names, 1):
        if number > _MOST_TENSORS:
            raise Malformed(
                f"it has more than {_MOST_TENSORS} tensors", "save the model's state_dict() alone"
            )
        # Names are printed: one with a line feed or an escape would garble the terminal.
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise Malformed(f"{quoted(name)} cannot be the name of a tensor")
