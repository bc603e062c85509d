"""Gives the program absl's own flags, such as --verbosity and --log_dir, with absl's meaning.

Its flags are parsed with those of the settings, because absl.app would print usages and exit with
statuses of its own where this package prints one sentence (`utils.base.program`).
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from utils.base import files
from utils.base.errors import UserError

_MODULES = (logging, app)
# absl.app defines its own flags for help when a program has called it; they exit with 1.
_HELP = ("help", "helpshort", "helpfull", "helpxml")


def define(values: flags.FlagValues) -> None:
    """Adds absl's flags; a value that is parsed takes effect on absl at once."""
    for flag in _own_flags():
        values[flag.name] = flag
        values.register_flag_by_module("absl", flag)  # for --helpxml
    flags.DEFINE_boolean("help", False, "Prints each setting.", short_name="?", flag_values=values)
    flags.DEFINE_boolean("helpshort", False, "Is --help.", flag_values=values)
    flags.DEFINE_boolean("helpfull", False, "Prints absl's flags as well.", flag_values=values)
    flags.DEFINE_boolean("helpxml", False, "Prints --helpfull as XML.", flag_values=values)


def _own_flags() -> list[flags.Flag]:
    """Returns the flags of absl.logging and absl.app but for those that print help."""
    return [
        flag
        for module in _MODULES
        for flag in flags.FLAGS.get_flags_for_module(module.__name__)
        if flag.name not in (*_HELP, "only_check_flags")
    ]


def help_lines() -> list[str]:
    """Returns what --helpfull prints after --help."""
    lines = ["", "absl's own:"]
    for flag in _own_flags():
        lines.append(f"  --{flag.name}" + (f", -{flag.short_name}" if flag.short_name else ""))
        text = f"{' '.join(flag.help.split())} (default: {flag.default_as_str or 'unset'})"
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def start_log(program: str) -> None:
    """Writes the log to a file in --log_dir, if it is given, in absl's format.

    As with every program that uses absl, stderr then gets what --stderrthreshold says, and all of
    the log with --alsologtostderr; with --logtostderr there is no file.

    Args:
      program: what the file's name begins with.

    Raises:
      UserError: the folder cannot be made or is not writable.
    """
    flags.FLAGS.mark_as_parsed()
    for name in ("log_dir", "profile_file"):
        flags.FLAGS[name].value = files.expand_home(flags.FLAGS[name].value or "")
    log_dir = flags.FLAGS["log_dir"].value
    if not log_dir or flags.FLAGS["logtostderr"].value:
        return
    if files.is_remote(log_dir):
        raise UserError(f"--log_dir={log_dir} is a bucket: name a folder of this machine.")
    files.make_writable_dir(log_dir, "log_dir")
    handler = logging.get_absl_handler()
    handler.use_absl_log_file(os.path.splitext(os.path.basename(program))[0], log_dir)
    handler.setFormatter(logging.PythonFormatter())


def call(function: Callable[[Any], object], argument: Any) -> None:
    """Calls a function as absl.app calls a program's main.

    So --run_with_pdb, --run_with_profiling and --profile_file run it in the debugger or profiler,
    and --pdb_post_mortem starts the debugger at an error. --only_check_args does not call it.
    """
    if flags.FLAGS["only_check_args"].value:
        logging.info("The settings are valid; --only_check_args runs nothing.")
        return
    if flags.FLAGS["profile_file"].value:
        files.check_writable(flags.FLAGS["profile_file"].value, "profile_file")

    def main(argv: list[str]) -> None:
        del argv
        function(argument)

    try:
        app.run(main, argv=[__name__], flags_parser=list)  # they are parsed
    except SystemExit as e:
        if e.code:  # absl.app also exits when all is well
            raise
