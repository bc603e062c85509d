"""What the programs share: log format, quiet libraries, one-sentence errors, flags from tables."""

from __future__ import annotations

import logging as python_logging
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags, logging

import utils.tensorflow_version  # noqa: F401
from utils import disk_errors, files, settings, stopping
from utils.errors import UserError
from utils.version import __version__

import tensorflow.compat.v1 as tf  # isort: skip


def set_up_logging() -> None:
    """Log lines of ours with time of day; of TensorFlow only errors."""
    # absl warns on stderr while its own flags are unparsed; ours are parsed separately.
    flags.FLAGS.mark_as_parsed()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    tf.get_logger().setLevel("ERROR")
    tf.get_logger().propagate = False
    # tf.layers is what names the variables of published checkpoints; its deprecation is known.
    warnings.filterwarnings("ignore", message=r".*tf\.layers.*", category=UserWarning)
    warnings.filterwarnings(
        "ignore", message=r"`(tf\.)?layer.* is deprecated", category=UserWarning
    )
    warnings.filterwarnings("ignore", module=r"(tf_slim|tensorflow|keras|google)\..*")


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> None:
    """Runs a program and exits with its status.

    A user's mistake (UserError), or a disk that refuses to read or write, prints one sentence and
    exits with 1; Ctrl-C and SIGTERM exit with 128 + the signal's number; so does an output that
    nobody reads any more (141).
    """
    set_up_logging()
    stopping.install()
    tf.disable_v2_behavior()
    argv = sys.argv if argv is None else argv
    try:
        try:
            status = main(argv)
        finally:
            sys.stdout.flush()
    except UserError as e:
        print(f"\nerror: {e}" if sys.stderr.isatty() else f"error: {e}", file=sys.stderr)
        status = 1
    except flags.Error as e:
        print(f"error: {_sentence(e)} --help lists the flags.", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # such as `... | head`: who read the output has enough
        # Python flushes stdout once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except disk_errors.ERRORS as e:
        reason = _environment_reason(e)
        if reason is None:
            raise
        print(f"error: {reason}.", file=sys.stderr)
        status = 1
    python_logging.shutdown()
    sys.exit(status or 0)


def _environment_reason(error: Exception) -> str | None:
    """What a disk or a bucket refused; None for any other error."""
    failure = disk_errors.find(error)
    if failure:
        return str(failure)
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError)):
        return f"access denied: {files.reason(error)}"
    return None


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else text + "."


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
    return "\n".join(lines)
