"""Answers for Google's hosts of buckets: counts requests, fails some, hands the others on.

TensorFlow asks these hosts by https and knows no variable for others, but it honours https_proxy.
This program is the proxy: at CONNECT it ends TLS itself, with a certificate of the tests' own.

It is a process of its own, because TensorFlow closes a file that Python forgets while it keeps
every other thread of Python waiting: a proxy in there could not answer, and the test would hang.

What is asked of the proxy itself, by plain http, is for the tests:

    GET /requests/N   the requests from number N on, as JSON
    PUT /fault        a `gcs_requests.Fault` as JSON, which holds from now on; null for none
"""

import argparse
import collections
import contextlib
import dataclasses
import http.client
import http.server
import json
import re
import socketserver
import ssl
import sys
import threading
import time

from gcs_requests import HANG_UP, Fault, Request, described

HOSTS = ("storage.googleapis.com", "www.googleapis.com")
TIMEOUT_SECONDS = 60  # of a connection on which nothing happens
# Headers of one connection, which do not belong to the next; Go's server refuses the first as
# TensorFlow sends it ('identity').
_OF_CONNECTION = ("transfer-encoding", "connection", "content-length", "accept-encoding", "expect")
# What Google says, with the line breaks that it has.
_ERROR = '{\n  "error": {\n    "code": %d,\n    "message": "%s"\n  }\n}\n'
_MESSAGES = {
    401: "Invalid Credentials",
    403: "test@project.iam.gserviceaccount.com does not have storage.objects.get access to the "
    "Google Cloud Storage object. Permission 'storage.objects.get' denied on resource (or it may "
    "not exist).",
    503: "We encountered an internal error. Please try again.",
}


class _Front(http.server.BaseHTTPRequestHandler):
    """A connection to the proxy; after CONNECT, its requests are those inside TLS."""

    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_SECONDS
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    is_tunnel = False

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
        self.is_tunnel = True

    def finish(self):
        super().finish()
        self.connection.close()

    def handle_expect_100(self):
        known = super().handle_expect_100()
        self.wfile.flush()  # else the client waits a second for it
        return known

    def _answer(self):
        body = self._body()
        if not self.is_tunnel:
            self._send(200, {}, self.server.control(self.path, body))
            return
        request = self.server.request(self.command, self.path, len(body))
        status = self.server.fault_of(request)
        if status == HANG_UP:
            self.close_connection = True
        else:
            headers = {}
            answer = (_ERROR % (status or 0, _MESSAGES.get(status, ""))).encode()
            if status is None:
                status, headers, answer = self._ask(body)
            request.status, request.sent = status, len(answer)
            self._send(status, headers, answer)

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
    """Keeps the requests and the fault."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128  # builders ask for dozens of files at a time

    def __init__(self, address, tls, port):
        super().__init__(address, _Front)
        self.tls, self.port = tls, port
        self._start, self._lock = time.monotonic(), threading.Lock()
        self._requests, self._counted, self._fault = [], collections.Counter(), None

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # as of a client that was killed
            super().handle_error(request, client_address)

    def request(self, method, target, received):
        """Returns a new Request, which the list of all has."""
        kind, path = described(method, target)
        request = Request(kind, path, time.monotonic() - self._start, received=received)
        with self._lock:
            self._requests.append(request)
        return request

    def fault_of(self, request):
        """Returns the status with which to fail a request; None to hand it on."""
        with self._lock:
            fault = self._fault
            if fault is None or (fault.kinds and request.kind not in fault.kinds):
                return None
            self._counted[request.kind] += 1
            return None if self._counted[request.kind] % fault.every else fault.status

    def control(self, path, body):
        """Does what the tests ask of the proxy; returns the answer."""
        with self._lock:
            if path.startswith("/requests/"):
                found = self._requests[int(path.removeprefix("/requests/")) :]
                return json.dumps([dataclasses.asdict(request) for request in found]).encode()
            given = json.loads(body)
            self._fault = Fault(**given) if given else None
            self._counted.clear()
            return b"null"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True, help="0 for a free one")
    parser.add_argument("--server_port", type=int, required=True, help="of fake-gcs-server")
    parser.add_argument("--certificate", required=True, help="file of a certificate and its key")
    arguments = parser.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(arguments.certificate)
    with _Proxy(("127.0.0.1", arguments.port), tls, arguments.server_port) as proxy:
        print(proxy.server_address[1], flush=True)
        proxy.serve_forever()


if __name__ == "__main__":
    main()
