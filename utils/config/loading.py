"""Reads what a user says: flags, and settings in YAML, in files or within a flag."""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib.resources
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml
from absl import app, flags, logging

from utils.base import files
from utils.base.errors import UserError, excerpt
from utils.base.program import DEBUG_HELP
from utils.base.version import __version__
from utils.config import settings

# Flags.


def define_flags() -> flags.FlagValues:
    """Defines the flags of every setting, and absl's own.

    The default of a setting's flag is None, for "not given".
    """
    values = flags.FlagValues()
    for name, setting in settings.SETTINGS.items():
        define = flags.DEFINE_boolean if setting.kind is bool else flags.DEFINE_string
        define(name, None, setting.help, flag_values=values)
        if setting.alias:
            flags.DEFINE_alias(setting.alias, name, flag_values=values)
    flags.DEFINE_boolean("use_bfloat16", None, "Is --precision=bfloat16.", flag_values=values)
    for name, text, short in (
        ("version", "Prints the version.", None),
        ("help", "Prints each setting.", "?"),
        ("helpshort", "Is --help.", None),
        ("helpfull", "Prints absl's flags as well.", None),
        ("helpxml", "Prints --helpfull as XML.", None),
    ):
        flags.DEFINE_boolean(name, False, text, short_name=short, flag_values=values)
    for absl_flag in _absl_flags():
        values[absl_flag.name] = absl_flag  # a value that is parsed takes effect on absl at once
        values.register_flag_by_module("absl", absl_flag)  # for --helpxml
    return values


def _absl_flags() -> list[flags.Flag]:
    """Returns absl's own flags, such as --verbosity and --log_dir, but for those that print help.

    absl.app defines its flags for help once a program has called it; they exit with 1.
    """
    not_ours = ("help", "helpshort", "helpfull", "helpxml", "only_check_flags")
    return [
        flag
        for module in (logging, app)
        for flag in flags.FLAGS.get_flags_for_module(module.__name__)
        if flag.name not in not_ours
    ]


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds flags of settings to the parser of another command; None stands for "not given"."""
    for name in names:
        setting = settings.SETTINGS[name]
        text = setting.help[0].lower() + setting.help[1:].rstrip(".")
        parser.add_argument(
            f"--{name}",
            type=functools.partial(_converted, name),
            help=f"{text} (default: {setting.default_text})",
        )


def parse_flags(argv: list[str], description: str) -> dict[str, Any]:
    """Returns the settings given as flags, and starts the log that absl's flags ask for.

    `--version`, `--help` and its relatives exit with 0.

    Args:
      argv: the program's name and its arguments.
      description: the first line of `--help`.

    Raises:
      UserError, absl.flags.Error: an argument is invalid.
    """
    values = define_flags()
    rest = values(argv)[1:]
    if values["helpxml"].value:
        values.write_help_in_xml_format(sys.stdout)
        sys.exit(0)
    if any(values[name].value for name in ("help", "helpshort", "helpfull")):
        print(help_text(argv[0], description, bool(values["helpfull"].value)))
        sys.exit(0)
    if values["version"].value:
        print(__version__)
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: flags are written --name=value.")
    _start_log(argv[0])
    given = {
        name: _converted(name, values[name].value)
        for name in settings.SETTINGS
        if values[name].value is not None
    }
    use_bfloat16 = values["use_bfloat16"].value
    if use_bfloat16 is not None:
        precision = "bfloat16" if use_bfloat16 else "float32"
        if given.setdefault("precision", precision) != precision:
            raise UserError("--precision and --use_bfloat16 contradict each other: give one.")
    return given


def _converted(name: str, value: Any) -> Any:
    return settings.convert(name, value, f"--{name}={value}")


def help_text(program: str, description: str, full: bool = False) -> str:
    """Returns the text of `--help`: every flag with its default, by group; absl's too if `full`."""

    def entry(name: str, text: str, default: str) -> list[str]:
        text = f"{text} (default: {default})"
        indent = " " * 6
        return [
            f"  {name}",
            *textwrap.wrap(text, 92, initial_indent=indent, subsequent_indent=indent),
        ]

    lines = [description, "", f"usage: {program} --model_dir=DIR --data_dir=DIR [--flag=value ...]"]
    for title, group in settings.GROUPS.items():
        lines += ["", f"{title}:"]
        for name, setting in group.items():
            text, default = setting.help, setting.default_text
            if setting.choices:
                text += f" One of {', '.join(setting.choices)}."
            if setting.fine_tuning is not None:
                default += f"; with --init_checkpoint {setting.fine_tuning:g}"
            alias = f", --{setting.alias}" if setting.alias else ""
            lines += entry(f"--{name}{alias}", text, default)
    lines += ["", *textwrap.wrap(f"A later one wins: {settings.ORDER}.", 98)]
    lines += ["Booleans: --flag, --noflag or --flag=false."]
    lines += [f"{DEBUG_HELP} --helpfull lists absl's own flags, too."]
    if full:
        lines += ["", "absl's own:"]
        for flag in _absl_flags():
            short = f", -{flag.short_name}" if flag.short_name else ""
            text = " ".join(flag.help.split())
            lines += entry(f"--{flag.name}{short}", text, flag.default_as_str or "unset")
    return "\n".join(lines)


