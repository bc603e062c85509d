"""State dicts in PyTorch's own files (.pth, .pth.tar, .pt, .bin), read without PyTorch.

Such a file is a pickle, in the zip layout (PyTorch 1.6 on) or in the one before it, and a pickle is
a program. It is not run here: pickletools takes it apart, and the few operations that make
dictionaries, lists, texts, numbers and plain tensors are followed. Everything else is refused:
calls of other functions, whole models, optimizers' own classes, quantized and sparse tensors,
TorchScript, compressed archives.

A short program can also ask for too much. Values that it shares (pairs of pairs of pairs) take for
ever to hash or print, so only texts and whole numbers are keys; tensors are counted as views, and
their sizes added up, before one of them is made.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from utils.base.errors import quoted
from utils.weights import tensor_data
from utils.weights.tensor_data import Malformed

# A wrapped state dict stands under one of these keys, the averaged weights first (timm's order).
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_LARGEST_PROGRAM = 64 << 20
_MOST_OPERATIONS = 1_000_000
_DEEPEST = 100
_MOST_MEMBERS = 100_000
_LONGEST_BYTE_ORDER = 16
_STATE_DICT = "save the model's state_dict() alone"
_LITTLE_ENDIAN = "save it anew on a little-endian machine"
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile, EOFError, ValueError, OSError, RuntimeError, OverflowError, struct.error,
)  # fmt: skip

_STORAGE_TYPES = {
    "torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": tensor_data.BFLOAT16, "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2", "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1", "torch.BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def parse(content: bytes) -> dict[str, np.ndarray]:
    """Returns the state dict in a file's bytes: key -> array.

    Raises:
      Malformed: it is damaged, or holds what is not a plain tensor.
    """
    is_zip = content[:4] == b"PK\x03\x04"
    tree, data_of = _open_zip(content) if is_zip else _open_legacy(content)
    tensors = _tensors(tree)
    tensor_data.check({k: (t.shape, t.storage.kind) for k, t in tensors.items()}, len(content))
    storages = {tensor.storage for tensor in tensors.values()}
    # Members of a hostile archive may overlap, and then hold more than the file.
    if sum(storage.num_bytes for storage in storages) > len(content):
        raise Malformed("it is cut off: its tensors need more data than it has")
    arrays = {s: tensor_data.array(data_of(s), s.kind) for s in storages}
    return {key: _view(tensor, arrays[tensor.storage]) for key, tensor in tensors.items()}


@dataclasses.dataclass(frozen=True)
class _Name:
    """Stands for a function or class that a pickle names; nothing is imported."""

    text: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The numbers that tensors are views of: where they are in the file, and how many."""

    key: str
    kind: str
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * tensor_data.item_size(self.kind)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in numbers and not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(tensor: _Tensor, flat: np.ndarray) -> np.ndarray:
    if not math.prod(tensor.shape):
        return flat[:0].reshape(tensor.shape)  # its strides mean nothing, and may be anything
    strides = [
        stride * flat.itemsize if size > 1 else 0
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    return np.array(view)


# The functions that a pickle may name.


def _rebuild_tensor(storage, offset, shape, strides, *unused) -> _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2 (and _rebuild_tensor)."""
    plain = isinstance(storage, _Storage) and type(shape) is tuple and type(strides) is tuple
    if plain:
        tensor_data.check_dimensions(shape)
    if (
        not plain
        or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
        or len(shape) != len(strides)
    ):
        raise Malformed("a tensor in it is not a plain one", _STATE_DICT)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # More elements than the storage has would be a small file that fills the memory.
    if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
        raise Malformed("a tensor in it lies outside its own data")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, *unused) -> _Tensor:
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""
    if not isinstance(tensor, _Tensor):
        raise Malformed("a parameter in it is not a tensor", _STATE_DICT)
    return tensor


_ORDERED_DICT = "collections.OrderedDict"
_CALLS: dict[str, Callable[..., _Tensor]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
_NAMES = {_ORDERED_DICT, *_CALLS, *_STORAGE_TYPES}


def _name(module: str, name: str) -> _Name:
    text = f"{module}.{name}"
    if text not in _NAMES:
        raise Malformed(f"it holds {quoted(text)[1:-1]}, not only tensors", _STATE_DICT)
    return _Name(text)


def _storage(pid: Any) -> _Storage:
    """The storage that a persistent ID of PyTorch's refers to."""
    if type(pid) is not tuple or not 5 <= len(pid) <= 6:
        raise Malformed("it refers to data in an unknown way")
    tag, name, key, _, size = pid[:5]
    is_type = isinstance(name, _Name) and name.text in _STORAGE_TYPES
    view = pid[5] if len(pid) == 6 else None
    if type(tag) is not str or tag != "storage" or not is_type or view is not None:
        raise Malformed("it refers to data that are not a plain storage", _STATE_DICT)
    if type(key) is not str or type(size) is not int or size < 0:
        raise Malformed("it refers to data by an impossible key or size")
    return _Storage(key, _STORAGE_TYPES[name.text], size)


# The operations.


class _Program:
    """A pickle as it is followed: its stack, its marks and what it has put by."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._marks: list[int] = []
        self._operations_left = _MOST_OPERATIONS

    def follow(self, stream: io.BytesIO) -> Any:
        """Returns what the next pickle of a stream makes."""
        for operation, argument, _ in pickletools.genops(stream):
            self._count(1)
            if operation.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[operation.name])
            elif operation.name in _VALUES:
                self.stack.append(argument)
            elif operation.name in _STEPS:
                _STEPS[operation.name](self, argument)
            else:
                raise Malformed(
                    f"its pickle has the operation {operation.name}, which makes no tensor",
                    _STATE_DICT,
                )
        return self.stack.pop()

    def _count(self, operations: int) -> None:
        self._operations_left -= operations
        if self._operations_left < 0:
            raise Malformed(f"its pickle has more than {_MOST_OPERATIONS} operations", _STATE_DICT)

    def pop(self, number: int) -> list[Any]:
        if number > len(self.stack):
            raise IndexError
        items = self.stack[len(self.stack) - number :]
        del self.stack[len(self.stack) - number :]
        return items

    def pop_marked(self) -> list[Any]:
        return self.pop(max(len(self.stack) - self._marks.pop(), 0))

    def mark(self, argument: Any) -> None:
        if len(self._marks) >= _DEEPEST:
            raise Malformed(f"its values are nested more than {_DEEPEST} deep", _STATE_DICT)
        self._marks.append(len(self.stack))

    def tuple_of(self, number: int) -> None:
        self.stack.append(tuple(self.pop(number)))

    def marked_tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self.pop_marked()))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise Malformed(
                    "a dictionary in it has a key that is neither a text nor a whole number",
                    _STATE_DICT,
                )
            self.stack[-1][key] = value

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def stack_global(self, argument: Any) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError
        self.stack.append(_name(module, name))

    def call(self, argument: Any) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise TypeError
        if function.text == _ORDERED_DICT:
            self._ordered_dict(*arguments)
        else:
            self.stack.append(_CALLS[function.text](*arguments))

    def _ordered_dict(self, pairs: Any = ()) -> None:
        """Python 2 gives the entries as a list of pairs, others set them afterwards."""
        self.stack.append({})
        self._count(len(pairs))  # a list that is named again and again costs each time
        for key, value in pairs:
            self.set_items([key, value])

    def build(self, argument: Any) -> None:
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise Malformed("a tensor in it or its data have a state of their own", _STATE_DICT)
        # The `_metadata` of a state dict, which no tensor needs.


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Those that put their argument on the stack.
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_STEPS: dict[str, Callable[[_Program, Any], Any]] = {
    "PROTO": lambda program, _: None,
    "FRAME": lambda program, _: None,
    "STOP": lambda program, _: None,
    "MARK": _Program.mark,
    "EMPTY_TUPLE": lambda program, _: program.tuple_of(0),
    "TUPLE1": lambda program, _: program.tuple_of(1),
    "TUPLE2": lambda program, _: program.tuple_of(2),
    "TUPLE3": lambda program, _: program.tuple_of(3),
    "TUPLE": _Program.marked_tuple,
    "EMPTY_LIST": lambda program, _: program.stack.append([]),
    "APPEND": lambda program, _: program.append(program.pop(1)),
    "APPENDS": lambda program, _: program.append(program.pop_marked()),
    "EMPTY_DICT": lambda program, _: program.stack.append({}),
    "SETITEM": lambda program, _: program.set_items(program.pop(2)),
    "SETITEMS": lambda program, _: program.set_items(program.pop_marked()),
    "BINPUT": _Program.put,
    "LONG_BINPUT": _Program.put,
    "MEMOIZE": _Program.put,
    "BINGET": lambda program, index: program.stack.append(program.memo[index]),
    "LONG_BINGET": lambda program, index: program.stack.append(program.memo[index]),
    "GLOBAL": lambda program, text: program.stack.append(_name(*text.split(" ", 1))),
    "STACK_GLOBAL": _Program.stack_global,
    "BINPERSID": lambda program, _: program.stack.append(_storage(program.pop(1)[0])),
    "REDUCE": _Program.call,
    "BUILD": _Program.build,
}


def _load(stream: io.BytesIO) -> Any:
    """What the next pickle of a stream makes."""
    try:
        return _Program().follow(stream)
    # A broken pickle can fail in any way.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as e:
        raise Malformed("it is not a weights file of PyTorch, or a damaged one") from e


def _tensors(tree: Any) -> dict[str, _Tensor]:
    """The state dict in what a file holds."""
    if not isinstance(tree, dict):
        raise Malformed("it holds no dictionary of tensors", _STATE_DICT)
    for wrapper in _WRAPPERS:
        if isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    others = [key for key, value in tree.items() if not isinstance(value, _Tensor)]
    if others:
        raise Malformed(f"its entry {quoted(others[0])} is not a tensor", _STATE_DICT)
    return {str(key): tensor for key, tensor in tree.items()}


# The two layouts.


def _open_zip(content: bytes):
    """The layout since PyTorch 1.6: (data.pkl's tree, storage -> bytes)."""
    # Each member takes far more memory in Python than its entry in the file.
    if content.count(b"PK\x01\x02") > _MOST_MEMBERS:
        raise Malformed(f"it is an archive of more than {_MOST_MEMBERS} members")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _BROKEN_ARCHIVE as e:
        raise Malformed("it is a damaged or cut-off archive") from e
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" in members:
        raise Malformed("it is a TorchScript program", "save the model's state_dict() instead")
    if "data.pkl" not in members:
        raise Malformed("it is an archive, but not one of PyTorch")

    def member(name: str, most: int) -> bytes:
        info = members.get(name)
        if info is None:
            raise Malformed(f"its member {quoted(name)} is missing")
        # PyTorch stores; something compressed may be far larger than the file.
        if info.compress_type != zipfile.ZIP_STORED:
            raise Malformed(f"its member {quoted(name)} is compressed")
        if info.file_size > most:
            raise Malformed(f"its member {quoted(name)} is too long")
        try:
            return archive.read(info)
        except _BROKEN_ARCHIVE as e:
            raise Malformed(f"its member {quoted(name)} is damaged") from e

    def data_of(storage: _Storage) -> bytes:
        data = member(f"data/{storage.key}", storage.num_bytes)
        if len(data) != storage.num_bytes:
            raise Malformed(f"its member {quoted('data/' + storage.key)} is cut off")
        return data

    if "byteorder" in members and member("byteorder", _LONGEST_BYTE_ORDER) != b"little":
        raise Malformed("its numbers are big-endian", _LITTLE_ENDIAN)
    return _load(io.BytesIO(member("data.pkl", _LARGEST_PROGRAM))), data_of


def _open_legacy(content: bytes):
    """The layout before: five pickles, then each storage as its length and its numbers."""
    stream = io.BytesIO(content[:_LARGEST_PROGRAM])
    if _load(stream) != _LEGACY_MAGIC or _load(stream) != _LEGACY_PROTOCOL:
        raise Malformed("it is not a weights file of PyTorch")
    system = _load(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its numbers are big-endian", _LITTLE_ENDIAN)
    tree = _load(stream)
    keys = _load(stream)
    if not isinstance(keys, list):
        raise Malformed("it has no list of its data")
    sizes = {t.storage.key: tensor_data.item_size(t.storage.kind) for t in _tensors(tree).values()}
    data: dict[str, memoryview] = {}
    view, position = memoryview(content), stream.tell()
    for key in keys:
        if type(key) is not str or key not in sizes:
            raise Malformed("it has data that belong to no tensor")
        if position + 8 > len(content):
            raise Malformed("it is cut off")
        (count,) = struct.unpack_from("<q", content, position)
        end = position + 8 + max(count, 0) * sizes[key]
        if count < 0 or end > len(content):
            raise Malformed("it is cut off")
        data[key] = view[position + 8 : end]
        position = end

    def data_of(storage: _Storage) -> memoryview:
        found = data.get(storage.key)
        if found is None:
            raise Malformed("the data of a tensor are missing")
        if len(found) != storage.num_bytes:
            raise Malformed("the data of a tensor are cut off or too long")
        return found

    return tree, data_of
