"""Runs the real Bigtable emulator for tests."""

import os
import signal

import pytest

from utils.benchmarks import bigtable


class Emulator(bigtable.Emulator):
    """An emulator that can also be frozen."""

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)


def require():
    """Skips where the emulator is not installed; fails if MNASNET_REQUIRE_EMULATOR is set."""
    if bigtable.find_emulator() is None:
        if os.environ.get("MNASNET_REQUIRE_EMULATOR"):
            pytest.fail(bigtable.NOT_INSTALLED)
        pytest.skip(bigtable.NOT_INSTALLED)
