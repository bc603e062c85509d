"""Reads and writes files on disk or in gs:// buckets; no reader sees a half-written file.

TensorFlow's errors carry the words of the system in their texts alone; some are RuntimeErrors, and
a file that is too large arrives as the end of a sequence: OutOfRangeError, or IndexError from the
writer of event files. So `failure_of` looks for the words.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from utils.base import tensorflow_version
from utils.base.errors import UserError, excerpt
from utils.base.tensorflow_version import tf

_REMEDIES = {
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EROFS: "choose another folder, or mount this one writable",
    errno.EACCES: "correct the permissions",
    errno.EPERM: "correct the permissions",
    errno.EISDIR: "move away the folder that has the name of a file",
    errno.ENOTDIR: "move away the file that has the name of a folder",
    errno.EIO: "check the disk",
}


class Failure(NamedTuple):
    """Describes what went wrong with a file.

    Attributes:
      path: of the file; None if the error does not name it.
      reason: the words of the system.
      remedy: what the user can do.
    """

    path: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.reason}; {self.remedy}, and run the same command again"


def failure_types() -> tuple[type[Exception], ...]:
    """Returns the types in which an error of a disk may arrive."""
    others = (tensorflow_version.tf.errors.OpError,) if tensorflow_version.is_loaded() else ()
    return (OSError, RuntimeError, IndexError, *others)


def failure_of(error: BaseException) -> Failure | None:
    """Returns what a disk or folder refused; None for an error of another kind."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return Failure(error.filename, os.strerror(error.errno), _REMEDIES[error.errno])
    if not isinstance(error, failure_types()):
        return None
    text = getattr(error, "message", None) or str(error)
    if "No usable temporary directory" in text:  # Python's words if all are full
        return Failure(None, text, "make room in one of them, or name another one in TMPDIR")
    for number, remedy in _REMEDIES.items():
        reason = os.strerror(number)
        # "PATH; No space left on device", and in one place "PATH is not a directory".
        pattern = rf"(?:([^;\n]+?)(?:; | is ))?{re.escape(reason)}"
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return Failure(found[1], reason, remedy)
    return None


_Parsed = TypeVar("_Parsed")


def read_text(path: str) -> str:
    """Returns a file's text, without the mark that some editors put first (BOM).

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} cannot be read: {reason(e)}.") from e


def read_bytes(path: str) -> bytes:
    """Returns a file's content; the name of a local file may be other than UTF-8.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        # TensorFlow takes a name that is not UTF-8 for an argument of a wrong type.
        with tf.io.gfile.GFile(path, "rb") if is_remote(path) else open(path, "rb") as f:
            return f.read()
    except (FileNotFoundError, tf.errors.NotFoundError) as e:
        raise UserError(f"{path} does not exist: check the path.") from e
    except (OSError, tf.errors.OpError) as e:
        raise UserError(f"{path} cannot be read: {reason(e)}.") from e


def read_json(path: str, what: str, remedy: str, parse: Callable[[Any], _Parsed]) -> _Parsed:
    """Returns what `parse` makes of a JSON file that this program writes.

    A full disk or a person may have changed the file, so its content is checked.

    Args:
      path: of the file.
      what: what the file should be, such as 'a list of evaluations', for the error.
      remedy: what the user can do, for the error.
      parse: takes the content, and raises ValueError, TypeError or KeyError for invalid content
        (`member` does).

    Raises:
      UserError: the file cannot be read or holds something else.
    """
    text = read_text(path)
    try:
        return parse(json.loads(text))
    except KeyError as e:
        found = f"{e} is missing"
    except (ValueError, TypeError, RecursionError) as e:
        found = reason(e) if text.strip() else "it is empty"
    raise UserError(f"{path} is not {what} ({found}): {remedy}.")


def member(mapping: Any, key: str, *kinds: type) -> Any:
    """Returns the value of a key in parsed JSON, where true and false are not numbers.

    Raises:
      KeyError, TypeError: the key is missing, or its value has none of the types.
    """
    if not isinstance(mapping, dict):
        raise TypeError(f"{_short(mapping)} is not a mapping")
    if type(mapping[key]) not in kinds:
        names = " or ".join(_KIND_NAMES[kind] for kind in kinds)
        raise TypeError(f"{key} is {_short(mapping[key])} and not {names}")
    return mapping[key]


def name_in_folder(value: Any) -> str:
    """Returns a value of parsed JSON that names an entry of a folder; ValueError for any other."""
    if not isinstance(value, str) or value in ("", ".", "..") or value != os.path.basename(value):
        raise ValueError(f"{_short(value)} is not a name in its folder")
    return value


_KIND_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:40] + "..."


