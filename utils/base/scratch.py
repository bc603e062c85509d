"""Makes temporary folders for unfinished work, and removes those that a kill has left.

Each folder is locked while its program lives, and a kill opens the lock. So the next program can
tell a folder in use from one that nobody will remove. On a disk without locks, nothing is removed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator

from utils.base import files, folder_lock
from utils.base.errors import UserError


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[str]:
    """Makes a local folder for the block; removes those of the prefix that a kill has left.

    Args:
      prefix: how the name of the folder begins.

    Raises:
      UserError: the block cannot write to the folder, because the disk is full or the like.
    """
    _remove_abandoned(prefix)
    path, lock = _make_locked(prefix)
    try:
        yield path
    except files.types() as e:
        failure = files.find(e)
        if failure is None or not (failure.path or "").startswith(path):
            raise
        raise UserError(
            f"The temporary folder {os.path.dirname(path)} cannot be written: {failure.reason}; "
            "make room there or name another one in the variable TMPDIR, and run the same command "
            "again."
        ) from e
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _make_locked(prefix: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=prefix)
        lock = os.open(path, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            folder_lock.kernel_locks(lock)
            if os.path.isdir(path):
                return path, lock
        os.close(lock)  # before the lock, another program took it for abandoned


def _remove_abandoned(prefix: str) -> None:
    for path in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), prefix + "*")):
        with contextlib.suppress(OSError):  # it is another user's, in use, or removed by now
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if folder_lock.kernel_locks(lock):
                    shutil.rmtree(path)
            finally:
                os.close(lock)
