"""Makes .safetensors files whose header lies about the tensors or is none."""

import json
import struct

from hostile_pickles import COMMAND
from torch_files import Call, entry, pickled, safetensors_file


def tables():
    """Yields (name, content) of files whose header lies or is none."""

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
