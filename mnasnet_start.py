"""Starts the console commands, and refuses a `utils` or `preprocessing` of another program.

Other programs have modules of these two names, too. Python imports the one that comes first on its
path, and pip overwrites a file of one package with that of another without a word. So every
published module imports this one before the two; this one imports nothing of the package.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from typing import NoReturn

# Stands in the first lines of the files that another package may overwrite.
MARK = "This file belongs to mnasnet-tpu"
# Module -> the file that it is imported from, next to this one.
_FILES = {"utils": "utils/__init__.py", "preprocessing": "preprocessing.py"}


class CannotStart(ImportError):
    """Says in one sentence why no program of this package can run here, and what to do."""


def refuse(sentence: str) -> NoReturn:
    """Raises CannotStart, which ends a program with one sentence, status 1 and no stack trace."""
    sys.excepthook = _print_without_trace
    raise CannotStart(sentence)


def _print_without_trace(kind, error, trace):
    if issubclass(kind, CannotStart):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def problem(name: str) -> str | None:
    """Returns the sentence for a module that is not this package's; None if it is."""
    file = _real(os.path.join(os.path.dirname(__file__), _FILES[name]))
    spec = importlib.util.find_spec(name)
    found = _real(spec.origin) if spec and spec.origin else None
    if found and os.path.dirname(found) != os.path.dirname(file):
        return (
            f"import {name} finds {found}, which is not part of mnasnet-tpu ({file}): rename it, "
            "or take its folder off Python's path (the folder of the script that runs, the working "
            "folder, PYTHONPATH, installed packages)."
        )
    if not found or (found == file and not _has_mark(file)):
        others = ", ".join(sorted(_packages_with(_FILES[name]) - {"mnasnet-tpu"}))
        return (
            f"{file} is no longer that of mnasnet-tpu: another package with a file of this name "
            f"was installed or removed{others and f' ({others})'}; install mnasnet-tpu again, in a "
            "virtual environment of its own."
        )
    return None


def _real(path: str) -> str:
    """Returns the path of a file in its real folder; some installers link the files themselves."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _has_mark(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as f:
        return MARK in f.read()


def _packages_with(path: str) -> set[str]:
    """Returns the names of the installed packages with a file of this path, as pip knows it."""
    return {
        package.metadata["Name"]
        for package in importlib.metadata.distributions()
        if path in map(str, package.files or ())
    }


def check() -> None:
    """Raises CannotStart if `utils` or `preprocessing` is not this package's."""
    for name in _FILES:
        sentence = problem(name)
        if sentence:
            refuse(sentence)


def _run(module: str) -> None:
    """Runs a command; its module is imported only now, after the check."""
    importlib.import_module(module).console()


# The console commands, for setup.py.
main = functools.partial(_run, "mnasnet_main")
data = functools.partial(_run, "utils.data")
classify = functools.partial(_run, "utils.classify")
evaluate = functools.partial(_run, "utils.evaluate")
report = functools.partial(_run, "utils.report")
export_table = functools.partial(_run, "utils.export_table")
complexity = functools.partial(_run, "utils.complexity")
import_weights = functools.partial(_run, "utils.import_weights")
export_weights = functools.partial(_run, "utils.export_weights")
pretrained = functools.partial(_run, "utils.pretrained")
checkpoint_tool = functools.partial(_run, "utils.checkpoint_tool")
tpu_check = functools.partial(_run, "utils.tpu_check")
demo_page = functools.partial(_run, "utils.demo_page")
check_exports = functools.partial(_run, "utils.check_exports")

check()