def write_text(path: str, text: str) -> None:
    """Writes a text as `write_bytes` does; bytes of a file's name that are no text as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str, content: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON as `write_bytes` does."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, whole.

    It writes next to the file and renames. An object of Google's buckets appears whole when it is
    closed, and renaming one would take six more requests.

    Raises:
      UserError: the file cannot be written; the old one stays, and nothing is left next to it.
    """
    renames = not _is_object(path)
    unfinished = _unfinished_name(path) if renames else path
    try:
        with tf.io.gfile.GFile(unfinished, "wb") as f:
            f.write(content)
        if renames:
            tf.io.gfile.rename(unfinished, path, overwrite=True)
    except BaseException as e:
        if renames:
            with contextlib.suppress(tf.errors.OpError):
                tf.io.gfile.remove(unfinished)
        if isinstance(e, tf.errors.OpError):
            raise UserError(f"{path} cannot be written: {reason(e)}.") from e
        raise


def _unfinished_name(path: str) -> str:
    return f"{path}.tmp-{uuid.uuid4().hex[:8]}"


def is_remote(path: str) -> bool:
    """Whether a path is in a bucket (gs://, s3:// and the like)."""
    return "://" in path


def _is_object(path: str) -> bool:
    """Whether a path is in a bucket of Google's, which has objects and no folders."""
    return path.startswith("gs://")


def is_download(path: str) -> bool:
    """Whether a text names a file to download (hf://, https://) and not one to open."""
    return path.lower().startswith(("hf://", "https://", "http://"))


def absolute(path: str) -> str:
    """Returns the path from the root; a path in a bucket already is one."""
    return path if is_remote(path) else os.path.abspath(path)


def expand_home(path: str) -> str:
    """Returns the path with the home folder in place of a leading ~ or ~user, as shells do.

    Shells leave ~ as it is within --flag=~/folder, and nobody else replaces it in a file.

    Raises:
      UserError: the home folder is not known, and there is no file of this name either.
    """
    expanded = os.path.expanduser(path)
    if expanded == path and path.startswith("~") and not os.path.lexists(path):
        user = path.partition("/")[0]
        raise UserError(
            f"{excerpt(path)}: this machine does not know the home folder {excerpt(user)}: write "
            f"the folder in full (./{excerpt(path)} if it is called so), or set HOME."
        )
    return expanded


