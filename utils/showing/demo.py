"""Writes and serves a web page that runs a .tflite file with LiteRT.js, from npm's registry.

A page in use is whole at any moment: page.json names the model and the pictures of the page, whose
names follow from their content, and is written last. So a reader, or a run after a kill, finds the
earlier page or the new one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import importlib.resources
import os
import subprocess
import tarfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.base import files, program
from utils.base.errors import UserError, excerpt
from utils.exporting import classifiers, tflite

import tensorflow.compat.v1 as tf

FILE_NAME = "page.json"
HOST = "127.0.0.1"
RUNTIME_VERSION = "2.5.3"
RUNTIME_NAME = f"LiteRT.js {RUNTIME_VERSION}"
_RUNTIME_DIR = "litert"
_VERSION_FILE = "VERSION.txt"
_PICTURES_DIR = "pictures"
_NPM_SECONDS = 300  # the packages have 12 MB
_NPM_REMEDY = "look at `npm config get registry` and the network, and run the same command again"


def write(
    model: str, output_dir: str, pictures: Sequence[str] = (), labels: str | None = None
) -> None:
    """Writes the page of a model; one of an earlier run is replaced.

    Args:
      model: path of the .tflite file.
      output_dir: folder of the page, local or in a bucket.
      pictures: picture files that a visitor can try.
      labels: file of class names, one a line; None for those of the model.

    Raises:
      UserError: the model or a picture cannot be read, the folder belongs to something else, or
        the runtime cannot be fetched.
    """
    content = describe(model, labels)
    samples = {_hashed(_PICTURES_DIR + "/", path): path for path in pictures}
    files.make_writable_dir(output_dir, "output_dir")
    earlier = _earlier(output_dir)
    _write_runtime(output_dir)
    for name, data in _site().items():
        files.write_bytes(os.path.join(output_dir, name), data)
    content = {
        "name": os.path.splitext(os.path.basename(model))[0],
        "model": _hashed("model-", model),
        **content,
        "pictures": [{"file": name, "name": os.path.basename(samples[name])} for name in samples],
        "runtime": RUNTIME_NAME,
    }
    files.make_dirs(os.path.join(output_dir, _PICTURES_DIR))
    for name, path in {content["model"]: model, **samples}.items():
        files.write_bytes(os.path.join(output_dir, name), files.read_bytes(path))
    files.write_json(os.path.join(output_dir, FILE_NAME), content)
    for name in _named(earlier) - _named(content):
        files.remove(os.path.join(output_dir, name))


def _site() -> dict[str, bytes]:
    """Returns the files that all pages have in common, by their names."""
    folder = importlib.resources.files(__package__).joinpath("demo_site")
    return {source.name: source.read_bytes() for source in folder.iterdir()}


def _hashed(start: str, path: str) -> str:
    """Returns a name in the page's folder for a file, which changes with its content."""
    digest = hashlib.sha256(files.read_bytes(path)).hexdigest()[:12]
    return start + digest + os.path.splitext(path)[1].lower()


def _earlier(output_dir: str) -> dict[str, Any] | None:
    """Returns page.json of an earlier run; UserError if the folder holds another page."""
    path = os.path.join(output_dir, FILE_NAME)
    if tf.io.gfile.exists(path):
        remedy = f"name another folder with --output_dir, or remove {output_dir}"
        return files.read_json(path, "the description of a page of this program", remedy, _checked)
    # A run that was killed before it wrote page.json may have left files of the page.
    for name, data in _site().items():
        place = os.path.join(output_dir, name)
        if tf.io.gfile.exists(place) and files.read_bytes(place) != data:
            raise UserError(
                f"--output_dir={output_dir} has a file {name} that this program did not write: "
                "name another folder."
            )
    return None


def _checked(content: Any) -> dict[str, Any]:
    """Returns the content of page.json, whose names are those of files in the folder."""
    files.name_in_folder(files.member(content, "model", str))
    for picture in files.member(content, "pictures", list):
        folder, _, name = files.member(picture, "file", str).partition("/")
        if folder != _PICTURES_DIR:
            raise ValueError(f"{folder} is not {_PICTURES_DIR}")
        files.name_in_folder(name)
    return content


def _named(content: dict[str, Any] | None) -> set[str]:
    """Returns the files that page.json names."""
    if content is None:
        return set()
    return {content["model"], *(picture["file"] for picture in content["pictures"])}


def describe(path: str, given_labels: str | None = None) -> dict[str, Any]:
    """Returns what the page must know of a file, as values that JSON can hold.

    The normalization is None for a file that takes RGB in [0, 255]; the quantizations are None for
    float values. The page applies a softmax unless `is_probabilities`.

    Args:
      path: the .tflite file.
      given_labels: a file of class names that comes before those of the model, one name a line.

    Raises:
      UserError: the path is not a .tflite classifier, or the names do not fit its classes.
    """
    classifier = tflite.open_interpreter(path)
    with tf.io.gfile.GFile(path, "rb") as f:
        content = f.read()
    with program.hold_native_output():
        lite = tf.lite.Interpreter(model_content=content)
    (taken,), (given,) = lite.get_input_details(), lite.get_output_details()
    prepared = classifier.preparation
    return {
        "bytes": len(content),
        "kind": _kind(lite),
        "image_size": prepared.image_size,
        "num_classes": classifier.num_classes,
        "crop_share": prepared.crop_share,
        "resize_method": prepared.resize_method,
        "normalization": None
        if prepared.is_raw
        else {"mean": prepared.mean, "stddev": prepared.stddev},
        "input": _quantization(taken),
        "output": _quantization(given),
        "is_probabilities": classifier.gives_probabilities,
        "labels": classifiers.label_names(path, given_labels, classifier.num_classes),
    }


