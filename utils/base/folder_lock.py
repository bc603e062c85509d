"""A lock on a folder: it has one writer at a time, and a second one is told who that is.

On a disk the kernel's lock decides, which ends with the process that holds it. Buckets and some
network disks have no such lock. There a file in the folder decides: its holder rewrites it every
few seconds, so a file that stays as it is was left by a killed program, and is taken over.
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

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "writer.lock"
BEAT_SECONDS = 20.0  # between two signs of life
PATIENCE_SECONDS = 60.0  # a holder without a sign of life for so long counts as dead
# By the clock, which may differ between hosts, a holder must be silent for longer.
_OLD_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class _Holder:
    """The content of the file.

    Attributes:
      host: name of the machine.
      process: id of the process there.
      since: local time at which it began, to be read.
      boot: identifies the run of the machine's kernel, which containers share.
      token: tells holders apart that agree in all of the above.
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

    Should another one take the folder over meanwhile, because this process was suspended for longer
    than others wait, a training here ends at its next step (`stopping.abandon`).

    Args:
      folder: exists, and can be written to.
      flag: that named it.
      what: the folder is used for, such as 'training'.

    Raises:
      UserError: another program writes to the folder.
    """
    path = os.path.join(folder, FILE_NAME)
    with contextlib.ExitStack() as stack:
        try:
            locked = stack.enter_context(_kernel_lock(folder))
            other = _read(path)
            if other and _lives(path, other, locked):
                raise BlockingIOError
        except BlockingIOError:
            raise UserError(
                f"Another {what} is writing to --{flag}={folder} ({_read(path) or 'unknown'}): "
                "wait for its end, stop it, or choose another folder."
            ) from None
        if other:
            logging.info("Taking %s over from a %s that is dead (%s).", folder, what, other)
        stack.enter_context(_beating(path, f"--{flag}={folder}", what))
        yield


@contextlib.contextmanager
def _kernel_lock(folder: str) -> Iterator[bool]:
    """Locks a folder, and yields whether its file system can do so.

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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _read(path: str) -> _Holder | None:
    """The holder that the file names; None if it is missing or not written by this module."""
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
    """Whether a holder still runs; of one on another host nothing is known but its beat.

    Args:
      path: of the file.
      holder: as the file named it.
      locked: whether this process has the kernel's lock, so that no other one here has it.
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
    except OSError:  # it is another user's
        return True
    return True


@contextlib.contextmanager
def _beating(path: str, where: str, what: str) -> Iterator[None]:
    """Names this process in the file, renews it while the block runs, and removes it then."""
    holder, stop = _this_process(), threading.Event()
    try:
        _write(path, holder)
    except tf.errors.OpError as e:
        raise UserError(f"{where} cannot be written: {files.reason(e)}.") from e

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            # An error that lasts for less than others wait does no harm.
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
