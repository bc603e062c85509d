"""Weights files as an attacker or a broken disk would make them, and a program that tries them all.

`files()` yields (name, file name, content). What reads one must end in one sentence or in a result:
no stack trace, nothing executed, no crash, no hang, no more memory than the machine has. A file
that runs code leaves a file EXECUTED in the working folder.

python tests/hostile_weights.py FOLDER [quick|costly]    (tries them all, in this one process)
"""

import contextlib
import io
import itertools
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
import zipfile
from pickle import (
    APPEND,
    APPENDS,
    BINBYTES8,
    BINGET,
    BINPERSID,
    BINPUT,
    BINUNICODE,
    BINUNICODE8,
    BUILD,
    BYTEARRAY8,
    DICT,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_SET,
    EMPTY_TUPLE,
    EXT1,
    EXT2,
    EXT4,
    FRAME,
    FROZENSET,
    GET,
    GLOBAL,
    INST,
    INT,
    LIST,
    LONG,
    LONG4,
    LONG_BINGET,
    LONG_BINPUT,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NEWOBJ_EX,
    NONE,
    OBJ,
    PERSID,
    POP,
    POP_MARK,
    PROTO,
    PUT,
    REDUCE,
    SETITEM,
    SETITEMS,
    STACK_GLOBAL,
    STOP,
    STRING,
    TUPLE,
    TUPLE1,
    TUPLE2,
    UNICODE,
)

import numpy as np
import safetensors.numpy
from torch_files import (
    Call,
    Data,
    Global,
    entry,
    legacy_file,
    pickled,
    safetensors_file,
    tensor,
    zip_file,
)

import mnasnet_models
from utils import checkpoint_tool, import_weights
from utils.base.errors import UserError
from utils.weights import layer_names, recognition

import tensorflow.compat.v1 as tf  # isort: skip

MEMORY = 4 << 30
SECONDS = 60
COMMAND = "touch EXECUTED"
SIX = struct.pack("<6f", *range(6))
GOOD = {"a": tensor("0", (2, 3), (3, 1)), "b": tensor("0", (2,), (1,), offset=4)}


def files():
    """Yields (name, file name, content) of all files; the names differ."""
    yield from quick()
    yield from costly()


def quick():
    """Those that are refused within milliseconds."""
    for kind, make in (("zip", zip_file), ("legacy", legacy_file)):
        content = make(GOOD, {"0": SIX})
        yield from _cut(kind, "w.pth", content, 30)
        yield from _flipped(kind, "w.pt", content, 60)
        for name, tree, data in _trees():
            yield f"{kind}: {name}", "w.pth.tar", make(tree, data)
    for name, program in _programs():
        yield f"zip: {name}", "w.bin", _zip_of(program)
        yield f"legacy: {name}", "w.pth", _legacy_of(program)
        yield f"first pickle: {name}", "w.pth", _HEAD + program
    for name, content in _archives():
        yield f"archive: {name}", "w.pth", content
    content = safetensors_file({"__metadata__": {"format": "pt"}, **entry()}, bytes(8))
    yield from _cut("safetensors", "w.safetensors", content, 30)
    yield from _flipped("safetensors", "w.safetensors", content, 60)
    for name, content in _safetensors():
        yield f"safetensors: {name}", "w.safetensors", content
    for name, metadata in _metadata():
        content = safetensors_file({"__metadata__": metadata, **entry()}, bytes(8))
        yield f"metadata: {name}", "w.safetensors", content
    for number, content in enumerate(_other()):
        for ending in ("pth", "safetensors"):
            yield f"other {number}.{ending}", f"w.{ending}", content


def costly():
    """Those that take seconds: long programs, and networks that are built first."""
    for name, program in _long_programs():
        yield f"zip: {name}", "w.pth", _zip_of(program)
    for name, state in _networks():
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


# Pickles that are well formed: what they hold is wrong.


