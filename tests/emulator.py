"""Runs the real Bigtable emulator for tests."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

MISSING = "The Bigtable emulator is not installed: gcloud components install bigtable."


def find_program():
    """Returns the emulator's program on PATH or in the Google Cloud CLI's folder; None without."""
    gcloud = shutil.which("gcloud")
    if shutil.which("cbtemulator") or not gcloud:
        return shutil.which("cbtemulator")
    root = os.path.dirname(os.path.dirname(os.path.realpath(gcloud)))
    return shutil.which(os.path.join(root, "platform", "bigtable-emulator", "cbtemulator"))


def require():
    """Skips where the emulator is not installed; fails if MNASNET_REQUIRE_EMULATOR is set."""
    if find_program() is None:
        if os.environ.get("MNASNET_REQUIRE_EMULATOR"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)


def ending_with_us():
    """Returns the words before a command whose process ends with ours, even if ours is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


class Emulator:
    """Runs the emulator on a free loopback port; it can be started again on that port.

    Attributes:
      host: '127.0.0.1:PORT', for the variable BIGTABLE_EMULATOR_HOST.
      process: the emulator's process.
    """

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._address = s.getsockname()
        self.host = "{}:{}".format(*self._address)
        self.start()

    def start(self):
        """Starts the emulator, and waits until it answers."""
        where = ["-host", self._address[0], "-port", str(self._address[1])]
        self.process = subprocess.Popen(
            [*ending_with_us(), find_program(), *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(100):
            try:
                socket.create_connection(self._address, 1).close()
                return
            except OSError:
                time.sleep(0.1)
        self.kill()
        pytest.fail(f"the emulator does not answer on {self.host}")

    def kill(self):
        """Ends the emulator, running or frozen; its tables are lost."""
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
