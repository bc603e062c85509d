"""The server of the page: its address, its types, its end."""

import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import browser
import pytest

from utils.base.errors import UserError
from utils.demo import server


def test_files_have_the_types_that_browsers_need(tmp_path):
    types = {
        "index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css",
        "a.wasm": "application/wasm", "icon.svg": "image/svg+xml",
        "a.tflite": "application/octet-stream", "page.json": "application/json",
    }  # fmt: skip
    for name in types:
        (tmp_path / name).write_text(name)
    with browser.served(tmp_path) as address:
        for name, expected in types.items():
            with urllib.request.urlopen(address + name, timeout=10) as answer:
                assert answer.read().decode() == name
                assert answer.headers.get_content_type() == expected
                assert answer.headers["Cache-Control"] == "no-cache"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + "../none", timeout=10)


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port} cannot be used"):
            server.open_server(str(tmp_path), port)


def test_the_command_serves_until_a_signal(page_dir, exported):
    command = [sys.executable, "-m", "utils.demo_page", f"--model={exported}/tiny.tflite",
               f"--output_dir={page_dir}", "--serve", "--port=0"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(120, process.kill)
        limit.start()
        try:
            line = process.stdout.readline()
            address = line.removeprefix("The page is at ").split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert b"<!doctype html>" in answer.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 128 + signal.SIGTERM
        finally:
            limit.cancel()
            process.kill()
