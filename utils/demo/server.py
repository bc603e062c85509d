"""Serves the folder of the web page to this machine alone."""

from __future__ import annotations

import functools
import http.server

from utils.base.errors import UserError

HOST = "127.0.0.1"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers with files of a folder, without a line of log for each."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds after which an idle connection is closed
    # The system's table of types may lack or change these; browsers insist on them.
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".svg": "image/svg+xml",
        ".tflite": "application/octet-stream",
    }

    def log_message(self, format, *args):
        del format, args

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")  # a page written again shows at once
        super().end_headers()


def open_server(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of a local folder that listens on the loopback address.

    Args:
      folder: whose files it serves.
      port: to listen on; 0 for any that is free.

    Raises:
      UserError: the port is in use or not allowed.
    """
    handler = functools.partial(_Handler, directory=folder)
    try:
        server = http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as e:
        raise UserError(
            f"--port={port} cannot be used ({e.strerror}): choose another one, or 0 for any that "
            "is free."
        ) from e
    server.daemon_threads = True
    return server


def address(server: http.server.ThreadingHTTPServer) -> str:
    """Returns the address of a server's page."""
    return f"http://{HOST}:{server.server_address[1]}/"
