"""Defines the flags that several commands of `mnasnet-data` share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from utils.base import files
from utils.building import shards


def add_input(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of all builders that read pictures."""
    parser.add_argument("--input_dir", required=True, help="folder or bucket of pictures")
    parser.add_argument("--output_dir", required=True, help="folder or bucket for the files")
    parser.add_argument(
        "--max_bad_share",
        type=share,
        default=shards.MAX_BAD_SHARE,
        help="more unreadable pictures than this share are an error (default: %(default)s)",
    )
    add_building(parser)


def add_building(parser: argparse.ArgumentParser, seed_of: str = "the shuffling") -> None:
    """Adds the flags of all builders; `seed_of` says what --seed determines."""
    parser.add_argument(
        "--seed", type=int, default=0, help=f"seed of {seed_of} (default: %(default)s)"
    )
    parser.add_argument(
        "--num_threads",
        type=count,
        help="files written at a time (default: two a core, and 64 if the input is in a bucket)",
    )


def check_folders(arguments: argparse.Namespace) -> None:
    """Checks the name of the folder of TFRecords; folders of pictures may have any name.

    Raises:
      UserError: training would not find the folder again by this name.
    """
    for flag in ("output_dir", "data_dir"):
        if hasattr(arguments, flag):
            files.check_dir_name(getattr(arguments, flag), flag)


def share(text: str) -> float:
    """Returns a share for argparse: a number from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is invalid: it must be a number from 0 to 1")


def count(text: str) -> int:
    """Returns a count for argparse: a whole number of at least 1."""
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is invalid: it must be a whole number, at least 1")


def set_run(parser: argparse.ArgumentParser, build: Callable, kind: Any) -> None:
    """Has a command call `build` with a NamedTuple of options, from the flags of the same names."""

    def run(arguments: argparse.Namespace) -> None:
        build(kind(**{name: getattr(arguments, name) for name in kind._fields}))

    parser.set_defaults(run=run)


def given(options: Any, names: Iterable[str]) -> dict[str, Any]:
    """Returns those of a NamedTuple's named fields that do not have their default."""
    defaults = options._field_defaults
    return {k: getattr(options, k) for k in names if getattr(options, k) != defaults.get(k)}