def _start_log(program: str) -> None:
    """Writes the log to a file in --log_dir, if it is given, in absl's format.

    As with every program that uses absl, stderr then gets what --stderrthreshold says, and all of
    the log with --alsologtostderr; with --logtostderr there is no file.
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


def call_as_absl_does(function: Callable[[Any], object], argument: Any) -> None:
    """Calls a function as absl.app calls a program's main.

    So --run_with_pdb, --run_with_profiling and --profile_file run it in the debugger or profiler,
    and --pdb_post_mortem starts the debugger at an error. --only_check_args does not call it.
    """
    if flags.FLAGS["only_check_args"].value:
        logging.info("The settings are valid; --only_check_args runs nothing.")
        return
    if flags.FLAGS["profile_file"].value:
        files.check_writable(flags.FLAGS["profile_file"].value, "profile_file")
    try:
        # The flags are parsed: app.run, which would print usages and exit statuses of its own where
        # this package prints one sentence, finds none.
        app.run(lambda _: function(argument) and None, argv=[__name__], flags_parser=list)
    except SystemExit as e:
        if e.code:  # absl.app also exits when all is well
            raise


# Files of settings, and the same within a flag.


def layers(given: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (how the user gave them, settings) of --config_file, --params_override and the flags.

    Args:
      given: the settings given as flags.

    Raises:
      UserError: a setting is unknown or invalid.
    """
    for flag in ("config_file", "params_override"):
        if not given.get(flag):
            continue
        source, layer = _layer(flag, given[flag])
        for name in layer:
            if name not in settings.SETTINGS:
                near = difflib.get_close_matches(str(name), settings.SETTINGS, 1)
                hint = f"did you mean {near[0]!r}?" if near else "see --help for the settings."
                raise UserError(f"{source} has the unknown setting {excerpt(repr(name))}: {hint}")
            if name in ("config_file", "params_override"):
                raise UserError(f"{source}: {name} can be given on the command line only.")
        yield (
            f"{source}: ",
            {n: settings.convert(n, v, f"{source}: {n}={v!r}") for n, v in layer.items()},
        )
    yield "--", dict(given)


def _layer(flag: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns (source for errors, settings) of --config_file or --params_override.

    Both take a profile, a YAML file, 'name=value,name=value' and a YAML mapping, as the published
    program does. A file comes before pairs, because a folder may be called 'lr=0.1'.
    """
    folder = importlib.resources.files("utils.config") / "profiles"
    profiles = {
        f.name.removesuffix(".yaml"): str(f) for f in folder.iterdir() if f.name.endswith(".yaml")
    }
    path = profiles.get(text, text)
    pairs = [pair.partition("=") for pair in text.split(",")]
    is_pairs = all(equals and name.strip() for name, equals, _ in pairs)
    is_mapping = text.lstrip().startswith("{")
    if os.path.exists(path) or (files.is_remote(path) and not is_pairs and not is_mapping):
        return path, read_mapping(path)
    source = f"--{flag}"
    if is_pairs and not is_mapping:
        given: dict[str, Any] = {}
        for name, _, value in pairs:
            pair = excerpt(f"{name.strip()}={value}")
            if name.strip() in given:
                raise UserError(f"{source} gives {pair} after another value: remove one.")
            given[name.strip()] = load_yaml(value, f"{source}: {pair}")
        return source, given
    content = load_yaml(text, f"{source}={excerpt(text)}")
    if not isinstance(content, dict):
        raise UserError(
            f"{source}={excerpt(text)} is neither a file nor one of the profiles "
            f"{', '.join(sorted(profiles))} nor 'name=value,name=value' nor a YAML mapping."
        )
    return source, content


class _Loader(yaml.SafeLoader):
    """Loads plain values, leaves dates as text, and refuses a name that is given twice."""

    # A folder may be called 2026-01-01.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                problem = f"{excerpt(key.value)} is given twice; remove one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def load_yaml(text: str, source: str) -> Any:
    """Returns the content of a YAML (or JSON) text; dates stay text.

    Args:
      text: one document.
      source: how the user gave it, for the error: a file or a flag.

    Raises:
      UserError: the text is not valid, or gives a name twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(e, "problem", None) or e).split())
        raise UserError(f"{source} is not valid YAML: {place}{problem}.") from e


def read_mapping(path: str) -> dict[str, Any]:
    """Returns the mapping in a YAML (or JSON) file; {} for an empty file.

    Raises:
      UserError: the file cannot be read, is not valid or holds something else.
    """
    content = load_yaml(files.read_text(path), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping (name: value lines).")
    return content
