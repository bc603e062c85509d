"""The emulator that tests and the benchmark of Bigtable start."""

import os
import shutil
import signal
import socket
import time

import emulator
import pytest


def answers(host):
    try:
        socket.create_connection(host.split(":"), 1).close()
        return True
    except OSError:
        return False


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv of util-linux is not installed")
def test_the_emulator_ends_with_a_killed_process():
    emulator.require()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, emulator.Emulator().host.encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        host = os.read(pipe.fileno(), 100).decode()
    assert answers(host)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + 30
    while answers(host):
        assert time.monotonic() < end, f"the emulator at {host} goes on"
        time.sleep(0.02)
