"""What the programs share: log format, quiet libraries, one-sentence errors, flags from tables."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from absl import flags

import utils.base.tensorflow_version  # noqa: F401
from utils.base.errors import UserError
from utils.base.program import DEBUG_HELP
from utils.base.version import __version__
from utils.config import settings


def setting_flags(
    groups: Mapping[str, tuple[settings.Setting, ...]],
) -> flags.FlagValues:
    """Defines a flag for each setting. None is the default of all: it means not given."""
    values = flags.FlagValues()
    for setting in (s for group in groups.values() for s in group):
        define = flags.DEFINE_boolean if setting.kind is bool else flags.DEFINE_string
        for name in filter(None, (setting.name, setting.alias)):
            define(name, None, setting.help, flag_values=values)
    flags.DEFINE_boolean("use_bfloat16", None, "precision", flag_values=values)
    flags.DEFINE_boolean("help", False, "Prints this text.", flag_values=values)
    flags.DEFINE_boolean("version", False, "Prints the version.", flag_values=values)
    return values


def parse_settings(argv: list[str], description: str) -> dict[str, Any]:
    """Returns the settings given on the command line; `--help` and `--version` exit with 0.

    Raises:
      UserError, absl.flags.Error: an argument is not possible.
    """
    values = setting_flags(settings.GROUPS)
    rest = values(argv)[1:]
    if values["help"].value:
        print(help_text(argv[0], description))
        sys.exit(0)
    if values["version"].value:
        print(__version__)
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: flags are written --name=value.")
    given: dict[str, Any] = {}
    for name, setting in settings.SETTINGS.items():
        for flag in filter(None, (name, setting.alias)):
            if values[flag].present:
                value = values[flag].value
                converted = settings.convert(name, value, f"--{flag}={value}")
                if given.setdefault(name, converted) != converted:
                    raise UserError(f"--{name} and --{flag} contradict each other: give one.")
    if values["use_bfloat16"].present:
        precision = "bfloat16" if values["use_bfloat16"].value else "float32"
        if given.get("precision", precision) != precision:
            raise UserError("--use_bfloat16 and --precision contradict each other: give one.")
        given["precision"] = precision
    return given


def help_text(program: str, description: str) -> str:
    """The text of `--help`: every flag with its default, by group."""
    lines = [description, "", f"usage: {program} --model_dir=DIR --data_dir=DIR [--flag=value ...]"]
    for title, group in settings.GROUPS.items():
        lines += ["", f"{title}:"]
        for setting in group:
            name = f"--{setting.name}" + (f", --{setting.alias}" if setting.alias else "")
            default = setting.unset if setting.default is None else setting.default
            text = setting.help
            if setting.choices and setting.kind is str:
                text += f" One of {', '.join(setting.choices)}."
            if setting.name == "precision":
                text += " --use_bfloat16 is short for bfloat16."
            if setting.fine_tuning is not None:
                default = f"{default}; with --init_checkpoint {setting.fine_tuning:g}"
            text += f" (default: {default})"
            lines.append(f"  {name}")
            lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", "Settings are taken from defaults, then --config_file, then --params_override,"]
    lines += ["then flags; a later one wins. Booleans: --flag, --noflag or --flag=false."]
    lines += [DEBUG_HELP]
    return "\n".join(lines)