def names(folder: str) -> list[str]:
    """Returns the names of all that is in a folder; none if the folder is missing.

    Raises:
      tf.errors.OpError: the folder cannot be read.
    """
    if _is_object(folder):
        # TensorFlow's listdir says of a bucket that does not answer that the folder is missing.
        return [os.path.basename(path) for path in tf.io.gfile.glob(folder.rstrip("/") + "/*")]
    try:
        return [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
    except tf.errors.NotFoundError:
        return []


def make_dirs(path: str) -> None:
    """Makes a folder, and those above it, for files that are written next.

    In a bucket of Google's the files alone make it. TensorFlow would ask for the bucket, which a
    role that may write objects does not allow, and for ever if there is no such bucket.
    """
    if not _is_object(path):
        tf.io.gfile.makedirs(path)


def remove(path: str) -> None:
    """Removes a file, or a folder with its content; does nothing if there is none."""
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
        return
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(path)


def copy(source: str, target: str) -> None:
    """Copies a file, or a local folder with its content."""
    if not tf.io.gfile.isdir(source):
        tf.io.gfile.copy(source, target)
        return
    for folder, _, names in tf.io.gfile.walk(source):
        place = os.path.join(target, os.path.relpath(folder, source)).removesuffix("/.")
        make_dirs(place)
        for name in names:
            tf.io.gfile.copy(os.path.join(folder, name), os.path.join(place, name))


def rename(source: str, target: str) -> None:
    """Renames a file or a folder; an existing file of the new name is replaced.

    A bucket has no folders, so there a folder is renamed file by file. Files of subfolders come
    first, so that saved_model.pb, by which servers recognize a SavedModel, comes last.
    """
    if not (is_remote(source) and tf.io.gfile.isdir(source)):
        tf.io.gfile.rename(source, target, overwrite=True)
        return
    for folder, _, names in tf.io.gfile.walk(source, topdown=False):
        place = target + folder.rstrip("/").removeprefix(source.rstrip("/"))
        make_dirs(place)
        for name in names:
            # A bucket renames by copying, and a kill may have left both files.
            tf.io.gfile.rename(
                os.path.join(folder, name), os.path.join(place, name), overwrite=True
            )
    tf.io.gfile.rmtree(source)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """Makes a local folder, whose name begins with the prefix, for the block.

    Raises:
      UserError: the block cannot write to the folder, because the disk is full or the like.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        try:
            yield path
        except failure_types() as e:
            failure = failure_of(e)
            if failure is None or not (failure.path or "").startswith(path):
                raise
            raise UserError(
                f"The temporary folder {os.path.dirname(path)} cannot be written: "
                f"{failure.reason}; make room there or name another one in the variable TMPDIR, "
                "and run the same command again."
            ) from e


def check_no_pattern(path: str | None, flag: str) -> None:
    """Raises UserError for a path that TensorFlow would take for a pattern, and not find."""
    found = sorted(set(path or "") & set("*?[]\\"))
    if found:
        raise UserError(
            f"--{flag}={path} has the character '{found[0]}', which stands for other characters "
            "in TensorFlow's file names: choose or rename the folder."
        )


def check_dir_name(path: str, flag: str) -> None:
    """Raises UserError for a folder's path that is empty or that TensorFlow takes for a pattern."""
    if not path:
        raise UserError(f"--{flag} is missing: name a folder.")
    check_no_pattern(path, flag)


def make_writable_dir(path: str, flag: str) -> None:
    """Makes a folder if it is missing; UserError if that fails or the folder is not writable."""
    check_dir_name(path, flag)
    try:
        if _is_object(path):
            # The empty object that stands for a folder; making it is what tells of the bucket.
            with contextlib.suppress(tf.errors.AlreadyExistsError):
                tf.io.gfile.mkdir(path)
        make_dirs(path)
        if not is_remote(path) and not os.access(path, os.W_OK):
            raise UserError(f"--{flag}={path} is not writable: choose another folder.")
    except tf.errors.NotFoundError as e:
        if not _is_object(path):
            raise UserError(f"--{flag}={path} cannot be made: {reason(e)}.") from e
        raise UserError(
            f"--{flag}={path} is in a bucket that is not there: check its name, or make it first."
        ) from e
    except tf.errors.OpError as e:
        raise UserError(f"--{flag}={path} cannot be made: {reason(e)}.") from e


def check_writable(path: str, flag: str) -> None:
    """Raises UserError, before long work, if a file cannot be written to a path."""
    unfinished = _unfinished_name(path)
    try:
        if tf.io.gfile.isdir(path):
            raise UserError(f"--{flag}={path} is a folder: name a file.")
        if os.path.exists(path) and not os.path.isfile(path):
            # A device would be replaced by a file.
            raise UserError(f"--{flag}={path} is not a regular file: name one.")
        with tf.io.gfile.GFile(unfinished, "w") as f:
            f.write("")
        tf.io.gfile.remove(unfinished)
    except tf.errors.OpError as e:
        raise UserError(f"--{flag}={path} cannot be written: {reason(e)}.") from e


def in_package(package: str, path: str) -> str | None:
    """Returns a file of an installed package without importing it; None if the file is missing.

    Args:
      package: a top-level import name.
      path: of the file within the folder of the package.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [os.path.join(folder, path) for folder in folders]
    return next((path for path in found if os.path.exists(path)), None)


def reason(error: Exception) -> str:
    """Returns the line of an error that says something, without the noise that TensorFlow adds.

    For an error of a disk, it returns the words of the system and what helps.
    """
    failure = failure_of(error)
    if failure:
        return f"{failure.reason}; {failure.remedy}"
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    if said := _reason_of_bucket(message):
        return said
    noise = ("Graph execution error", "Detected at node", "Node:", "[[{{", "Traceback", 'File "')
    lines = [line.strip() for line in message.splitlines()]
    useful = [line for line in lines if line and not line.startswith(noise)]
    return (useful or lines)[0].rstrip(".")


def is_of_bucket(error: BaseException | None) -> bool:
    """Whether an error is about a request to a bucket; writers raise RuntimeErrors, too."""
    if not isinstance(error, (tf.errors.OpError, RuntimeError)):
        return False
    return _BUCKET_FAILURE.search(getattr(error, "message", None) or str(error)) is not None


_BUCKET_FAILURE = re.compile(
    r"(?:All (?P<retries>\d+) retry attempts failed.*)?Error executing an HTTP request: "
    r"(?:HTTP response code (?P<status>\d+)|"
    r"libcurl code \d+ meaning '(?P<failure>.*?)', error details:)"
    r"(?P<more>.*?)\n\s*when (?P<doing>[^\n]+)",
    re.S,
)
_SAID = re.compile(r'"message":\s*"((?:[^"\\]|\\.)*)"')


def _reason_of_bucket(message: str) -> str | None:
    """Returns the reason in TensorFlow's message about a request to a bucket; None in others."""
    found = _BUCKET_FAILURE.search(message)
    if found is None:
        return None
    text = f"HTTP status {found['status']}" if found["status"] else found["failure"]
    if found["retries"]:
        text += f", the last of {int(found['retries']) + 1} times,"
    text += f" when {found['doing'].rstrip('.')}"
    said = _SAID.search(found["more"])
    if said is None:
        return text
    words = re.sub(r'\\(["\\/])', r"\1", said[1])  # as JSON escapes them
    return f"{text} ({words.rstrip('.')})"
