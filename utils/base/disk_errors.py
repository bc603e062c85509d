"""Finds out which file an error of a disk is about, what the system says, and what helps.

TensorFlow's errors carry the words of the system in their texts alone; some are RuntimeErrors, and
a file that is too large arrives as the end of a sequence: OutOfRangeError, or IndexError from the
writer of event files. So this module looks for the words.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from utils.base import tensorflow_version

_REMEDIES = {
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EROFS: "choose another folder, or mount this one writable",
    errno.EACCES: "correct the permissions",
    errno.EPERM: "correct the permissions",
    errno.EISDIR: "move away the folder that has the name of a file",
    errno.ENOTDIR: "move away the file that has the name of a folder",
    errno.EIO: "check the disk",
}


class Failure(NamedTuple):
    """Describes what went wrong with a file.

    Attributes:
      path: of the file; None if the error does not name it.
      reason: the words of the system.
      remedy: what the user can do.
    """

    path: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.reason}; {self.remedy}, and run the same command again"


def types() -> tuple[type[Exception], ...]:
    """Returns the types in which an error of a disk may arrive."""
    others = (tensorflow_version.tf.errors.OpError,) if tensorflow_version.is_loaded() else ()
    return (OSError, RuntimeError, IndexError, *others)


def find(error: BaseException) -> Failure | None:
    """Returns what a disk or folder refused; None for an error of another kind."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return Failure(error.filename, os.strerror(error.errno), _REMEDIES[error.errno])
    if not isinstance(error, types()):
        return None
    text = getattr(error, "message", None) or str(error)
    if "No usable temporary directory" in text:  # Python's words if all are full
        return Failure(None, text, "make room in one of them, or name another one in TMPDIR")
    for number, remedy in _REMEDIES.items():
        reason = os.strerror(number)
        # "PATH; No space left on device", and in one place "PATH is not a directory".
        pattern = rf"(?:([^;\n]+?)(?:; | is ))?{re.escape(reason)}"
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return Failure(found[1], reason, remedy)
    return None
