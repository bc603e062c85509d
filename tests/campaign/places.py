"""Makes places where no program can read or write what it expects."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _dangling(folder: Path) -> Path:
    (folder / "dangling").symlink_to(folder / "nowhere")
    return folder / "dangling"


def _file(folder: Path, content: bytes = b"") -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


def _folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


def _socket(folder: Path) -> Path:
    # A socket of our own, because a program that runs as root could replace a device in /dev.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder / "socket"


# Kind -> maker, which gets an empty folder to make the place in.
PLACES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "missing",
    "below a file": lambda folder: _file(folder) / "below",
    "an empty file": _file,
    "a binary file": lambda folder: _file(folder, bytes(range(256)) * 8),
    "an empty folder": _folder,
    "a link to itself": _loop,
    "a dangling link": _dangling,
    "a socket": _socket,
    "read-only": lambda folder: Path("/proc/campaign"),
}
