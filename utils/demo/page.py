"""Writes the folder of the web page so that a page in use is whole at any moment.

page.json names the model and the pictures of the page, whose names follow from their content. It is
written last. So a reader, or a run after a kill, finds the earlier page or the new one.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Sequence
from typing import Any

from utils.base import files
from utils.base.errors import UserError
from utils.demo import description, runtime

import tensorflow.compat.v1 as tf  # isort: skip

FILE_NAME = "page.json"
_RUNTIME_DIR = "litert"
_VERSION_FILE = "VERSION.txt"
_PICTURES_DIR = "pictures"


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
    content = description.describe(model, labels)
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
        "runtime": runtime.NAME,
    }
    files.make_dirs(os.path.join(output_dir, _PICTURES_DIR))
    for name, path in {content["model"]: model, **samples}.items():
        files.write_bytes(os.path.join(output_dir, name), files.read_bytes(path))
    files.write_json(os.path.join(output_dir, FILE_NAME), content)
    for name in _named(earlier) - _named(content):
        files.remove(os.path.join(output_dir, name))


def _site() -> dict[str, bytes]:
    """Returns the files that all pages have in common, by their names."""
    folder = importlib.resources.files(__package__).joinpath("site")
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


def _write_runtime(output_dir: str) -> None:
    """Writes the runtime unless an earlier run has written this version."""
    folder = os.path.join(output_dir, _RUNTIME_DIR)
    if _has_runtime(folder):
        return
    for path, content in runtime.fetch().items():
        files.make_dirs(os.path.dirname(os.path.join(folder, path)))
        files.write_bytes(os.path.join(folder, path), content)
    files.write_text(os.path.join(folder, _VERSION_FILE), runtime.VERSION)


def _has_runtime(folder: str) -> bool:
    names = (_VERSION_FILE, *runtime.FILES)
    if not all(tf.io.gfile.exists(os.path.join(folder, name)) for name in names):
        return False
    return files.read_text(os.path.join(folder, _VERSION_FILE)) == runtime.VERSION
