"""Lists, reads and writes folders of pictures, on disk or in a bucket."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import logging

from utils.base import files, memory
from utils.base.errors import UserError
from utils.base.progress import Progress
from utils.base.tensorflow_version import tf
from utils.building import shards
from utils.reading import examples, pictures, records
from utils.reading.pictures import Unreadable

# Endings of files that are often among pictures. Every other file must be a picture: an error is
# better than a picture that is left out.
SKIPPED = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".yaml",
    ".yml",
    ".md",
    ".html",
    ".db",
    ".ini",
    ".py",
    ".mat",
    ".npy",
    ".pkl",
    ".mov",
    ".mp4",
    ".aae",
)
# The features of every record of a picture.
FEATURES = (
    examples.IMAGE_KEY,
    "image/format",
    "image/height",
    "image/width",
    "image/filename",
    examples.LABEL_KEY,
    "image/class/text",
)
_PICTURES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".hif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)

# What systems leave among pictures besides hidden files, in lower case: Synology, QNAP, macOS,
# Windows, Linux, Python.
_SYSTEM = (
    "@eadir",
    "@__thumb",
    "@recycle",
    "#recycle",
    "#snapshot",
    "__macosx",
    "icon\r",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "__pycache__",
)
SAMPLES_DIR = "pictures"
_LOG_FOLDERS = 200  # folders between two lines of the log
# A bucket answers in parallel.
REQUESTS = 32


class Found(NamedTuple):
    """A file that was found in a folder.

    Attributes:
      path: below the folder that was searched, with slashes.
      stamp: bytes and time of the last change in ns; empty in buckets.
    """

    path: str
    stamp: tuple[int, ...] = ()


def is_dir(path: str) -> bool:
    """Whether a folder is there; UserError if the file system cannot tell."""
    try:
        return tf.io.gfile.isdir(path)
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e


def folders(path: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without those that systems leave."""
    return sorted(
        name for name, _, is_folder in _entries(path) if is_folder and not _left_by_system(name)
    )


def plainest(root: str, names: Iterable[str]) -> str:
    """Returns which of a root's folders, all named like the same split, has the fewest words.

    Raises:
      UserError: there are two such folders.
    """
    first, *others = sorted(names, key=lambda name: (len(records.words_of(name)), name))
    if others and len(records.words_of(first)) == len(records.words_of(others[0])):
        raise UserError(
            f"--input_dir={root} has both {first} and {others[0]}: move one of them away."
        )
    return first


def walk_all(folder: str, names: Sequence[str]) -> list[list[Found]]:
    """Returns the files below each of some folders in a folder, at any depth, sorted by path.

    What is no picture (`_skipped_as`) is left out and counted in the log, and so are the files next
    to the folders, where no pictures are looked for.

    Args:
      folder: to search.
      names: of the folders; those deeper down with slashes.

    Raises:
      UserError: a folder cannot be read.
    """

    def walk(name):
        return list(_walk(os.path.join(folder, name), "", frozenset()))

    skipped = _count_next_to(folder, names)
    kept = []
    with (
        contextlib.closing(Progress("list", len(names), "folder", log_every=_LOG_FOLDERS)) as bar,
        concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool,
    ):
        for number, found in enumerate(pool.map(walk, names), 1):
            skipped.update(filter(None, (_skipped_as(file.path) for file in found)))
            kept.append(sorted(file for file in found if not _skipped_as(file.path)))
            bar.update(number)
    if skipped:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(skipped.items()))
        logging.info("Skipped %d files that are not pictures: %s.", skipped.total(), kinds)
    return kept


def _count_next_to(folder: str, names: Iterable[str]) -> collections.Counter[str]:
    """Returns what is skipped above some folders in a folder; logs how many files are there."""
    skipped: collections.Counter[str] = collections.Counter()
    for above in sorted({"", *(os.path.dirname(name) for name in names)}):
        path = os.path.join(folder, above) if above else folder
        left_out = 0
        for name, _, is_folder in _entries(path):
            kind = _left_by_system(name) if is_folder else _skipped_as(name)
            skipped.update([kind] if kind else [])
            left_out += not kind and not is_folder
        if left_out:
            logging.info(
                "%s: %d files next to the class folders are left out.", path.rstrip("/"), left_out
            )
    return skipped


def _skipped_as(path: str) -> str | None:
    """Returns the kind of a file that is no picture: an ending, or what systems leave."""
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1].lower()
    return _left_by_system(name) or (ending if ending in SKIPPED else None)


