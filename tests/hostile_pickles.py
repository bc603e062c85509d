"""Makes .pth files whose pickles are well formed and lie about tensors, storages and names."""

import struct

from torch_files import Call, Data, Global, pickled, tensor

COMMAND = "touch EXECUTED"  # a file that runs code leaves this file in the working folder
SIX = struct.pack("<6f", *range(6))
GOOD = {"a": tensor("0", (2, 3), (3, 1)), "b": tensor("0", (2,), (1,), offset=4)}


def trees():
    """Yields (name, tree, storages) for `torch_files.zip_file` and `legacy_file`."""
    one = {"0": SIX}
    yield from _shapes(one)
    yield from _storages(one)
    yield from _names(one)
    yield from _calls(one)
    yield from _roots(one)


def _view(*arguments, **more):
    return {"a": tensor("0", *arguments, **more)}


def _shapes(one):
    """Yields dimensions and strides that no tensor has."""
    for count in (33, 65, 100, 10_000):
        yield f"{count} dimensions", _view((1,) * count, (1,) * count), one
        yield f"{count} dimensions of 0", _view((0,) * count, (1,) * count), one
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
        yield f"a shape that is {name}", _view(*arguments), one


def _storages(one):
    """Yields offsets, sizes and types that no storage has, and views of one storage."""
    for offset in (-1, 6, 1 << 62, 1 << 200, 1.0, None, "1", True):
        yield f"the offset {offset!r}", _view((2,), (1,), offset=offset), one
    for count in (-1, 0, 1 << 40, 1 << 62, 1 << 200, 6.0, None, "6", True):
        yield f"a storage of {count!r}", _view((2,), (1,), count=count), one
    for kind in ("ComplexFloatStorage", "QInt8Storage", "UntypedStorage", "nn.Module", "Float"):
        yield f"the type {kind}", _view((2,), (1,), kind=kind), one
    for kind in ("ByteStorage", "BoolStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage"):
        yield f"floats as {kind}", _view((2,), (1,), kind=kind), one
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


def _names(one):
    """Yields names and keys that no tensor has."""
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


def _calls(one):
    """Yields calls of functions, alone and as an entry."""
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


def _roots(one):
    """Yields roots that are not a state dict, and data that does not fit."""
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
