"""Tries weights files as an attacker or a broken disk would make them, and says how each ends.

A program that reads one must end in one sentence or in a result: without a stack trace, a crash, a
hang or more memory than the machine has, and without executing anything. A file that runs code
leaves a file EXECUTED in the working folder.

    python tests/hostile_weights.py FOLDER

tries them all, in one process, in an empty folder.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
import warnings
import zipfile
from pickle import (
    BINGET,
    BINPUT,
    BINUNICODE,
    BINUNICODE8,
    EMPTY_DICT,
    INST,
    LONG_BINPUT,
    MARK,
    NONE,
    POP,
    PROTO,
    REDUCE,
    SETITEM,
    STACK_GLOBAL,
    STOP,
    TUPLE1,
)

from torch_files import Call, entry, legacy_file, pickled, safetensors_file, tensor, zip_file

from utils import checkpoint_tool, import_weights
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf

MEMORY = 4 << 30  # bytes
SECONDS = 60  # for each file and program
COMMAND = "touch EXECUTED"
SIX = struct.pack("<6f", *range(6))
GOOD = {"a": tensor("0", (2, 3), (3, 1)), "b": tensor("0", (2,), (1,), offset=4)}


def files():
    """Yields (name, file name, content) of all files; the names differ."""
    good = {"zip": zip_file(GOOD, {"0": SIX}), "legacy": legacy_file(GOOD, {"0": SIX})}
    good["safetensors"] = safetensors_file({"__metadata__": {"format": "pt"}, **entry()}, bytes(8))
    chance = random.Random(0)
    for kind, content in good.items():
        ending = "w.safetensors" if kind == "safetensors" else "w.pth"
        for part in range(6):
            yield f"{kind}: cut at {part}/6", ending, content[: part * len(content) // 6]
            flipped = bytearray(content)
            flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            yield f"{kind}: flipped bit {part}", ending, bytes(flipped)
    for name, tree, data in trees():
        yield f"zip: {name}", "w.pth.tar", zip_file(tree, data)
        yield f"legacy: {name}", "w.pt", legacy_file(tree, data)
    for name, program in programs().items():
        pickle = PROTO + b"\x04" + program
        yield f"zip: {name}", "w.bin", archive({"data.pkl": pickle, "data/0": SIX})
        yield f"first pickle: {name}", "w.pth", pickle
    for name, content in archives(good["zip"]):
        yield f"archive: {name}", "w.pth", content
    for name, content in headers():
        yield f"safetensors: {name}", "w.safetensors", content
    for name, settings in metadata().items():
        header = {"__metadata__": {"mnasnet_settings": settings}, **entry()}
        yield f"metadata: {name}", "w.safetensors", safetensors_file(header, bytes(8))
    for name, content in {
        "a page": b"<!DOCTYPE html><html><body>404</body></html>",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "zeros": bytes(1000),
        "noise": chance.randbytes(100_000),
        "a script": b"import os; os.system('touch EXECUTED')\n",
    }.items():
        yield f"{name}.pth", "w.pth", content
        yield f"{name}.safetensors", "w.safetensors", content


def trees():
    """Yields (name, tree, storages) of pickles that lie about tensors, storages and names."""
    for name, (shape, strides, more) in {
        "100 dimensions": ((1,) * 100, (1,) * 100, {}),
        "a huge shape": ((1 << 62,), (0,), {}),
        "a negative shape": ((-2,), (1,), {}),
        "a shape of texts": (("2",), ("1",), {}),
        "huge strides": ((1, 2), (1 << 62, 1 << 62), {}),
        "an offset outside": ((2,), (1,), {"offset": 6}),
        "a storage of terabytes": ((2,), (1,), {"count": 1 << 40}),
        "an unknown type": ((2,), (1,), {"kind": "ComplexFloatStorage"}),
        "no such storage": ((2,), (1,), {"key": "1"}),
    }.items():
        yield name, {"a": tensor(more.pop("key", "0"), shape, strides, **more)}, {"0": SIX}
    views = {str(n): tensor("0", (1 << 18,), (1,), count=1 << 18) for n in range(2000)}
    yield "two thousand views of one storage", views, {"0": bytes(1 << 20)}
    many = {str(n): tensor("0", (), ()) for n in range(11_000)}
    yield "tensors without number", many, {"0": SIX}
    call = Call("os", "system", COMMAND)
    for name, tree in {
        "a name of a line feed": {"a\nb": GOOD["a"]},
        "a key that is a tuple": {(1, 2): GOOD["a"]},
        "a call": call,
        "an entry that calls": {"a": call},
        "a call in a call": {"a": Call("pickle", "loads", pickled(call))},
        "a list": [GOOD["a"]],
        "no entry": {},
    }.items():
        yield name, tree, {"0": SIX}
    yield "no data", GOOD, {}
    yield "data cut", GOOD, {"0": SIX[:-1]}


def programs():
    """Returns name -> operations of pickles that no pickler writes."""

    def text(value):
        return BINUNICODE + struct.pack("<I", len(value)) + value.encode()

    itself = EMPTY_DICT + BINPUT + b"\0" + text("state_dict") + BINGET + b"\0" + SETITEM
    system = text("os") + text("system") + STACK_GLOBAL
    return {
        "INST": MARK + text(COMMAND) + INST + b"os\nsystem\n" + STOP,
        "STACK_GLOBAL": system + text(COMMAND) + TUPLE1 + REDUCE + STOP,
        "no STOP": EMPTY_DICT,
        "POP of nothing": POP + STOP,
        "4 billion memos": NONE + LONG_BINPUT + b"\xff\xff\xff\xff" + STOP,
        "a text of exabytes": BINUNICODE8 + struct.pack("<Q", 1 << 62) + STOP,
        "a dictionary in itself": itself + STOP,
    }


def archive(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(f"archive/{name}", content)
    return stream.getvalue()


def archives(good):
    """Yields (name, content) of archives whose members, sizes and methods lie."""
    tree, central, end = pickled(GOOD), b"PK\x01\x02", b"PK\x05\x06"
    for name, members in {
        "a bomb as table": {"data.pkl": b"N" * (16 << 20), "data/0": SIX},
        "a bomb as data": {"data.pkl": tree, "data/0": bytes(16 << 20)},
    }.items():
        yield name, archive(members, zipfile.ZIP_DEFLATED)
    for name, members in {
        "no table": {"data/0": SIX},
        "TorchScript": {"constants.pkl": tree},
        "big-endian": {"data.pkl": tree, "byteorder": b"big", "data/0": SIX},
    }.items():
        yield name, archive(members)

    def patched(offset, new):
        at = good.index(central) + offset
        return good[:at] + new + good[at + len(new) :]

    yield "encrypted", patched(8, b"\x01\0")
    yield "an unknown method", patched(10, b"\x61\0")
    yield "a size of gigabytes", patched(20, b"\xff\xff\xff\x7f" * 2)
    yield "no end", good[: good.index(end)]
    yield "members that overlap", overlapping(2000, 1 << 20)


def overlapping(count, size):
    """Members that all have the same bytes, each of them a tensor."""
    tree = {str(n): tensor(str(n), (size // 4,), (1,), count=size // 4) for n in range(count)}
    content = archive({"data.pkl": pickled(tree), "data/0": bytes(size)})
    at = content.index(b"PK\x01\x02")
    first, end = content.index(b"PK\x01\x02", at + 1), content.index(b"PK\x05\x06")
    entries = [content[first:end]]
    for number in range(1, count):
        name = f"archive/data/{number}".encode()
        lengths = struct.pack("<H", len(name))
        entries.append(entries[0][:28] + lengths + entries[0][30:46] + name)
    directory = content[at:first] + b"".join(entries)
    numbers = (0, 0, count + 1, count + 1, len(directory), at, 0)
    return content[:at] + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", *numbers)


def headers():
    """Yields (name, content) of .safetensors files whose header lies or is none."""
    yield "a header of exabytes", struct.pack("<Q", 1 << 63) + json.dumps(entry()).encode()
    for name, changes in {
        "100 dimensions": {"shape": [1] * 99 + [2]},
        "a huge shape": {"shape": [1 << 62, 4]},
        "a negative shape": {"shape": [-2]},
        "a place outside": {"data_offsets": [0, 1 << 62]},
        "an unknown type": {"dtype": "Q"},
    }.items():
        yield name, safetensors_file(entry(**changes), bytes(8))
    plain = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for name, table in {
        "overlapping": {"a": plain, "b": plain},
        "a hole": {"a": plain, "b": {**plain, "data_offsets": [12, 20]}},
        "a name of a line feed": {"a\nb": plain},
        "no tensor": {},
        "not JSON": b"{",
        "deep lists": b"[" * 1_000_000,
    }.items():
        yield name, safetensors_file(table, bytes(20 if name == "a hole" else 8))


def metadata():
    """Returns name -> settings, as text, of a network that nobody can build."""
    good = {
        "model_name": "m",
        "model_spec": {"stages": ["r1_k3_s11_e1_i8_o8"], "stem_size": 8},
        "input_image_size": 32,
        "resize_method": "bicubic",
    }
    changes = {
        "a huge network": {"model_spec": {"stages": ["r1_k3_s11_e1_i100000000_o8"]}},
        "no stage": {"model_spec": {"stages": []}},
        "a negative size": {"input_image_size": -1},
        "code": {"model_name": "!!python/object/apply:os.system [touch EXECUTED]"},
    }
    texts = {name: json.dumps({**good, **change}) for name, change in changes.items()}
    return {**texts, "no JSON": "{", "a list": "[]", "deep lists": "[" * 100_000}


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


def main(folder):
    """Tries all files with the import and the listing; prints how each ends, as JSON."""
    tf.disable_v2_behavior()
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = {}
    for name, file_name, content in files():
        with open(file_name, "wb") as f:
            f.write(content)
        for program, arguments in (
            (checkpoint_tool.main, ["list", file_name]),
            (import_weights.main, [f"--weights={file_name}", "--model_dir=model"]),
        ):
            # A handler in Python would wait until C returns; the default one ends a hang anywhere.
            signal.alarm(SECONDS)
            print(name, file=sys.stderr, flush=True)  # the last line names what hangs or crashes
            result = outcome(program, arguments)
            signal.alarm(0)
            if os.path.exists("model") and result != "taken":
                result += ", but left a model"
            if os.path.exists("EXECUTED"):
                result = "code was executed"
            found.setdefault(name, []).append(result)
            shutil.rmtree("model", ignore_errors=True)
        os.remove(file_name)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
