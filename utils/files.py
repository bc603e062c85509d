"""Files on disk or in gs:// buckets: reading, and writing that is never seen half done."""

from __future__ import annotations

import importlib.util
import os
import uuid
from typing import Any

import utils.tensorflow_version  # noqa: F401
from utils import strict_yaml
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip


def read_text(path: str) -> str:
    """Returns a file's text, without the mark that some editors put first (BOM).

    Raises:
      UserError: it cannot be read.
    """
    try:
        with tf.io.gfile.GFile(path) as f:
            return f.read().removeprefix("\ufeff")
    except (tf.errors.OpError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {reason(e)}.") from e


def read_yaml_mapping(path: str) -> dict[str, Any]:
    """Returns a YAML (or JSON) file's mapping; UserError if it is anything else."""
    content = strict_yaml.load(read_text(path), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping (name: value lines).")
    return content


def write_text(path: str, text: str) -> None:
    """Writes beside and renames: a reader sees the old file or the new one, never a part."""
    beside = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
    with tf.io.gfile.GFile(beside, "w") as f:
        f.write(text)
    tf.io.gfile.rename(beside, path, overwrite=True)


def is_remote(path: str) -> bool:
    """Whether a path is in a bucket (gs://, s3:// and the like)."""
    return "://" in path


def absolute(path: str) -> str:
    """The path from the root; one in a bucket is that already."""
    return path if is_remote(path) else os.path.abspath(path)


def remove(path: str) -> None:
    """Removes a file or a folder with all it holds, where there is one."""
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)


def copy(source: str, target: str) -> None:
    """Copies a file, or a local folder with all it holds."""
    if not tf.io.gfile.isdir(source):
        tf.io.gfile.copy(source, target)
        return
    for folder, _, names in tf.io.gfile.walk(source):
        place = os.path.join(target, os.path.relpath(folder, source)).removesuffix("/.")
        tf.io.gfile.makedirs(place)
        for name in names:
            tf.io.gfile.copy(os.path.join(folder, name), os.path.join(place, name))


def rename(source: str, target: str) -> None:
    """Renames a file or a folder; in a bucket, which has no folders, file by file.

    What is in subfolders comes first there, so that a SavedModel's saved_model.pb, by which servers
    know one, comes last.
    """
    if not (is_remote(source) and tf.io.gfile.isdir(source)):
        tf.io.gfile.rename(source, target)
        return
    for folder, _, names in tf.io.gfile.walk(source, topdown=False):
        place = target + folder.rstrip("/").removeprefix(source.rstrip("/"))
        tf.io.gfile.makedirs(place)
        for name in names:
            tf.io.gfile.rename(os.path.join(folder, name), os.path.join(place, name))
    tf.io.gfile.rmtree(source)


def check_no_pattern(path: str | None, flag: str) -> None:
    """UserError for a path that TensorFlow would take for a pattern, and not find."""
    found = sorted(set(path or "") & set("*?[]\\"))
    if found:
        raise UserError(
            f"--{flag}={path} has the character '{found[0]}', which stands for other characters "
            "in TensorFlow's file names: choose or rename the folder."
        )


def check_dir_name(path: str, flag: str) -> None:
    """UserError for a folder's path that is empty, or that TensorFlow would take for a pattern."""
    if not path:
        raise UserError(f"--{flag} is missing: name a folder.")
    check_no_pattern(path, flag)


def make_writable_dir(path: str, flag: str) -> None:
    """Makes a folder, or says in one sentence why that cannot be."""
    check_dir_name(path, flag)
    try:
        tf.io.gfile.makedirs(path)
        if not is_remote(path) and not os.access(path, os.W_OK):
            raise UserError(f"--{flag}={path} is not writable: choose another folder.")
    except tf.errors.OpError as e:
        raise UserError(f"--{flag}={path} cannot be made: {reason(e)}.") from e


def check_writable(path: str, flag: str) -> None:
    """Before long work: UserError if a file could not be written to a path in the end."""
    beside = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        if tf.io.gfile.isdir(path):
            raise UserError(f"--{flag}={path} is a folder: name a file.")
        with tf.io.gfile.GFile(beside, "w") as f:
            f.write("")
        tf.io.gfile.remove(beside)
    except tf.errors.OpError as e:
        raise UserError(f"--{flag}={path} cannot be written: {reason(e)}.") from e


def in_package(package: str, path: str) -> str | None:
    """A file of an installed package, found without running the package; None if it is not there.

    Args:
      package: a top-level import name.
      path: within the package's folder.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [os.path.join(folder, path) for folder in folders]
    return next((path for path in found if os.path.exists(path)), None)


def reason(error: Exception) -> str:
    """The line of an error that says something, without the noise that TensorFlow adds."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    noise = ("Graph execution error", "Detected at node", "Node:", "[[{{", "Traceback", "File ")
    lines = [line.strip() for line in message.splitlines()]
    useful = [line for line in lines if line and not line.startswith(noise)]
    return (useful or lines)[0].rstrip(".")