def _left_by_system(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    return name.strip() if name.lower() in _SYSTEM else None


def _walk(folder: str, prefix: str, above: frozenset[str]) -> Iterator[Found]:
    """Yields the files below a folder, and the folders that systems leave, which are not entered.

    Args:
      folder: to search.
      prefix: of the paths of what is found.
      above: real paths of the folders that lead here, by which a circle of links is found.
    """
    if not files.is_remote(folder):
        real = os.path.realpath(folder)
        if real in above:  # a link that leads back
            return
        above = above | {real}
    for name, stamp, is_folder in _entries(folder):
        if is_folder and not _left_by_system(name):
            yield from _walk(os.path.join(folder, name), f"{prefix}{name}/", above)
        else:
            yield Found(prefix + name, stamp)


def _entries(folder: str) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Yields (name, stamp, whether it is a folder) of what is in a folder."""
    listing = _remote_entries if files.is_remote(folder) else _local_entries
    try:
        yield from listing(folder)
    except (OSError, tf.errors.OpError) as e:
        raise UserError(f"{folder} cannot be read: {_reason(e)}.") from e


def _local_entries(folder: str):
    """Yields what `_entries` does for a folder on disk; leaves out pipes, devices and sockets."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere: reading it says so
                yield entry.name, (), False
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            if is_folder or stat.S_ISREG(status.st_mode):
                yield entry.name, (status.st_size, status.st_mtime_ns), is_folder


def _remote_entries(folder: str):
    """Yields what `_entries` does for a folder in a bucket."""
    for name in tf.io.gfile.listdir(folder):
        is_folder = name.endswith("/")
        name = name.rstrip("/")
        if not is_folder and not name.lower().endswith(_PICTURES):
            # Not all file systems mark folders with a slash; asking about each takes a request.
            is_folder = tf.io.gfile.isdir(os.path.join(folder, name))
        yield name, (), is_folder


def read(path: str) -> bytes:
    """Returns a file's bytes.

    Raises:
      Unreadable: the file is missing, or its permissions forbid reading it.
      UserError: reading fails for any other reason, which would concern the next file as well.
    """
    try:
        if files.is_remote(path):
            with tf.io.gfile.GFile(path, "rb") as f:
                return f.read()
        with open(path, "rb") as f:
            return f.read()
    except (
        FileNotFoundError,
        PermissionError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
    ) as e:
        raise Unreadable(_reason(e)) from e
    except (OSError, tf.errors.OpError) as e:
        raise UserError(f"{path} cannot be read: {_reason(e)}.") from e


def _reason(error: Exception) -> str:
    # strerror has no file name, which the sentence has already.
    return getattr(error, "strerror", None) or files.reason(error)


def num_threads(root: str) -> int:
    """Returns how many pictures to read at a time: more if reading waits for a bucket."""
    return max(64, 2 * memory.cores()) if files.is_remote(root) else 2 * memory.cores()


def need_dir(path: str, flag: str) -> None:
    """Raises UserError if a flag's folder is not there."""
    if not is_dir(path):
        raise UserError(f"--{flag}={path} is not a folder: check the path.")


def check_apart(input_dir: str, output_dir: str) -> None:
    """Raises UserError if the output is inside the input, where a second run would find it."""
    if files.is_remote(input_dir) != files.is_remote(output_dir):
        return
    above, below = (
        path.rstrip("/") if files.is_remote(path) else os.path.realpath(path)
        for path in (input_dir, output_dir)
    )
    if (below + "/").startswith(above + "/"):
        raise UserError(
            f"--output_dir={output_dir} is inside --input_dir={input_dir}: choose a folder outside."
        )


class PictureMaker:
    """Makes the records of picture files; an item's key is the path below `root`."""

    def __init__(
        self,
        root: str,
        label_names: Sequence[str],
        upright: bool = True,
        synsets: Sequence[str] | None = None,
    ):
        """Keeps the settings.

        Args:
          root: folder or bucket.
          label_names: of the classes in order.
          upright: turn pictures as their EXIF orientation says.
          synsets: of the classes in order, for the feature image/class/synset; None leaves the
            feature out.
        """
        self._root, self._upright = root, upright
        self._label_names, self._synsets = label_names, synsets

    def __call__(self, item: shards.Item) -> shards.Made:
        """Reads, checks and perhaps re-encodes an item's picture.

        Raises:
          Unreadable: the picture cannot be read or is damaged.
          UserError: reading fails for a reason that concerns all pictures.
        """
        picture = pictures.fit(read(os.path.join(self._root, item.key)), self._upright)
        more = {"image/filename": os.path.basename(item.key)}
        if self._synsets:
            more["image/class/synset"] = self._synsets[item.label - 1]
        return make_record(picture, item.label, self._label_names[item.label - 1], more)


def make_record(
    picture: pictures.Picture, label: int, label_name: str, more: Mapping[str, str | int]
) -> shards.Made:
    """Returns the record of a picture with the `FEATURES` and `more` features."""
    features = {
        "image/format": "JPEG",
        "image/height": picture.height,
        "image/width": picture.width,
        "image/class/text": label_name,
        **more,
    }
    return shards.Made(examples.example(picture.encoded, label, features), picture.changed)


def write_samples(output_dir: str, samples: Mapping[str, bytes]) -> None:
    """Writes picture files, given by name, next to a data set, to try a model on.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = os.path.join(output_dir, SAMPLES_DIR)
    files.make_writable_dir(folder, "output_dir")
    for name, encoded in samples.items():
        files.write_bytes(os.path.join(folder, name), encoded)
