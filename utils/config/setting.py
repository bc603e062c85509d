"""Describes a setting, and converts what a user gives to its type and within its limits."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.base import files
from utils.base.errors import UserError, excerpt

MOST_CHARACTERS = 4096  # the longest path on Linux


@dataclasses.dataclass(frozen=True)
class Setting:
    """Describes one setting.

    Attributes:
      name: name of the flag, of the YAML key and of the entry of `params`.
      kind: bool, int, float, str, or object (a str or a mapping).
      default: the value if no layer of settings gives one.
      help: one sentence; `--help` adds the default.
      unset: what None means, for `--help`.
      choices: the only valid values; None for no such limit.
      minimum: smallest value.
      maximum: largest value; a number without one has `below`. For a text, the largest number of
        characters; None for MOST_CHARACTERS.
      above: the value must be greater than this.
      below: the value must be less than this, also as the float32 that TensorFlow computes with.
      alias: a second flag.
      alias_values: the values that the alias stands for, if it is a boolean flag.
      fine_tuning: the default if --init_checkpoint is given; None if it does not differ.
      zero_is_unset: whether 0 means what None means, as in the published program's own defaults.
    """

    name: str
    kind: type
    default: Any
    help: str
    unset: str = "unset"
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    alias: str | None = None
    alias_values: Mapping[bool, Any] | None = None
    fine_tuning: Any = None
    zero_is_unset: bool = False

    def convert(self, value: Any, given: str) -> Any:
        """Returns a value in the type of the setting, with ~ replaced; None stays None.

        Args:
          value: from a flag or a YAML file; 0 becomes None for a setting with `zero_is_unset`.
          given: how the user gave it, for the error: '--name=value' or 'FILE: name=value'.

        Raises:
          UserError: the value cannot be converted, or lies outside the limits of the setting.
        """
        if value is None:
            return None
        converted = _to_kind(self.kind, value)
        if converted is None:
            raise UserError(f"{excerpt(given)} is not {_KIND_NAMES[self.kind]}.")
        if self.zero_is_unset and converted == 0:
            return None
        if isinstance(converted, str):  # many are paths, and no other text begins with ~
            converted = files.expand_home(converted)
        wrong = _outside_limits(self, converted)
        if wrong:
            raise UserError(f"{excerpt(given)} is invalid: {wrong}.")
        return converted


_KIND_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    object: "a file name or a mapping",
}


def _to_kind(kind: type, value: Any) -> Any:
    """Returns the value as `kind`; None if it cannot be converted."""
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if isinstance(value, bool):
        return None
    if kind is object:
        return value if isinstance(value, (str, dict)) else None
    if kind is str:
        return str(value) if isinstance(value, (str, int, float)) else None
    if kind is int and isinstance(value, str):
        # A detour over float would keep 53 bits alone.
        with contextlib.suppress(ValueError):
            return int(value)
    if kind is int and isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if kind is int:
        return int(number) if number == int(number) else None
    return number


def _outside_limits(setting: Setting, value: Any) -> str | None:
    """Returns what a value must be instead; None for a valid one."""
    if isinstance(value, dict):
        return None
    if isinstance(value, str):
        return _unlike_text(setting, value)
    if setting.minimum is not None and value < setting.minimum:
        return f"it must be at least {setting.minimum}"
    if setting.maximum is not None and value > setting.maximum:
        return f"it must be at most {setting.maximum}"
    if setting.above is not None and value <= setting.above:
        return f"it must be greater than {setting.above}"
    if setting.below is not None and np.float32(value) >= setting.below:
        return f"it must be less than {setting.below}"
    return None


def _unlike_text(setting: Setting, text: str) -> str | None:
    """Returns what a text must be instead; None for a valid one."""
    if setting.choices is not None and text not in setting.choices:
        return f"choose one of {', '.join(setting.choices)}"
    most = setting.maximum or MOST_CHARACTERS
    if len(text) > most:
        return f"it must be at most {most} characters long"
    # TensorFlow needs names in UTF-8, and cuts some off at a zero byte.
    if any((c < " " and c not in "\t\n") or "\ud800" <= c <= "\udfff" for c in text):
        return "it has a character that cannot be printed, or is not in UTF-8; rename it"
    return None
