"""Makes pickles that no pickler writes: hungry, broken, or with calls of any function."""

import struct
from pickle import (
    APPEND,
    BINBYTES8,
    BINGET,
    BINPERSID,
    BINPUT,
    BINUNICODE,
    BINUNICODE8,
    BUILD,
    BYTEARRAY8,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    EXT1,
    EXT2,
    EXT4,
    FRAME,
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

from hostile_pickles import COMMAND


def _text(text):
    return BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


_SYSTEM = GLOBAL + b"os\nsystem\n"
_ARGUMENT = _text(COMMAND) + TUPLE1
_ORDERED = GLOBAL + b"collections\nOrderedDict\n"
_SMALL_STORAGE = MARK + _text("storage") + GLOBAL + b"torch\nFloatStorage\n" + _text("0")
_SMALL_STORAGE += _text("cpu") + b"K\x06" + TUPLE + BINPERSID


def programs():
    """Yields (name, operations with STOP) of programs that are refused within milliseconds."""
    yield from _calls()
    yield from _broken()
    yield from _hungry()


def _calls():
    """Yields calls, and states for what is not a state dict."""
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


def _broken():
    """Yields programs that end too early or take what is not on the stack."""
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


def _hungry():
    """Yields programs that claim more memory than there is."""
    huge = struct.pack("<Q", 1 << 62)
    hungry = {
        "LONG_BINPUT of 4 billion": NONE + LONG_BINPUT + b"\xff\xff\xff\xff",
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
