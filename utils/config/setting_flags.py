"""Makes the flags of a command, and its `--help`, from the table of settings."""

from __future__ import annotations

import argparse
import functools
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from absl import flags

from utils.base.errors import UserError
from utils.base.program import DEBUG_HELP
from utils.base.version import __version__
from utils.config import absl_flags, settings


def define_flags() -> flags.FlagValues:
    """Defines the flags of every setting, and absl's own.

    The default of a setting's flag is None, for "not given".
    """
    values = flags.FlagValues()
    for setting in settings.SETTINGS.values():
        for flag, is_boolean in _flags_of(setting):
            define = flags.DEFINE_boolean if is_boolean else flags.DEFINE_string
            define(flag, None, setting.help, flag_values=values)
    flags.DEFINE_boolean("version", False, "Prints the version.", flag_values=values)
    absl_flags.define(values)
    return values


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds flags of settings to the parser of another command; None stands for "not given"."""
    for name in names:
        setting = settings.SETTINGS[name]
        default = setting.unset if setting.default is None else setting.default
        parser.add_argument(
            f"--{name}",
            type=functools.partial(_value, setting, name),
            help=f"{setting.help[0].lower()}{setting.help[1:].rstrip('.')} (default: {default})",
        )


def _flags_of(setting: settings.Setting) -> Iterator[tuple[str, bool]]:
    """Yields (flag, whether it is a boolean) for the name of a setting and for its alias."""
    yield setting.name, setting.kind is bool
    if setting.alias:
        yield setting.alias, setting.kind is bool or setting.alias_values is not None


def parse_settings(argv: list[str], description: str) -> dict[str, Any]:
    """Returns the settings given on the command line, and starts the log that absl's flags ask for.

    `--version`, `--help` and its relatives exit with 0.

    Args:
      argv: the program's name and its arguments.
      description: the first line of `--help`.

    Raises:
      UserError, absl.flags.Error: an argument is invalid.
    """
    values = define_flags()
    rest = values(argv)[1:]
    _print_help(values, argv[0], description)
    if values["version"].value:
        print(__version__)
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: flags are written --name=value.")
    absl_flags.start_log(argv[0])
    given: dict[str, Any] = {}
    for name, setting in settings.SETTINGS.items():
        for flag, _ in _flags_of(setting):
            if values[flag].present:
                value = _value(setting, flag, values[flag].value)
                if given.setdefault(name, value) != value:
                    raise UserError(f"--{name} and --{flag} contradict each other: give one.")
    return given


def _print_help(values: flags.FlagValues, program: str, description: str) -> None:
    """Prints the help that a flag asks for, and exits with 0."""
    if values["helpxml"].value:
        values.write_help_in_xml_format(sys.stdout)
    elif values["helpfull"].value:
        print("\n".join([help_text(program, description), *absl_flags.help_lines()]))
    elif values["help"].value or values["helpshort"].value:
        print(help_text(program, description))
    else:
        return
    sys.exit(0)


def _value(setting: settings.Setting, flag: str, given: Any) -> Any:
    if flag == setting.alias and setting.alias_values is not None:
        return setting.alias_values[given]
    return settings.convert(setting.name, given, f"--{flag}={given}")


def help_text(program: str, description: str) -> str:
    """Returns the text of `--help`: every flag with its default, by group."""
    lines = [description, "", f"usage: {program} --model_dir=DIR --data_dir=DIR [--flag=value ...]"]
    for title, group in settings.GROUPS.items():
        lines += ["", f"{title}:"]
        for setting in group:
            name = f"--{setting.name}" + (f", --{setting.alias}" if setting.alias else "")
            default = setting.unset if setting.default is None else setting.default
            text = setting.help
            if setting.choices and setting.kind is str:
                text += f" One of {', '.join(setting.choices)}."
            if setting.fine_tuning is not None:
                default = f"{default}; with --init_checkpoint {setting.fine_tuning:g}"
            text += f" (default: {default})"
            lines.append(f"  {name}")
            lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", "Settings are taken from defaults, then --config_file, then --params_override,"]
    lines += ["then flags; a later one wins. Booleans: --flag, --noflag or --flag=false."]
    lines += [f"{DEBUG_HELP} --helpfull lists absl's own flags, too."]
    return "\n".join(lines)