def _trees():
    """(name, tree, storages)."""

    def view(*arguments, **more):
        return {"a": tensor("0", *arguments, **more)}

    one = {"0": SIX}
    for count in (33, 65, 100, 10_000):
        yield f"{count} dimensions", view((1,) * count, (1,) * count), one
        yield f"{count} dimensions of 0", view((0,) * count, (1,) * count), one
    shapes = {
        "huge": ((1 << 62,), (1,)),
        "huge and shared": ((1 << 62,), (0,)),
        "more than 64 bits": ((1 << 200,), (0,)),
        "a product of huge": ((1 << 63,) * 32, (0,) * 32),
        "empty and huge": ((0, 1 << 62, 1 << 62), (1, 1, 1)),
        "empty and vast": ((0, 1 << 900), (1, 1)),
        "negative": ((-2,), (1,)),
        "negative strides": ((2,), (-1,)),
        "huge strides": ((1, 2), (1 << 62, 1)),
        "strides of more than 64 bits": ((1,), (1 << 70,)),
        "empty with vast strides": ((0, 2), (1 << 90, 1 << 90)),
        "fewer strides": ((2, 3), (1,)),
        "texts": (("2",), ("1",)),
        "true": ((True,), (True,)),
        "fractions": ((2.0,), (1.0,)),
        "not finite": ((float("inf"),), (float("nan"),)),
        "a text": ("23", "11"),
        "a list": ([2, 3], [3, 1]),
        "none": (None, None),
        "a dictionary": ({2: 3}, {3: 1}),
        "nested": (((2,),), ((1,),)),
    }
    for name, arguments in shapes.items():
        yield f"a shape that is {name}", view(*arguments), one
    for offset in (-1, 6, 1 << 62, 1 << 200, 1.0, None, "1", True):
        yield f"the offset {offset!r}", view((2,), (1,), offset=offset), one
    for count in (-1, 0, 1 << 40, 1 << 62, 1 << 200, 6.0, None, "6", True):
        yield f"a storage of {count!r}", view((2,), (1,), count=count), one
    for kind in ("ComplexFloatStorage", "QInt8Storage", "UntypedStorage", "nn.Module", "Float"):
        yield f"the type {kind}", view((2,), (1,), kind=kind), one
    for kind in ("ByteStorage", "BoolStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage"):
        yield f"floats as {kind}", view((2,), (1,), kind=kind), one
    large = bytes(1 << 20)
    yield (
        "two thousand views of one storage",
        {str(n): tensor("0", (1 << 18,), (1,), count=1 << 18) for n in range(2000)},
        {"0": large},
    )
    yield (
        "one storage under many sizes",
        {
            f"{n}{kind}": tensor("0", (1,), (1,), count=n, kind=kind)
            for n in range(1, 2000)
            for kind in ("FloatStorage", "ByteStorage")
        },
        one,
    )
    yield "tensors without number", {str(n): tensor("0", (), ()) for n in range(11_000)}, one
    names = {
        "a line feed": "a\nb",
        "an escape": "\x1b[31mred",
        "NUL": "\0",
        "no letters": "",
        "a megabyte": "x" * (1 << 20),
        "prefixes without end": "module." * 100_000 + "a",
        "bidirectional marks": "\u202egnp",
        "a surrogate": "\ud800",
        "a path": "../../a",
    }
    for name, key in names.items():
        yield f"a name of {name}", {key: GOOD["a"]}, one
        yield f"another entry, of {name}", {key: 3}, one
    keys = {
        "None": None,
        "a tuple": (1, 2),
        "a fraction": 1.5,
        "a number": 7,
        "true": True,
        "bytes": b"a",
        "a huge number": 1 << 2000,
    }
    for name, key in keys.items():
        yield f"the key {name}", {key: GOOD["a"]}, one
    calls = {
        "os.system": Call("os", "system", COMMAND),
        "posix.system": Call("posix", "system", COMMAND),
        "eval": Call("builtins", "eval", "open('EXECUTED', 'w')"),
        "exec": Call("builtins", "exec", "open('EXECUTED', 'w')"),
        "getattr": Call("builtins", "getattr", Global("os", "path"), "os"),
        "subprocess": Call("subprocess", "check_output", ["touch", "EXECUTED"]),
        "numpy": Call("numpy.core.multiarray", "_reconstruct", 1),
        "torch.load": Call("torch", "load", "w.pth"),
        "a type": Call("torch", "FloatStorage"),
        "attributes": Call("collections", "OrderedDict.__init__.__globals__"),
        "a pickle in a pickle": Call("pickle", "loads", pickled(Call("os", "system", COMMAND))),
        "a dictionary of pairs": Call("collections", "OrderedDict", [["a", GOOD["a"]]]),
        "a dictionary of no pairs": Call("collections", "OrderedDict", 3),
        "a dictionary of texts": Call("collections", "OrderedDict", "abc"),
        "a dictionary of too much": Call("collections", "OrderedDict", [], [], []),
        "a dictionary of tuple keys": Call("collections", "OrderedDict", [[(1, 2), 3]]),
        "a tensor of nothing": Call("torch._utils", "_rebuild_tensor_v2"),
        "a tensor of text": Call("torch._utils", "_rebuild_tensor_v2", "0", 0, (2,), (1,)),
        "a parameter of nothing": Call("torch._utils", "_rebuild_parameter"),
        "a parameter of text": Call("torch._utils", "_rebuild_parameter", "a", True, {}),
        "a parameter of a parameter": Call(
            "torch._utils",
            "_rebuild_parameter",
            Call("torch._utils", "_rebuild_parameter", GOOD["a"]),
        ),
        "a sparse tensor": Call("torch._utils", "_rebuild_sparse_tensor", 0, ()),
        "a quantized tensor": Call("torch._utils", "_rebuild_qtensor", 0, ()),
    }
    for name, call in calls.items():
        yield f"a call of {name}", call, one
        yield f"an entry that calls {name}", {"a": call}, one
    roots = {
        "a list": [GOOD["a"]],
        "a tensor": GOOD["a"],
        "None": None,
        "a text": "x" * 1000,
        "a number": 1 << 900,
        "a storage": Data("0", 6),
        "a name": Global("torch", "FloatStorage"),
        "no entry": {},
        "wrappers": {"state_dict": {"model": {"state_dict": GOOD}}},
        "a wrapper of text": {"state_dict": "x", **GOOD},
    }
    for name, tree in roots.items():
        yield f"{name} alone", tree, one
    for key in ("1", "", "../data.pkl", "x" * 100_000, "\n", "data/0"):
        yield f"the storage {key[:20]!r}", {"a": tensor(key, (2,), (1,))}, one
    yield "data of no tensor", GOOD, {"0": SIX, "1": SIX}
    yield "no data", GOOD, {}
    yield "data cut", GOOD, {"0": SIX[:-1]}
    yield "data too long", GOOD, {"0": SIX + SIX}