def _kind(lite: tf.lite.Interpreter) -> str:
    """Returns the kind of a file as `utils.exporting.tflite.SUFFIXES` names it."""
    if lite.get_input_details()[0]["dtype"] != np.float32:
        return "int8"
    found = {tensor["dtype"] for tensor in lite.get_tensor_details()}
    return "float16" if np.float16 in found else "dynamic" if np.int8 in found else "float32"


def _quantization(tensor: dict[str, Any]) -> dict[str, float] | None:
    """Returns the numbers that make real values, (integer - zero) * scale; None for floats."""
    if tensor["dtype"] == np.float32:
        return None
    if tensor["dtype"] != np.uint8:
        raise UserError(
            f"The file has {np.dtype(tensor['dtype']).name} values where the page knows float32 "
            "and uint8: export it again."
        )
    scale, zero = tensor["quantization"]
    return {"scale": scale, "zero": zero}


def _write_runtime(output_dir: str) -> None:
    """Writes the runtime unless an earlier run has written this version."""
    folder = os.path.join(output_dir, _RUNTIME_DIR)
    if _has_runtime(folder):
        return
    for path, content in fetch_runtime().items():
        files.make_dirs(os.path.dirname(os.path.join(folder, path)))
        files.write_bytes(os.path.join(folder, path), content)
    files.write_text(os.path.join(folder, _VERSION_FILE), RUNTIME_VERSION)


def _has_runtime(folder: str) -> bool:
    names = (_VERSION_FILE, *RUNTIME_FILES)
    if not all(tf.io.gfile.exists(os.path.join(folder, name)) for name in names):
        return False
    return files.read_text(os.path.join(folder, _VERSION_FILE)) == RUNTIME_VERSION


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
        return f"{self.name.removeprefix('@').replace('/', '-')}-{RUNTIME_VERSION}.tgz"


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
    f"{RUNTIME_NAME}, from the npm packages "
    f"{' and '.join(package.name for package in _PACKAGES)}.\n"
    "Copyright Google LLC, licensed under Apache-2.0 (http://www.apache.org/licenses/LICENSE-2.0).\n"
    "One import in index.js was changed from a package's name to a path.\n"
)
RUNTIME_FILES = ("NOTICE.txt", *(path for package in _PACKAGES for path in package.files.values()))


def fetch_runtime() -> dict[str, bytes]:
    """Returns the files of the runtime by their paths in its folder, those of RUNTIME_FILES.

    npm downloads the archives as the user has configured it, or takes them from its cache.

    Raises:
      UserError: npm is missing or fails, or an archive is not the one that this version knows.
    """
    found = {"NOTICE.txt": _NOTICE.encode()}
    with files.temporary_folder("mnasnet-demo-") as folder:
        _pack(folder)
        for package in _PACKAGES:
            found.update(_unpacked(package, os.path.join(folder, package.archive)))
    found["index.js"] = _with_path(found["index.js"])
    return found


def _pack(folder: str) -> None:
    """Lets npm write the archives into a folder."""
    names = [f"{package.name}@{RUNTIME_VERSION}" for package in _PACKAGES]
    command = ["npm", "pack", "--prefer-offline", "--ignore-scripts", "--loglevel=error", *names]
    environment = dict(os.environ)
    if not os.path.isabs(os.path.expanduser("~")):  # npm does nothing for a user without a home
        environment["HOME"] = folder
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=_NPM_SECONDS,
        )
    except FileNotFoundError as e:
        raise UserError(
            f"npm is not installed, and the page needs {RUNTIME_NAME} from npm's registry: install "
            "it (on Debian: apt-get install npm), and run the same command again."
        ) from e
    except subprocess.TimeoutExpired as e:
        raise UserError(
            f"npm did not get {RUNTIME_NAME} in {_NPM_SECONDS} s: {_NPM_REMEDY}."
        ) from e
    except (OSError, subprocess.CalledProcessError) as e:
        reason = _npm_reason(getattr(e, "stderr", None) or str(e))
        raise UserError(f"npm cannot get {RUNTIME_NAME} ({reason}): {_NPM_REMEDY}.") from e


def _npm_reason(said: str) -> str:
    """Returns the sentence among npm's lines of error, which begins with codes of one word."""
    lines = [line.removeprefix("npm error ").strip() for line in said.strip().splitlines()]
    return excerpt(next((line for line in lines if len(line.split()) > 3), " ".join(lines)))


def _unpacked(package: _Package, path: str) -> dict[str, bytes]:
    """Returns the files of an archive whose hash is the known one."""
    with open(path, "rb") as f:
        digest = base64.b64encode(hashlib.sha512(f.read()).digest()).decode()
    if digest != package.sha512:
        raise UserError(
            f"npm's registry gave another {package.name} {RUNTIME_VERSION} than the published one "
            f"(its hash differs): {_NPM_REMEDY}."
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
