"""A server on the loopback address that speaks the part of the hub's protocol that downloads use.

It answers as the hub does: HEAD and GET of /OWNER/REPOSITORY/resolve/REVISION/FILE with the commit
and the checksum in headers, a redirect to another host for large files, ranges, and error codes in
X-Error-Code. /files/NAME stands for a plain web server.

Started as a program, it serves golden networks, whose weights are noise, under timm's names, and
the repositories of a folder, until it is killed:

    python tests/hub_server.py --port=8000 FOLDER      # FOLDER/OWNER/REPOSITORY/FILE
"""

import argparse
import contextlib
import dataclasses
import hashlib
import http.server
import pathlib
import re
import sys
import threading
import urllib.parse

import pytest

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LARGE = 100_000  # bytes from which a file is kept apart, with its SHA-256


def git_checksum(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@dataclasses.dataclass
class Repository:
    """Commits of a repository, and its branches and tags."""

    commits: dict = dataclasses.field(default_factory=dict)
    names: dict = dataclasses.field(default_factory=dict)
    is_gated: bool = False


class Hub:
    """What the server holds, what was asked, and how it misbehaves.

    Attributes:
      requests: (method, path, value of Range, value of Authorization) of each request so far.
      cuts: for each download to come, the bytes after which its connection breaks, or a text: the
        status that answers it.
      replaced: SHA-256 of a large file -> other content that is sent in its place.
      fails_with: a status with which everything is answered; None for none.
    """

    def __init__(self):
        self.repositories = {}
        self.files = {}
        self.requests = []
        self.cuts = []
        self.replaced = {}
        self.fails_with = None
        self.port = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def commit(self, name, files, branch="main"):
        """Adds a commit with these files (name -> bytes) and returns its checksum."""
        repository = self.repositories.setdefault(name, Repository())
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository.commits[digest] = dict(files)
        repository.names[branch] = digest
        return digest

    def paths(self, method):
        return [path for found, path, _, _ in self.requests if found == method]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    hub: Hub

    def log_message(self, format, *args):
        del format, args

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = self.path
        authorization = self.headers.get("Authorization")
        if path.startswith("/api/"):  # what the client wants to know about its surroundings
            return self._send(404, {})
        self.hub.requests.append((self.command, path, self.headers.get("Range"), authorization))
        if self.hub.fails_with:
            self._send(self.hub.fails_with, {})
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(*map(urllib.parse.unquote, match.groups()), authorization)
        elif path.startswith("/large/"):
            self._send_large(path.removeprefix("/large/"))
        elif path.startswith("/files/") and path.removeprefix("/files/") in self.hub.files:
            self._send(200, {}, self.hub.files[path.removeprefix("/files/")])
        else:
            self._send(404, {})
        return None

    def _resolve(self, name, revision, file, authorization):
        if authorization not in (None, "Bearer hf_good"):
            return self._send(
                401, {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._fail(401, "RepoNotFound", "Invalid username or password.")
        if repository.is_gated and authorization != "Bearer hf_good":
            return self._fail(401, "GatedRepo", f"Access to model {name} is restricted.")
        commit = repository.names.get(revision, revision)
        if commit not in repository.commits:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        headers = {"X-Repo-Commit": commit}
        content = repository.commits[commit].get(file)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found", headers)
        if len(content) < _LARGE:
            return self._send(200, {**headers, "ETag": f'"{git_checksum(content)}"'}, content)
        digest = sha256(content)
        headers["X-Linked-Etag"] = f'"{digest}"'
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = f"http://localhost:{self.hub.port}/large/{digest}"
        return self._send(302, headers)

    def _send_large(self, digest):
        held = (
            content
            for repository in self.hub.repositories.values()
            for commit in repository.commits.values()
            for content in commit.values()
        )
        content = next((c for c in held if sha256(c) == digest), None)
        if content is None:
            return self._send(404, {})
        if self.hub.cuts and isinstance(self.hub.cuts[0], str):
            return self._send(int(self.hub.cuts.pop(0)), {})
        return self._send(200, {"ETag": f'"{digest}"'}, self.hub.replaced.get(digest, content))

    def _fail(self, status, code, message, headers=None):
        self._send(status, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status, headers, content=b""):
        first = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and content:
            first, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(content)
        if self.hub.cuts and len(content) >= _LARGE:
            end = first + self.hub.cuts.pop(0)
        self.wfile.write(content[first:end])
        if end < len(content):
            self.close_connection = True


class _Server(http.server.ThreadingHTTPServer):
    """Says nothing of clients that end a connection: that is what the tests make them do."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve(port=0, tls=None):
    """Serves a new hub for the block, with an ssl.SSLContext by https."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub_address, folder, monkeypatch):
    """Makes the hub's client, as if it was started anew, ask an address and cache in a folder."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub_address)
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    restart_client(monkeypatch)


def restart_client(monkeypatch):
    """Forgets the modules of the client, which read the environment when they are imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that the client asks, with an empty cache."""
    pytest.importorskip("huggingface_hub")
    with serve() as hub:
        use(hub.address, tmp_path, monkeypatch)
        yield hub


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    arguments = parser.parse_args()
    import hub_weights

    with serve(arguments.port) as hub:
        for name, architecture in (
            ("timm/semnasnet_100.rmsp_in1k", "semnasnet_100"),
            ("timm/mnasnet_small.lamb_in1k", "mnasnet_small"),
        ):
            hub.commit(name, hub_weights.repository(architecture, 1000))
        for folder in sorted(arguments.folder.glob("*/*") if arguments.folder else ()):
            files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
            hub.commit("/".join(folder.parts[-2:]), files)
        print(f"HF_ENDPOINT={hub.address}", flush=True)
        seen = 0
        while True:
            threading.Event().wait(0.5)
            for request in hub.requests[seen:]:
                print(*request, flush=True)
                seen += 1


if __name__ == "__main__":
    main()
