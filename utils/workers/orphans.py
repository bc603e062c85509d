"""Ends a worker whose launcher is gone, so that no process is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time

_VARIABLE = "MNASNET_LAUNCHER"  # process id of the launcher
_POLL = 1.0  # seconds


def environment() -> dict[str, str]:
    """Returns what a launcher adds to the environment of its workers."""
    return {_VARIABLE: str(os.getpid())}


def watch() -> None:
    """Sends this process SIGTERM, at which a training saves, once its launcher has died."""
    launcher = os.environ.pop(_VARIABLE, None)
    if launcher is None:
        return

    def wait() -> None:
        while os.getppid() == int(launcher):
            time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="orphans", daemon=True).start()
