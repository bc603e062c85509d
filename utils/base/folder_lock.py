"""Locks a folder: it has one writer at a time, and a second one is told who that is.

On a disk the lock of the kernel decides, which ends with its process. Buckets and some network
disks have no such lock. There a file in the folder decides: the holder rewrites the file every few
seconds, so a file that does not change was left by a killed program, and the next program takes
the folder over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging

from utils.base import files, stopping
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf

FILE_NAME = "writer.lock"
BEAT_SECONDS = 20.0  # between two signs of life
PATIENCE_SECONDS = 60.0  # a holder without a sign of life for so long counts as dead
# The clocks of two hosts may differ, so by the clock a holder must be silent for longer.
_OLD_SECONDS = 300.0


class Held(UserError):
    """Says that another program writes to the folder."""


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Holds the content of the file.

    Attributes:
      host: name of the machine.
      process: id of the process there.
      since: local time at which the process took the folder, for people to read.
      boot: identifies the run of the kernel, which containers of a machine share.
      token: tells holders apart that agree in all fields above.
      beat: time of the last sign of life, in seconds since 1970.
    """

    host: str
    process: int
    since: str
    boot: str
    token: str
    beat: float

    def __str__(self):
        return f"process {self.process} on {self.host}, since {self.since}"


@contextlib.contextmanager
def hold(folder: str, flag: str, what: str) -> Iterator[None]:
    """Keeps a second writer out of a folder while the block runs.

    If this process is suspended for longer than others wait, another program takes the folder over;
    a training in this process then ends at its next step (`stopping.abandon`).

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
            other = _read(path)
            if other and _lives(path, other, locked):
                raise BlockingIOError
        except BlockingIOError:
            raise Held(
                f"Another {what} is writing to --{flag}={folder} ({_read(path) or 'unknown'}): "
                "wait for its end, stop it, or choose another folder."
            ) from None
        if not locked and not files.is_remote(folder):
            logging.warning(
                "%s is on a disk without locks (flock): a second %s that starts there at the same "
                "moment is not noticed.", folder, what,
            )  # fmt: skip
        if other:
            logging.info("Taking %s over from a %s that is dead (%s).", folder, what, other)
        stack.enter_context(_beating(path, f"--{flag}={folder}", what))
        yield


@contextlib.contextmanager
def _kernel_lock(folder: str) -> Iterator[bool]:
    """Locks a folder while the block runs; yields whether its file system can do so.

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
        yield kernel_locks(descriptor)
    finally:
        os.close(descriptor)


def kernel_locks(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; returns whether its disk can do so.

    Network disks and those of cloud drives often cannot, and say so by errors of many kinds.

    Raises:
      BlockingIOError: another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _read(path: str) -> _Holder | None:
    """Returns the holder that the file names; None if the file is missing or another program's."""
    try:
        with tf.io.gfile.GFile(path) as f:
            return _Holder(**json.loads(f.read()))
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    except (ValueError, TypeError):
        return None


def _write(path: str, holder: _Holder) -> None:
    files.write_text(path, json.dumps(dataclasses.asdict(holder)))


def _this_process() -> _Holder:
    return _Holder(
        host=socket.gethostname(),
        process=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        boot=_boot(),
        token=uuid.uuid4().hex,
        beat=time.time(),
    )


def _boot() -> str:
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def _lives(path: str, holder: _Holder, locked: bool) -> bool:
    """Tells whether a holder still runs; on another host only its sign of life shows it.

    Args:
      path: of the file.
      holder: as the file named it.
      locked: whether this process has the kernel's lock, so that no other process here has it.
    """
    same_boot, same_host = holder.boot == _boot(), holder.host == socket.gethostname()
    if locked and (same_boot or same_host):
        return False
    if same_boot and same_host and not _is_running(holder.process):
        return False
    if time.time() - holder.beat > _OLD_SECONDS:
        return False
    logging.info("Waiting up to %g s for a sign of life of %s.", PATIENCE_SECONDS, holder)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1, BEAT_SECONDS))
        now = _read(path)
        if now != holder:
            return now is not None
    return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, but is another user's
        return True
    return True


@contextlib.contextmanager
def _beating(path: str, where: str, what: str) -> Iterator[None]:
    """Writes the file, renews it while the block runs, and removes it at the end."""
    holder, stop = _this_process(), threading.Event()
    try:
        _write(path, holder)
    except UserError as e:
        raise UserError(f"{where} cannot be locked: {e}") from e

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            # An error does no harm unless it lasts for longer than others wait.
            with contextlib.suppress(UserError, tf.errors.OpError):
                other = _read(path)
                if other and other.token != holder.token:
                    stopping.abandon(
                        f"Another {what} has taken {where} over ({other}), because this one gave "
                        "no sign of life for a while: start this one again when that has ended."
                    )
                    return
                _write(path, dataclasses.replace(holder, beat=time.time()))

    thread = threading.Thread(target=beat, name="folder_lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(UserError, tf.errors.OpError):
            last = _read(path)
            if last and last.token == holder.token:
                tf.io.gfile.remove(path)