# Programs of operations that no pickler writes.


def _text(text):
    return BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def _pairs(depth):
    """A pair of the same pair, and so on: 2 ** depth to hash, print or compare."""
    parts = [EMPTY_TUPLE, BINPUT, b"\0"]
    for index in range(depth):
        parts += [BINGET, bytes([index]), TUPLE2, BINPUT, bytes([index + 1])]
    return b"".join(parts)


_SYSTEM = GLOBAL + b"os\nsystem\n"
_ARGUMENT = _text(COMMAND) + TUPLE1
_ORDERED = GLOBAL + b"collections\nOrderedDict\n"
_BOMB = _pairs(200)
_SMALL_STORAGE = MARK + _text("storage") + GLOBAL + b"torch\nFloatStorage\n" + _text("0")
_SMALL_STORAGE += _text("cpu") + b"K\x06" + TUPLE + BINPERSID


def _programs():
    """(name, operations with STOP)."""
    bombs = {
        "a key": EMPTY_DICT + _BOMB + NONE + SETITEM,
        "keys": EMPTY_DICT + MARK + _BOMB + NONE + SETITEMS,
        "a key of DICT": MARK + _BOMB + NONE + DICT,
        "a key by DUP": EMPTY_DICT + EMPTY_TUPLE + (DUP + TUPLE2) * 200 + NONE + SETITEM,
        "a set": EMPTY_SET + MARK + _BOMB + b"\x90",
        "a frozen set": MARK + _BOMB + FROZENSET,
        "pairs of an ordered dictionary": (
            _ORDERED
            + EMPTY_LIST
            + EMPTY_LIST
            + _BOMB
            + APPEND
            + NONE
            + APPEND
            + APPEND
            + TUPLE1
            + REDUCE
        ),
        "the tree": _BOMB,
        "an entry": EMPTY_DICT + _text("a") + _BOMB + SETITEM,
        "a list": EMPTY_LIST + MARK + _BOMB + NONE + APPENDS,
        "a list twice": EMPTY_LIST + _BOMB + APPEND + BINGET + b"\x05" + APPEND,
        "a persistent ID": _BOMB + BINPERSID,
        "a storage's key": (
            MARK
            + _text("storage")
            + GLOBAL
            + b"torch\nFloatStorage\n"
            + _BOMB
            + _text("cpu")
            + b"K\x06"
            + TUPLE
            + BINPERSID
        ),
        "a call's argument": _ORDERED + _BOMB + REDUCE,
        "a state": EMPTY_DICT + _BOMB + BUILD,
    }
    for name, program in bombs.items():
        yield f"nested pairs as {name}", program + STOP
    runs = {
        "REDUCE": _SYSTEM + _ARGUMENT + REDUCE,
        "INST": MARK + _text(COMMAND) + INST + b"os\nsystem\n",
        "OBJ": MARK + _SYSTEM + _text(COMMAND) + OBJ,
        "NEWOBJ": GLOBAL + b"subprocess\nPopen\n" + _ARGUMENT + NEWOBJ,
        "NEWOBJ_EX": GLOBAL + b"subprocess\nPopen\n" + _ARGUMENT + EMPTY_DICT + NEWOBJ_EX,
        "NEWOBJ of a known name": _ORDERED + EMPTY_TUPLE + NEWOBJ,
        "STACK_GLOBAL": _text("os") + _text("system") + STACK_GLOBAL + _ARGUMENT + REDUCE,
        "STACK_GLOBAL of numbers": b"K\x01K\x02" + STACK_GLOBAL,
        "STACK_GLOBAL of a line feed": _text("o\ns") + _text("sys\x1b[1mtem") + STACK_GLOBAL,
        "STACK_GLOBAL of a megabyte": _text("os") + _text("x" * (1 << 20)) + STACK_GLOBAL,
        "GLOBAL of spaces": GLOBAL + b"collections OrderedDict\n__init__\n",
        "GLOBAL of nothing": GLOBAL + b"\n\n",
        "EXT1": EXT1 + b"\x01",
        "EXT2": EXT2 + b"\x01\x00",
        "EXT4": EXT4 + b"\x01\0\0\0",
        "EXT4 below 0": EXT4 + b"\xff\xff\xff\xff",
        "a call of a call": _ORDERED + EMPTY_TUPLE + REDUCE + EMPTY_TUPLE + REDUCE,
        "a call of a text": _text("os.system") + _ARGUMENT + REDUCE,
        "a call without a tuple": _ORDERED + EMPTY_LIST + REDUCE,
        "BUILD of a class": _ORDERED + EMPTY_DICT + _text("__class__") + NONE + SETITEM + BUILD,
        "BUILD of a name": _ORDERED
        + EMPTY_DICT
        + _text("text")
        + _text("os.system")
        + SETITEM
        + BUILD,
        "BUILD of slots": _ORDERED + NONE + EMPTY_DICT + TUPLE2 + BUILD,
        "BUILD of a storage": _SMALL_STORAGE
        + EMPTY_DICT
        + _text("size")
        + b"J\xff\xff\xff\x7f"
        + SETITEM
        + BUILD,
        "BUILD of a list": EMPTY_LIST + NONE + BUILD,
        "BUILD of nothing": BUILD,
        "SETITEM of a storage": _SMALL_STORAGE + _text("size") + NONE + SETITEM,
        "APPEND to a storage": _SMALL_STORAGE + NONE + APPEND,
        "APPEND to a dictionary": EMPTY_DICT + NONE + APPEND,
        "SETITEM of a list": EMPTY_LIST + b"K\x05" + NONE + SETITEM,
        "half a pair": EMPTY_DICT + MARK + _text("a") + SETITEMS,
        "PERSID": PERSID + b"os.system\n",
        "BINPERSID of nothing": BINPERSID,
    }
    for name, program in runs.items():
        yield name, program + STOP
    broken = {
        "nothing": b"",
        "STOP": STOP,
        "no STOP": EMPTY_DICT,
        "MARK alone": MARK + STOP,
        "POP of nothing": POP + STOP,
        "POP_MARK of nothing": POP_MARK + STOP,
        "GET of nothing": BINGET + b"\x07" + STOP,
        "GET text": GET + b"999999999999\n" + STOP,
        "LONG_BINGET": LONG_BINGET + b"\xff\xff\xff\xff" + STOP,
        "PUT of nothing": MEMOIZE + STOP,
        "TUPLE of nothing": TUPLE + STOP,
        "TUPLE2 of one": NONE + TUPLE2 + STOP,
        "LIST": MARK + NONE + LIST + STOP,
        "an unknown operation": b"\xff" + STOP,
        "protocol 255": PROTO + b"\xff" + EMPTY_DICT + STOP,
        "text that is cut": BINUNICODE + b"\xff\0\0\0abc",
        "bad UTF-8": BINUNICODE + b"\x02\0\0\0\xff\xff" + STOP,
        "INT of text": INT + b"x\n" + STOP,
        "LONG of many digits": LONG + b"9" * 100_000 + b"L\n" + STOP,
        "STRING without quotes": STRING + b"abc\n" + STOP,
        "UNICODE": UNICODE + b"\\ud800\n" + STOP,
        "out-of-band buffers": b"\x97\x98" + STOP,
    }
    yield from broken.items()
    huge = struct.pack("<Q", 1 << 62)
    hungry = {
        "LONG_BINPUT of 4 billion": NONE + LONG_BINPUT + b"\xff\xff\xff\xff",
        "LONG_BINPUT of 100 million": NONE + LONG_BINPUT + struct.pack("<I", 100_000_000),
        "PUT of 1e18": NONE + PUT + b"1000000000000000000\n",
        "BINBYTES8": BINBYTES8 + huge,
        "BINUNICODE8": BINUNICODE8 + huge,
        "BYTEARRAY8": BYTEARRAY8 + huge,
        "BYTEARRAY8 of 3 GB": BYTEARRAY8 + struct.pack("<Q", 3 << 30),
        "FRAME": FRAME + huge,
        "LONG4": LONG4 + b"\xff\xff\xff\x7f",
        "LONG4 below 0": LONG4 + b"\0\0\0\x80",
        "marks in marks": (MARK + NONE) * 5_000 + TUPLE * 5_000,
        "a list in itself": EMPTY_LIST + BINPUT + b"\0" + BINGET + b"\0" + APPEND,
        "a dictionary in itself": EMPTY_DICT
        + BINPUT
        + b"\0"
        + _text("state_dict")
        + BINGET
        + b"\0"
        + SETITEM,
        "a tuple in itself": EMPTY_LIST
        + BINPUT
        + b"\0"
        + BINGET
        + b"\0"
        + TUPLE1
        + BINPUT
        + b"\1"
        + APPEND
        + BINGET
        + b"\1",
        "a long LONG4": LONG4 + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    }
    for name, program in hungry.items():
        yield name, program + STOP


