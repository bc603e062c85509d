"""Locks a folder: it has one writer at a time, and a second one is told who that is.

On a disk the lock of the kernel decides, which ends with its process. Buckets and some network
disks have no such lock: there a second writer is only warned, if the note of another one, or the
newest checkpoint next to it, is fresh.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf

FILE_NAME = "writer.lock"
FRESH_SECONDS = 1800.0  # a writer without a sign of life for so long is taken for dead
_STATE_FILE = "checkpoint"  # each save of a training rewrites it


class Held(UserError):
    """Another program writes to the folder."""


@contextlib.contextmanager
def hold(folder: str, flag: str, what: str) -> Iterator[None]:
    """Keeps a second writer out of a folder while the block runs.

    Args:
      folder: path of an existing folder, on disk or in a bucket.
      flag: the flag that named the folder, for the error.
      what: the use of the folder, such as 'training', for the error.

    Raises:
      Held: another program writes to the folder.
      UserError: the folder cannot be written.
    """
    path = os.path.join(folder, FILE_NAME)
    with contextlib.ExitStack() as stack:
        try:
            locked = stack.enter_context(_kernel_lock(folder))
        except BlockingIOError:
            raise Held(
                f"Another {what} is writing to --{flag}={folder} ({_named(_read(path))}): wait for "
                "its end, stop it, or choose another folder."
            ) from None
        if not locked:
            _warn(folder, what)
        note = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "time": time.time(),
        }
        try:
            files.write_json(path, note)
        except UserError as e:
            raise UserError(f"--{flag}={folder} cannot be locked: {e}") from e
        try:
            yield
        finally:
            with contextlib.suppress(UserError, tf.errors.OpError):
                if _read(path) == note:
                    tf.io.gfile.remove(path)


@contextlib.contextmanager
def _kernel_lock(folder: str) -> Iterator[bool]:
    """Locks a folder while the block runs; yields whether its file system can do so.

    Network disks and those of cloud drives often cannot, and say so by errors of many kinds.

    Raises:
      BlockingIOError: another process holds the lock.
    """
    if files.is_remote(folder):
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        locked = False
    try:
        yield locked
    finally:
        os.close(descriptor)


def _warn(folder: str, what: str) -> None:
    """Warns of another writer that seems to be alive, where no lock can tell."""
    path = os.path.join(folder, FILE_NAME)
    other = _read(path)
    if other is not None and not _is_gone(other):
        silent = min(time.time() - other["time"], _age(os.path.join(folder, _STATE_FILE)))
        if silent < FRESH_SECONDS:
            logging.warning(
                "Another %s may be writing to %s (%s; last sign of life %.0f s ago): if so, stop "
                "one of the two, for they would overwrite each other's files.",
                what,
                folder,
                _named(other),
                silent,
            )
    if not files.is_remote(folder):
        logging.warning(
            "%s is on a disk without locks (flock): a second %s that starts there at the same "
            "moment is not noticed.",
            folder,
            what,
        )


def _is_gone(note: dict[str, Any]) -> bool:
    """Whether the process of a note was on this machine and has ended."""
    if note["host"] != socket.gethostname():
        return False
    return note["process"] == os.getpid() or not os.path.exists(f"/proc/{note['process']}")


def _age(path: str) -> float:
    """Returns the seconds since a file was written; infinite if it is missing."""
    try:
        return time.time() - tf.io.gfile.stat(path).mtime_nsec / 1e9
    except tf.errors.OpError:
        return float("inf")


def _read(path: str) -> dict[str, Any] | None:
    """Returns what the note says; None if it is missing or another program's."""
    try:
        with tf.io.gfile.GFile(path) as f:
            note = json.loads(f.read())
        return note if {"host", "process", "since", "time"} <= note.keys() else None
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    except (ValueError, TypeError, AttributeError):
        return None


def _named(note: dict[str, Any] | None) -> str:
    return "process {process} on {host}, since {since}".format(**note) if note else "unknown"
