"""A server on the loopback address that speaks the part of the hub's protocol that downloads use.

It answers as the hub does: HEAD and GET of /OWNER/REPOSITORY/resolve/REVISION/FILE with the commit
and the checksum in headers, a redirect to another host for large files, ranges, and error codes in
X-Error-Code. /files/NAME stands for a plain web server. Its repositories have the weights of golden
networks, as timm writes them.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import re
import sys
import threading
import urllib.parse

import golden_files
import golden_weights_torch
import pytest
import safetensors.numpy

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LARGE = 100_000  # bytes from which a file is kept apart, with its SHA-256


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@functools.cache
def weights(architecture, num_classes=None):
    """The bytes of a model.safetensors, perhaps with another number of classes."""
    state = golden_weights_torch.state_dict(golden_files.read(f"timm_{architecture}"), num_classes)
    return safetensors.numpy.save(state, {"format": "pt"})


def repository(architecture, num_classes=None, **changes):
    """The files of a repository: name -> bytes, with changes of timm's `pretrained_cfg`."""
    num_classes = num_classes or golden_files.read(f"timm_{architecture}")["num_classes"]
    config = {
        "architecture": architecture,
        "num_classes": num_classes,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            **changes,
        },
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": weights(architecture, num_classes),
    }


class Hub:
    """What the server holds, what was asked, and how it misbehaves.

    Attributes:
      commits: (repository, revision) -> (commit, name of a file -> content).
      gated: names of repositories that need the token hf_good.
      files: name -> content, of the plain web server.
      downloads: the values of Authorization of all downloads so far, by the path.
      cuts: for each large download to come, the bytes after which its connection breaks.
      fails_with: a status with which everything is answered; None for none.
    """

    def __init__(self):
        self.commits, self.gated, self.files = {}, set(), {}
        self.downloads, self.cuts, self.fails_with = {}, [], None

    def commit(self, name, files, branch="main"):
        """Adds a commit with these files (name -> bytes) and returns its checksum."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name, branch] = self.commits[name, digest] = digest, files
        return digest


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    hub: Hub

    def log_message(self, format, *args):
        del format, args

    def do_HEAD(self):
        path = urllib.parse.unquote(self.path)
        token = self.headers.get("Authorization")
        if self.command == "GET":
            self.hub.downloads[path] = token
        if self.hub.fails_with:
            self._send(self.hub.fails_with, {})
        elif match := _RESOLVE.fullmatch(self.path):
            self._resolve(*map(urllib.parse.unquote, match.groups()), token == "Bearer hf_good")
        elif path.removeprefix("/files/") in self.hub.files:
            self._send(200, {}, self.hub.files[path.removeprefix("/files/")])
        else:
            self._send(404, {})

    do_GET = do_HEAD

    def _resolve(self, name, revision, file, has_token):
        if name not in {repository for repository, _ in self.hub.commits}:
            return self._send(401, {"X-Error-Code": "RepoNotFound"})
        if name in self.hub.gated and not has_token:
            return self._send(401, {"X-Error-Code": "GatedRepo"})
        if (name, revision) not in self.hub.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        commit, files = self.hub.commits[name, revision]
        headers = {"X-Repo-Commit": commit}
        if file not in files:
            return self._send(404, {**headers, "X-Error-Code": "EntryNotFound"})
        content = files[file]
        if len(content) < _LARGE:
            return self._send(200, {**headers, "ETag": f'"{sha256(content)}"'}, content)
        self.hub.files[sha256(content)] = content
        headers["X-Linked-Etag"] = f'"{sha256(content)}"'
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = f"http://localhost:{self.hub.port}/files/{sha256(content)}"
        return self._send(302, headers)

    def _send(self, status, headers, content=b""):
        first = 0
        if content and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")):
            first, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content) - first)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(content)
        if self.hub.cuts and len(content) >= _LARGE:
            end = first + self.hub.cuts.pop(0)
            self.close_connection = True
        self.wfile.write(content[first:end])


@contextlib.contextmanager
def serve(tls=None):
    """Serves a new hub for the block, with an ssl.SSLContext by https."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})
    )
    server.handle_error = lambda *unused: None  # a client ends a connection
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hub.port = server.server_address[1]
    hub.address = f"http://127.0.0.1:{hub.port}"
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def use(monkeypatch, **environment):
    """Makes the hub's client, which reads the environment when it is imported, read it anew."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that the client asks, with an empty cache."""
    pytest.importorskip("huggingface_hub")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as hub:
        use(
            monkeypatch,
            HF_ENDPOINT=hub.address,
            HF_HOME=tmp_path / "hub",
            XDG_CACHE_HOME=tmp_path / "cache",
            NO_PROXY="127.0.0.1,localhost",
        )
        yield hub