def _long_programs():
    """(name, operations with STOP)."""
    programs = {
        "millions of dictionaries": EMPTY_DICT * 3_000_000,
        "millions of lists in a list": MARK + EMPTY_LIST * 3_000_000 + LIST,
        "millions of ordered dictionaries": _ORDERED
        + BINPUT
        + b"\0"
        + (BINGET + b"\0" + EMPTY_TUPLE + REDUCE) * 700_000,
        "tuples a million deep": EMPTY_TUPLE + TUPLE1 * 900_000,
        "lists half a million deep": EMPTY_LIST * 450_000 + APPEND * 449_999,
        "lists in entries, deep": (EMPTY_DICT + _text("a")) * 300_000 + NONE + SETITEM * 300_000,
        "marks a million deep": MARK * 1_000_000,
        "one list for many dictionaries": (
            _ORDERED
            + BINPUT
            + b"\0"
            + EMPTY_LIST
            + MARK
            + b"".join(EMPTY_LIST + MARK + _text(str(n)) + NONE + APPENDS for n in range(90_000))
            + APPENDS
            + TUPLE1
            + BINPUT
            + b"\1"
            + (BINGET + b"\0" + BINGET + b"\1" + REDUCE) * 90_000
        ),
        "entries set again and again": EMPTY_DICT + (_text("a") + NONE + SETITEM) * 250_000,
    }
    for name, program in programs.items():
        yield name, program + STOP


