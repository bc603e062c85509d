"""Pickles of state dicts that are well formed but hold what is wrong, and archives around them."""

import struct
import zipfile

from hostile_programs import COMMAND, SIX, archive
from torch_files import (
    Call,
    Data,
    Global,
    pickled,
    tensor,
    zip_file,
)

GOOD = {"a": tensor("0", (2, 3), (3, 1)), "b": tensor("0", (2,), (1,), offset=4)}


def trees():
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


def _patched(content, signature, offset, new, which=0):
    """Content with bytes replaced at an offset from the n-th place of a signature."""
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + new + content[at + offset + len(new) :]


def archives():
    """(name, content)."""
    good, tree = zip_file(GOOD, {"0": SIX}), pickled(GOOD)
    local, central, end = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
    yield "a compressed table", zip_file(GOOD, {"0": SIX}, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": b"N" * (16 << 20), "archive/data/0": SIX}
    yield "a bomb as table", archive(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/data/0": bytes(16 << 20)}
    yield "a bomb as data", archive(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/byteorder": b"little" * (3 << 20)}
    yield "a bomb as byte order", archive(bomb, zipfile.ZIP_DEFLATED)
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
        yield name, archive(members)
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
    content = archive({"archive/data.pkl": pickled(tree), "archive/data/0": bytes(size)})
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
