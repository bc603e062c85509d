"""The last net: an error that nobody foresaw is one sentence too, and its trace is not lost."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback

from utils.base import files
from utils.base.errors import excerpt
from utils.base.version import __version__

DEBUG_FLAG = "--debug"


def explain(error: Exception, debug: bool) -> str:
    """Returns the sentence for an error that is a bug of this package.

    Args:
      error: what nobody caught.
      debug: the trace was shown; otherwise it is saved to a file that the sentence names.
    """
    kind = type(error).__name__
    # A sentence that is not ours may be of any length.
    said = excerpt(files.reason(error), 500) if str(error) else "no message"
    if debug:
        return f"{_REPORT}: {kind}: {said}; please report it with the stack trace above."
    path = _save_trace(error)
    place = f"the stack trace in {path}" if path else f"what it shows with {DEBUG_FLAG}"
    return f"{_REPORT}: {kind}: {said}; please report it with {place}."


_REPORT = "this is a bug in mnasnet-tpu, not a mistake of yours"


def _save_trace(error: Exception) -> str | None:
    """Writes a trace to the folder of temporary files; returns its path, None if that fails."""
    lines = [
        f"mnasnet-tpu {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{sys.argv}\n",
        *traceback.format_exception(error),
    ]
    try:
        number, path = tempfile.mkstemp(prefix="mnasnet-error-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as f:
            f.writelines(lines)
    except OSError:
        return None
    return path
