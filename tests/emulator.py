"""The real Bigtable emulator, on a free loopback port."""

import os
import signal
import socket
import subprocess
import time

import pytest

from utils.benchmarks.bigtable import find_emulator


class Emulator:
    """A server that can be killed, frozen and started again on its port."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._process = None
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [find_emulator(), "-host", "127.0.0.1", "-port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the Bigtable emulator does not start")

    def kill(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait()

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)


def require():
    """Skips where the emulator is not installed; fails if MNASNET_REQUIRE_EMULATOR is set."""
    if find_emulator() is None:
        message = (
            "the Bigtable emulator (cbtemulator) is not installed: "
            "gcloud components install bigtable"
        )
        if os.environ.get("MNASNET_REQUIRE_EMULATOR"):
            pytest.fail(message)
        pytest.skip(message)
