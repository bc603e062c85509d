"""Follows a pickle that makes a state dict, without executing it.

A pickle is a program. pickletools takes it apart, and only the few operations that make
dictionaries, lists, texts, numbers and plain tensors are followed. All others are refused: calls of
other functions, whole models, optimizers' own classes, quantized and sparse tensors.

A short program can also ask for too much. Values that it shares (pairs of pairs of pairs) would
take for ever to hash or print, so only texts and whole numbers are keys. A tensor is only a view
here, so that the sizes of all tensors can be added up before one is made.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from utils.base.errors import quoted
from utils.weights import tensor_data
from utils.weights.tensor_data import Malformed

STATE_DICT_ALONE = "save the model's state_dict() alone"
_MOST_OPERATIONS = 1_000_000
_DEEPEST = 100
_STORAGE_TYPES = {
    "torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": tensor_data.BFLOAT16, "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2", "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1", "torch.BoolStorage": "?",
}  # fmt: skip


def load(stream: io.BytesIO) -> Any:
    """Returns what the next pickle of a stream makes.

    Raises:
      Malformed: it is damaged, or does what no state dict needs.
    """
    try:
        return _Program().follow(stream)
    # A damaged pickle can fail in any of these ways.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as e:
        raise Malformed("it is not a weights file of PyTorch, or a damaged one") from e


@dataclasses.dataclass(frozen=True)
class _Name:
    """Stands for a function or class that a pickle names; nothing is imported."""

    text: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Says where in the file the numbers of tensors are, of which kind, and how many."""

    key: str
    kind: str
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * tensor_data.item_size(self.kind)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Describes a tensor as a view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# The functions that a pickle may name.


def _rebuild_tensor(storage, offset, shape, strides, *unused) -> Tensor:
    """Stands for torch._utils._rebuild_tensor_v2 (and _rebuild_tensor)."""
    plain = isinstance(storage, Storage) and type(shape) is tuple and type(strides) is tuple
    if plain:
        tensor_data.check_dimensions(shape)
    if (
        not plain
        or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
        or len(shape) != len(strides)
    ):
        raise Malformed("a tensor in it is not a plain one", STATE_DICT_ALONE)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # With more elements than its storage, a tensor of a small file would fill the memory.
    if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
        raise Malformed("a tensor in it lies outside its own data")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, *unused) -> Tensor:
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""
    if not isinstance(tensor, Tensor):
        raise Malformed("a parameter in it is not a tensor", STATE_DICT_ALONE)
    return tensor


_ORDERED_DICT = "collections.OrderedDict"
_CALLS: dict[str, Callable[..., Tensor]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
_NAMES = {_ORDERED_DICT, *_CALLS, *_STORAGE_TYPES}


def _name(module: str, name: str) -> _Name:
    text = f"{module}.{name}"
    if text not in _NAMES:
        raise Malformed(f"it holds {quoted(text)[1:-1]}, not only tensors", STATE_DICT_ALONE)
    return _Name(text)


def _storage(pid: Any) -> Storage:
    """Returns the storage that a persistent ID of PyTorch refers to."""
    if type(pid) is not tuple or not 5 <= len(pid) <= 6:
        raise Malformed("it refers to data in an unknown way")
    tag, name, key, _, size = pid[:5]
    is_type = isinstance(name, _Name) and name.text in _STORAGE_TYPES
    view = pid[5] if len(pid) == 6 else None
    if type(tag) is not str or tag != "storage" or not is_type or view is not None:
        raise Malformed("it refers to data that are not a plain storage", STATE_DICT_ALONE)
    if type(key) is not str or type(size) is not int or size < 0:
        raise Malformed("it refers to data by an impossible key or size")
    return Storage(key, _STORAGE_TYPES[name.text], size)


# The operations.


class _Program:
    """Follows a pickle: holds its stack, its marks and its memo."""

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
                    STATE_DICT_ALONE,
                )
        return self.stack.pop()

    def _count(self, operations: int) -> None:
        self._operations_left -= operations
        if self._operations_left < 0:
            raise Malformed(
                f"its pickle has more than {_MOST_OPERATIONS} operations", STATE_DICT_ALONE
            )

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
            raise Malformed(f"its values are nested more than {_DEEPEST} deep", STATE_DICT_ALONE)
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
                    STATE_DICT_ALONE,
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
        """Makes a dictionary; only Python 2 gives its entries here, as a list of pairs."""
        self.stack.append({})
        self._count(len(pairs))  # the same list costs each time it is named
        for key, value in pairs:
            self.set_items([key, value])

    def build(self, argument: Any) -> None:
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise Malformed(
                "a tensor in it or its data have a state of their own", STATE_DICT_ALONE
            )
        # The state is the `_metadata` of a state dict, which no tensor needs.


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Operations that put their argument on the stack.
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
