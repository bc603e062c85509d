"""Loads TensorFlow when it is used.

TensorFlow takes seconds to load, for which nobody should wait who asks a command for its --help or
mistyped a flag. So commands import modules that need it in a block of `importing_later`, and what
both need, of `utils.base`, takes `tf` from here.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

_OWN = (
    "utils",
    "imagenet_input",
    "mnasnet_main",
    "mnasnet_model",
    "mnasnet_models",
    "preprocessing",
)


class _AtFirstUse:
    """Is `tensorflow.compat.v1`, loaded when an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        import tensorflow.compat.v1

        value = self.__dict__[name] = getattr(tensorflow.compat.v1, name)
        return value


tf: Any = _AtFirstUse()


class _OwnModulesLater(importlib.abc.MetaPathFinder):
    """Finds the modules of this package, and lets each load when an attribute is asked for."""

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] not in _OWN:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        # Packages load at once: what imports their modules asks for their path.
        if spec and spec.loader and spec.submodule_search_locations is None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextlib.contextmanager
def importing_later() -> Iterator[None]:
    """Returns a block in which imports of whole modules of this package wait for their first use.

    Errors of such a module are raised there, too.
    """
    finder = _OwnModulesLater()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Notice(importlib.abc.MetaPathFinder):
    """Calls a function once TensorFlow is loaded."""

    def __init__(self, function: Callable[[], None]):
        self._function = function

    def find_spec(self, fullname, path, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_call(module):
                execute(module)
                self._function()

            spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def when_loaded(function: Callable[[], None]) -> None:
    """Calls a function when TensorFlow is loaded; at once, if it is."""
    if is_loaded():
        function()
    else:
        sys.meta_path.insert(0, _Notice(function))


def is_loaded() -> bool:
    """Whether TensorFlow is loaded; if not, no error can be its own."""
    return "tensorflow" in sys.modules