_HEAD = PROTO + b"\x04"


def _zip_of(program):
    return _archive({"archive/data.pkl": _HEAD + program, "archive/data/0": SIX})


def _legacy_of(program):
    parts = [pickled(part) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*parts, _HEAD + program, pickled(["0"]), struct.pack("<q", 6), SIX])


# Archives.


def _archive(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _patched(content, signature, offset, new, which=0):
    """Content with bytes replaced at an offset from the n-th place of a signature."""
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + new + content[at + offset + len(new) :]


def _archives():
    """(name, content)."""
    good, tree = zip_file(GOOD, {"0": SIX}), pickled(GOOD)
    local, central, end = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
    yield "a compressed table", zip_file(GOOD, {"0": SIX}, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": b"N" * (16 << 20), "archive/data/0": SIX}
    yield "a bomb as table", _archive(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/data/0": bytes(16 << 20)}
    yield "a bomb as data", _archive(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/byteorder": b"little" * (3 << 20)}
    yield "a bomb as byte order", _archive(bomb, zipfile.ZIP_DEFLATED)
    names = {
        "no table": {"archive/data/0": SIX},
        "TorchScript": {"archive/constants.pkl": tree},
        "no folder": {"data.pkl": tree, "data/0": SIX},
        "nothing": {},
        "climbing names": {"../data.pkl": tree, "../data/0": SIX},
        "rooted names": {"/data.pkl": tree, "/data/0": SIX},
        "two tables": {"a/data.pkl": tree, "b/data.pkl": b"x", "a/data/0": SIX},
        "a folder as table": {"archive/data.pkl/": b""},
        "big-endian": {
            "archive/data.pkl": tree,
            "archive/byteorder": b"big",
            "archive/data/0": SIX,
        },
        "a long byte order": {"archive/data.pkl": tree, "archive/byteorder": bytes(1 << 20)},
        "an archive in an archive": {"archive/data.pkl": good},
        "a long name": {"a" * 60_000 + "/data.pkl": tree},
    }
    for name, members in names.items():
        yield name, _archive(members)
    for which, member in enumerate(("data.pkl", "data/0")):
        for method in (1, 6, 8, 9, 12, 14, 97, 99):
            changed = _patched(good, central, 10, struct.pack("<H", method), which)
            yield f"{member} of method {method}", changed
        for flag in (0x1, 0x20, 0x40, 0x800, 0x2000, 0xFFFF):
            changed = _patched(good, central, 8, struct.pack("<H", flag), which)
            yield f"{member} with flags {flag:#x}", changed
            changed = _patched(good, local, 6, struct.pack("<H", flag), which)
            yield f"{member} with local flags {flag:#x}", changed
        for size in (0, 1, 1 << 30, 0xFFFFFFFF):
            packed = struct.pack("<I", size)
            for field, offset in (("stored", 20), ("whole", 24), ("place", 42)):
                yield (
                    f"{member}, {field} size {size}",
                    _patched(good, central, offset, packed, which),
                )
            both = _patched(good, central, 20, packed + packed, which)
            yield f"{member}, both sizes {size}", both
        yield f"{member} of version 255", _patched(good, central, 6, b"\xff\xff", which)
        yield f"{member} with another sum", _patched(good, central, 16, b"abcd", which)
        yield f"{member} of month 15", _patched(good, central, 14, b"\xff\xff", which)
        yield f"{member} with a long local name", _patched(good, local, 26, b"\xff\xff", which)
        yield f"{member} with a long extra field", _patched(good, central, 30, b"\xff\xff", which)
        yield f"{member} with another local name", _patched(good, local, 30, b"xxxx", which)
    for field, offset in (("count", 10), ("size", 12), ("place", 16), ("comment", 20)):
        width = 4 if field in ("size", "place") else 2
        for value in (b"\0" * width, b"\xff" * width):
            yield f"end with {field} {value.hex()}", _patched(good, end, offset, value)
    yield "no end", good[: good.index(end)]
    yield "something before it", b"PK\x03\x04" + good
    yield "something after it", good + bytes(100_000)
    yield "members that overlap", _overlapping(2000, 1 << 20)
    yield "many members", _overlapping(120_000, 4, named=1)


def _overlapping(count, size, named=None):
    """Members that all have the same bytes; `named` of them are tensors, by default all."""
    tree = {
        str(n): tensor(str(n), (size // 4,), (1,), count=size // 4) for n in range(named or count)
    }
    content = _archive({"archive/data.pkl": pickled(tree), "archive/data/0": bytes(size)})
    at = content.index(b"PK\x01\x02", content.index(b"archive/data/0") + size)
    first = content.index(b"PK\x01\x02", at + 1)
    end = content.index(b"PK\x05\x06", first)
    template = content[first:end]
    entries = [template]
    for number in range(1, count):
        name = f"archive/data/{number}".encode()
        entries.append(template[:28] + struct.pack("<H", len(name)) + template[30:46] + name)
    directory = content[at:first] + b"".join(entries)
    tail = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, *[min(count + 1, 0xFFFF)] * 2, len(directory), at, 0
    )
    return content[:at] + directory + tail


# .safetensors.


def _safetensors():
    """(name, content)."""

    def one(**changes):
        return safetensors_file(entry(**changes), bytes(8))

    plain = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for size in (
        0,
        1,
        7,
        59,
        1 << 20,
        99 << 20,
        101 << 20,
        1 << 31,
        1 << 32,
        1 << 63,
        (1 << 64) - 1,
    ):
        yield (
            f"a header of {size}",
            struct.pack("<Q", size) + json.dumps(entry()).encode() + bytes(8),
        )
    for count in (33, 65, 100, 100_000):
        yield f"{count} dimensions", one(shape=[1] * (count - 1) + [2])
        yield (
            f"{count} dimensions of 0",
            safetensors_file(entry(shape=[0] * count, data_offsets=[0, 0])),
        )
    shapes = (
        [-2],
        [1 << 62, 4],
        [0, 1 << 62, 1 << 62],
        [1 << 63],
        [1 << 64],
        [2.0],
        ["2"],
        [None],
        [[2]],
        None,
        "2",
        2,
        {},
        [],
        [3],
        [1e300],
        [True, 2],
    )
    for shape in shapes:
        yield f"the shape {shape!r}", one(shape=shape)
    yield (
        "empty and huge",
        safetensors_file(entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])),
    )
    offsets = (
        [0, 4],
        [8, 0],
        [-8, 0],
        [4, 12],
        [0, 1 << 62],
        [0, 1 << 64],
        [1 << 63, (1 << 63) + 8],
        [0],
        [0, 8, 8],
        None,
        "08",
        [0.0, 8.0],
        [True, 8],
        {},
        [0, 7],
    )
    for pair in offsets:
        yield f"the place {pair!r}", one(data_offsets=pair)
    for dtype in ("F8_E4M3", "F4", "U16", "U64", "C64", "f32", "", "X" * 100_000, None, 3, [], "Q"):
        for shape in ([2], [8], [1], [16]):
            yield f"the type {str(dtype)[:9]!r} {shape}", one(dtype=dtype, shape=shape)
    names = {
        "a line feed": "a\nb",
        "an escape": "\x1b[31mred",
        "NUL": "\0",
        "nothing": "",
        "a megabyte": "x" * (1 << 20),
        "prefixes": "module." * 100_000 + "a",
        "a mark": "\u202egnp",
        "a path": "../../a",
    }
    for name, key in names.items():
        yield f"a name of {name}", safetensors_file({key: plain}, bytes(8))
    tables = {
        "overlapping": {"a": plain, "b": plain},
        "half overlapping": {"a": plain, "b": {**plain, "data_offsets": [4, 12]}},
        "a thousand views": {str(n): plain for n in range(1000)},
        "a hole": {"a": plain, "b": {**plain, "data_offsets": [12, 20]}},
        "a list": [plain],
        "a number": 3,
        "a null entry": {"a": None},
        "a text entry": {"a": "x"},
        "an empty entry": {"a": {}},
        "only metadata": {"__metadata__": {"a": "b"}},
        "nothing": {},
        "metadata as tensor": {"__metadata__": plain},
    }
    for name, table in tables.items():
        yield name, safetensors_file(table, bytes(12))
    many = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}
    yield "tensors without number", safetensors_file(many)
    texts = {
        "the same name twice": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        "NaN": b'{"a": NaN}',
        "Infinity": b'{"a": {"shape": [Infinity]}}',
        "deep lists": b"[" * 1_000_000,
        "deep objects": b'{"a":' * 200_000,
        "deep lists in a table": b'{"a": ' + b"[" * 500_000,
        "a deep extra": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
        "many digits": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b"]}}",
        "bad UTF-8": b'{"\xff\xfe": 3}',
        "a surrogate": b'{"\\ud800": 3}',
        "UTF-16": "{}".encode("utf-16"),
        "a mark of order": b"\xef\xbb\xbf{}",
        "more after it": b"{} {}",
        "spaces": b" " * 10_000_000,
        "a long list": b'{"a": {"dtype": "F32", "shape": [' + b"1," * 8_000_000 + b"1]}}",
        "a pickle": pickled(Call("os", "system", COMMAND)),
        "XML": b"<a>" * 100,
    }
    for name, text in texts.items():
        yield name, safetensors_file(text, bytes(8))
    yield "trailing bytes", safetensors_file(entry(), bytes(100))
    for count in range(8):
        yield f"{count} bytes alone", b"\1" * count


_STAGE = "r1_k3_s11_e1_i8_o8"


def _metadata():
    """(name, metadata)."""
    for name, value in (("a number", 3), ("a list", []), ("null", None), ("a text", "x")):
        yield f"{name} at all", value
        yield f"{name} in it", {"mnasnet_settings": value}
    texts = {
        "nothing": "",
        "half": "{",
        "a list": "[]",
        "null": "null",
        "deep": "[" * 100_000,
        "deeper objects": '{"model_name":' * 100_000,
        "NaN": "NaN",
        "a megabyte": "x" * (1 << 20),
        "many digits": "9" * 100_000,
        "a pickle": "cos\nsystem\n(S'touch EXECUTED'\ntR.",
    }
    for name, text in texts.items():
        yield name, {"mnasnet_settings": text}
    good = {
        "model_name": "m",
        "model_spec": {"stages": [_STAGE], "stem_size": 8},
        "input_image_size": 32,
        "resize_method": "bicubic",
    }
    for name in good:
        values = (
            None,
            3,
            -1,
            1e308,
            True,
            "",
            "x" * 100_000,
            "a\nb\x1b[1m",
            [],
            {},
            [[]] * 1000,
            10**400,
            "!!python/object/apply:os.system [touch EXECUTED]",
        )
        for number, value in enumerate(values):
            yield f"{name}, value {number}", _settings({**good, name: value})
        yield f"without {name}", _settings({k: v for k, v in good.items() if k != name})
    fields = ("r", "k", "e", "i", "o")
    for field, size in itertools.product(
        fields, ("0", "100000000", "9" * 30, "9" * 5000, "-1", "1e9")
    ):
        stage = "_".join(f"{f}{size}" if f == field else f"{f}1" for f in fields) + "_s11"
        yield (
            f"stages of {field}{size[:20]} ({len(size)})",
            _settings({**good, "model_spec": {"stages": [stage], "stem_size": 1}}),
        )
    stages = {
        "numbers": [3],
        "none": [],
        "a text": _STAGE,
        "a megabyte": ["x" * (1 << 20)],
        "a thousand times a hundred": ["r100_k3_s11_e1_i8_o8"] * 1000,
        "many": [_STAGE] * 100_000,
        "strides": ["r1_k3_s99_e1_i8_o8"],
        "ratios": [_STAGE + "_se" + "9" * 400],
        "a null": [None],
        "nested": [[[_STAGE]]],
        "a line feed": [_STAGE + "\n"],
    }
    for name, value in stages.items():
        yield f"stages of {name}", _settings({**good, "model_spec": {"stages": value}})
    numbers = (0, -1, 10**9, 10**400, 1e308, float("nan"), float("inf"), True, "8", None, [8])
    keys = (
        "stem_size",
        "head_size",
        "depth_multiplier",
        "depth_divisor",
        "min_depth",
        "batch_norm_epsilon",
        "dropout_rate",
        "activation",
        "padding",
        "mean_rgb",
        "unknown",
    )
    for key, (number, value) in itertools.product(keys, enumerate(numbers)):
        spec = {**good["model_spec"], key: [value] * 3 if key == "mean_rgb" else value}
        yield f"{key}, value {number}", _settings({**good, "model_spec": spec})


def _settings(values):
    return {"mnasnet_settings": json.dumps(values)}


# Networks that are recognized, and of which something is wrong.


def _networks():
    """(name, state dict): narrow ones, so that they are small."""

    def state(stem=8, head=8, classes=3, fill=1.0):
        stages = mnasnet_models.MnasNetDecoder().decode(
            [
                "r1_k3_s11_e1_i8_o8",
                "r1_k3_s22_e3_i8_o8",
                "r2_k3_s22_e6_i8_o8",
                "r4_k5_s22_e6_i8_o8",
                "r3_k3_s11_e6_i8_o8",
                "r3_k5_s22_e6_i8_o8",
                "r1_k3_s11_e6_i8_o8",
            ]
        )
        stages = [
            stage._replace(se_ratio=0.25 if 3 <= number <= 5 else None)
            for number, stage in enumerate(stages)
        ]
        blocks = layer_names.unroll(stages, recognition.GlobalParams())
        tensors = layer_names.tensors("timm", blocks, stem, head, classes)
        return {t.key: np.full(t.shape, fill, np.float32) for t in tensors}

    yield "no filters in the head", state(head=0)
    yield "no filters in the stem", state(stem=0)
    yield "no classes", state(classes=0)
    yield "one class", state(classes=1)
    yield "NaN", state(fill=np.nan)
    yield "infinite", state(fill=-np.inf)
    yield "negative variances", state(fill=-1.0)
    good = state()
    yield "whole numbers", {**good, "bn1.weight": np.ones(good["bn1.weight"].shape, np.int8)}
    for key in list(good)[:3] + list(good)[-3:]:
        yield f"no {key}", {k: v for k, v in good.items() if k != key}
        yield f"a scalar {key}", {**good, key: np.ones([], np.float32)}
        yield f"an empty {key}", {**good, key: np.ones([0], np.float32)}
    yield "many more", {**good, **{f"x{n}": np.ones([1], np.float32) for n in range(9000)}}


def _other():
    """Files of other kinds."""
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


# Trying them.


def outcome(program, arguments):
    """'refused: why', 'taken', or what is wrong with how a program ends."""
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
    """Tries all files with the import and the listing; prints what goes wrong, then the counts."""
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
            # Python's handlers wait for C to return; the default one ends a hang anywhere.
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
