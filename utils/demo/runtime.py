"""Gets LiteRT.js, which runs .tflite files in a browser, from npm's registry."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import tarfile
from typing import NamedTuple

from utils.base import scratch
from utils.base.errors import UserError, excerpt

VERSION = "2.5.3"
NAME = f"LiteRT.js {VERSION}"
_TIME_LIMIT = 300  # seconds; the packages have 12 MB
_REMEDY = "look at `npm config get registry` and the network, and run the same command again"


class _Package(NamedTuple):
    """Names a package of npm's registry and the files of it that the page needs.

    Attributes:
      name: of the package.
      sha512: hash of the archive, in base64 as npm writes it.
      files: path in the archive -> path in the folder of the runtime.
    """

    name: str
    sha512: str
    files: dict[str, str]

    @property
    def archive(self) -> str:
        """Returns the name that `npm pack` gives to the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{VERSION}.tgz"


# Of the builds of the runtime, the page takes the one for current browsers and the one for those
# without relaxed SIMD. The builds with threads need headers that few servers send.
_WASM = [
    f"wasm/{name}"
    for build in ("litert_wasm", "litert_wasm_compat")
    for name in (f"{build}_internal.js", f"{build}_internal.wasm")
]
_PACKAGES = (
    _Package(
        "@litertjs/core",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "index.js", **{path: path for path in _WASM}},
    ),
    _Package(
        "@litertjs/wasm-utils",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "utils.js"},
    ),
)
_NOTICE = (
    f"{NAME}, from the npm packages {' and '.join(package.name for package in _PACKAGES)}.\n"
    "Copyright Google LLC, licensed under Apache-2.0 (http://www.apache.org/licenses/LICENSE-2.0).\n"
    "One import in index.js was changed from a package's name to a path.\n"
)
FILES = ("NOTICE.txt", *(path for package in _PACKAGES for path in package.files.values()))


def fetch() -> dict[str, bytes]:
    """Returns the files of the runtime by their paths in its folder, those of FILES.

    npm downloads the archives as the user has configured it, or takes them from its cache.

    Raises:
      UserError: npm is missing or fails, or an archive is not the one that this version knows.
    """
    found = {"NOTICE.txt": _NOTICE.encode()}
    with scratch.folder("mnasnet-demo-") as folder:
        _pack(folder)
        for package in _PACKAGES:
            found.update(_read(package, os.path.join(folder, package.archive)))
    found["index.js"] = _with_path(found["index.js"])
    return found


def _pack(folder: str) -> None:
    """Lets npm write the archives into a folder."""
    names = [f"{package.name}@{VERSION}" for package in _PACKAGES]
    command = ["npm", "pack", "--prefer-offline", "--ignore-scripts", "--loglevel=error", *names]
    environment = dict(os.environ)
    if not os.path.isabs(os.path.expanduser("~")):  # npm does nothing for a user without a home
        environment["HOME"] = folder
    try:
        subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True,
            stdin=subprocess.DEVNULL, timeout=_TIME_LIMIT,
        )  # fmt: skip
    except FileNotFoundError as e:
        raise UserError(
            f"npm is not installed, and the page needs {NAME} from npm's registry: install npm "
            "(on Debian: apt-get install npm), and run the same command again."
        ) from e
    except subprocess.TimeoutExpired as e:
        raise UserError(f"npm did not get {NAME} in {_TIME_LIMIT} s: {_REMEDY}.") from e
    except (OSError, subprocess.CalledProcessError) as e:
        reason = _reason(getattr(e, "stderr", None) or str(e))
        raise UserError(f"npm cannot get {NAME} ({reason}): {_REMEDY}.") from e


def _reason(said: str) -> str:
    """Returns the sentence among npm's lines of error, which begins with codes of one word."""
    lines = [line.removeprefix("npm error ").strip() for line in said.strip().splitlines()]
    return excerpt(next((line for line in lines if len(line.split()) > 3), " ".join(lines)))


def _read(package: _Package, path: str) -> dict[str, bytes]:
    """Returns the files of an archive whose hash is the known one."""
    with open(path, "rb") as f:
        digest = base64.b64encode(hashlib.sha512(f.read()).digest()).decode()
    if digest != package.sha512:
        raise UserError(
            f"npm's registry gave another {package.name} {VERSION} than the published one (its "
            f"hash differs): {_REMEDY}."
        )
    with tarfile.open(path) as archive:
        return {
            target: archive.extractfile(f"package/{source}").read()  # type: ignore[union-attr]
            for source, target in package.files.items()
        }


def _with_path(index: bytes) -> bytes:
    """Returns index.js with a path for the other package, whose name a browser cannot resolve."""
    name = b'"@litertjs/wasm-utils"'
    assert index.count(name) == 1
    return index.replace(name, b'"./utils.js"')
