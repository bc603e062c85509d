"""Tries weights files as an attacker or a broken disk would make them, and says how each ends.

`files()` yields (name, file name, content). A program that reads one must end in one sentence or in
a result: without a stack trace, a crash, a hang or more memory than the machine has, and without
executing anything. A file that runs code leaves a file EXECUTED in the working folder.

    python tests/hostile_weights.py FOLDER [quick|costly]

tries them all, in one process, in an empty folder.
"""

import contextlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
import warnings
from pickle import PROTO

import hostile_archives
import hostile_networks
import hostile_operations
import hostile_pickles
import hostile_safetensors
import safetensors.numpy
from hostile_pickles import GOOD, SIX
from torch_files import entry, legacy_file, pickled, safetensors_file, zip_file

from utils import checkpoint_tool, import_weights
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

MEMORY = 4 << 30  # bytes
SECONDS = 60  # for each file and program
_HEAD = PROTO + b"\x04"


def files():
    """Yields (name, file name, content) of all files; the names differ."""
    yield from quick()
    yield from costly()


def quick():
    """Yields the files that are refused within milliseconds."""
    for kind, make in (("zip", zip_file), ("legacy", legacy_file)):
        content = make(GOOD, {"0": SIX})
        yield from _cut(kind, "w.pth", content, 30)
        yield from _flipped(kind, "w.pt", content, 60)
        for name, tree, data in hostile_pickles.trees():
            yield f"{kind}: {name}", "w.pth.tar", make(tree, data)
    for name, program in hostile_operations.programs():
        yield f"zip: {name}", "w.bin", _zip_of(program)
        yield f"legacy: {name}", "w.pth", _legacy_of(program)
        yield f"first pickle: {name}", "w.pth", _HEAD + program
    for name, content in hostile_archives.archives():
        yield f"archive: {name}", "w.pth", content
    content = safetensors_file({"__metadata__": {"format": "pt"}, **entry()}, bytes(8))
    yield from _cut("safetensors", "w.safetensors", content, 30)
    yield from _flipped("safetensors", "w.safetensors", content, 60)
    for name, content in hostile_safetensors.tables():
        yield f"safetensors: {name}", "w.safetensors", content
    for name, metadata in hostile_networks.metadata():
        content = safetensors_file({"__metadata__": metadata, **entry()}, bytes(8))
        yield f"metadata: {name}", "w.safetensors", content
    for number, content in enumerate(_other()):
        for ending in ("pth", "safetensors"):
            yield f"other {number}.{ending}", f"w.{ending}", content


def costly():
    """Yields the files that take seconds: networks that are built first."""
    for name, state in hostile_networks.networks():
        yield f"network: {name}", "w.safetensors", safetensors.numpy.save(state)


def _cut(kind, file_name, content, times):
    for number in range(times):
        at = number * len(content) // times
        yield f"{kind}: cut at byte {at}", file_name, content[:at]


def _flipped(kind, file_name, content, times):
    chance = random.Random(0)
    for number in range(times):
        changed = bytearray(content)
        for _ in range(1 + number % 3):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield f"{kind}: flipped bits {number}", file_name, bytes(changed)


def _zip_of(program):
    return hostile_archives.archive_of({"archive/data.pkl": _HEAD + program, "archive/data/0": SIX})


def _legacy_of(program):
    parts = [pickled(part) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*parts, _HEAD + program, pickled(["0"]), struct.pack("<q", 6), SIX])


def _other():
    """Yields files of other kinds."""
    yield b"<!DOCTYPE html><html><body>404</body></html>"
    yield b"\x89PNG\r\n\x1a\n" + bytes(1000)
    yield b"\x7fELF" + bytes(1000)
    yield b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield b"\x1f\x8b\x08" + bytes(1000)
    yield b"\0" * 1000
    yield b"\xff" * 1000
    yield random.Random(1).randbytes(100_000)
    yield b"#!/bin/sh\ntouch EXECUTED\n"
    yield b"import os; os.system('touch EXECUTED')\n"
    yield pickle.dumps({"a": 1}, 5)
    yield "Gewichte für später".encode()


def outcome(program, arguments):
    """Runs a program; returns 'refused: why', 'taken', or what is wrong with its end."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            program(["program", *arguments])
    except UserError as e:
        text = str(e)
        fine = text.isprintable() and len(text) < 10_000 and text.endswith(".")
        return f"refused: {text}" if fine else f"says {text[:500]!r}"
    except BaseException as e:  # MemoryError, and PanicException of Rust, too
        return "".join(traceback.format_exception(e))[-2000:]
    return "taken"


def main(folder, which="files"):
    """Tries all files with the import and the listing; prints how each ends, then the counts."""
    tf.disable_v2_behavior()
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts = {}
    for name, file_name, content in {"files": files, "quick": quick, "costly": costly}[which]():
        with open(file_name, "wb") as f:
            f.write(content)
        del content
        for program, arguments in (
            (checkpoint_tool.main, ["list", file_name]),
            (import_weights.main, [f"--weights={file_name}", "--model_dir=model"]),
        ):
            # A handler in Python would wait until C returns; the default one ends a hang anywhere.
            signal.alarm(SECONDS)
            print(f"{name}: ", end="", flush=True)
            result = outcome(program, arguments)
            signal.alarm(0)
            if os.path.exists("model") and result != "taken":
                result += ", but left a model"
            print(result, flush=True)
            kind = result.partition(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
            shutil.rmtree("model", ignore_errors=True)
        os.remove(file_name)
    print(json.dumps(counts))
    return 0 if set(counts) <= {"refused", "taken"} and os.listdir(".") == [] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
