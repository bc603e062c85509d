"""Reads state dicts in PyTorch's own files (.pth, .pth.tar, .pt, .bin, .ckpt) without PyTorch.

Such a file is a pickle and the numbers of its tensors, in the zip layout (PyTorch 1.6 and later) or
in the layout before it. TorchScript and compressed archives are refused.

No code of a file runs: the pickle gets none of the classes and functions that it names. A few have
a counterpart here, which describes a tensor; all others are `Unknown`, which does nothing. So what
trainings put next to the weights (optimizers, settings, callbacks) is passed over.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

from utils.base.errors import quoted
from utils.weights import tensor_data
from utils.weights.tensor_data import Malformed

# Names under which trainings keep a state dict; the averaged weights first.
_WRAPPERS = (
    "state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net",
)  # fmt: skip
_STATE_DICT_ALONE = "save the model's state_dict() alone"
_LARGEST_PROGRAM = 64 << 20
_MOST_MEMBERS = 100_000
_LONGEST_BYTE_ORDER = 16
_LITTLE_ENDIAN = "save it anew on a little-endian machine"
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile, EOFError, ValueError, OSError, RuntimeError, OverflowError, struct.error,
)  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def parse(content: bytes) -> dict[str, np.ndarray]:
    """Returns the state dict in a file's bytes: key -> array.

    Raises:
      Malformed: the file is damaged, or holds no plain tensors.
    """
    is_zip = content[:4] == b"PK\x03\x04"
    tree, data_of = _open_zip(content) if is_zip else _open_legacy(content)
    tensors = _tensors(tree)
    tensor_data.check({k: (t.shape, t.storage.kind) for k, t in tensors.items()}, len(content))
    storages = {tensor.storage for tensor in tensors.values()}
    # Members of a hostile archive may overlap, and so hold more than the file.
    if sum(storage.num_bytes for storage in storages) > len(content):
        raise Malformed("it is cut off: its tensors need more data than it has")
    arrays = {s: tensor_data.array(data_of(s), s.kind) for s in storages}
    return {key: _view(tensor, arrays[tensor.storage]) for key, tensor in tensors.items()}


def _view(tensor: Tensor, flat: np.ndarray) -> np.ndarray:
    if not math.prod(tensor.shape):
        return flat[:0].reshape(tensor.shape)  # strides of no numbers may be anything
    strides = [
        stride * flat.itemsize if size > 1 else 0
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    return np.array(view)


def _tensors(tree: Any) -> dict[str, Tensor]:
    """Returns the state dict in what a file holds, out of the wrappers of a training."""
    found = _state_dict(tree) if isinstance(tree, dict) else None
    if found is None:
        models = [tree, *(tree.get(key) for key in _WRAPPERS if isinstance(tree, dict))]
        whole = next((model for model in models if isinstance(model, Unknown)), None)
        what = (
            f"an object of the class {quoted(whole.name)[1:-1]}, not its tensors" if whole else ""
        )
        raise Malformed(f"it holds {what or 'no dictionary of tensors'}", _STATE_DICT_ALONE)
    for key, value in found.items():
        if isinstance(value, Unknown) and value.name.startswith("torch."):
            raise Malformed(
                f"its entry {quoted(str(key))} is made by {quoted(value.name)[1:-1]}, not a plain "
                "tensor",
                _STATE_DICT_ALONE,
            )
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _state_dict(tree: dict[Any, Any], depth: int = 3) -> dict[Any, Any] | None:
    """Returns the dictionary in a tree that has tensors; None if there is none."""
    for key in _WRAPPERS if depth else ():
        if isinstance(tree.get(key), dict) and (found := _state_dict(tree[key], depth - 1)):
            return found
    if _has_tensors(tree):
        return tree
    others = [key for key, value in tree.items() if _has_tensors(value)]
    if len(others) > 1:
        names = ", ".join(quoted(str(key)) for key in others[:5])
        raise Malformed(f"it holds several dictionaries of tensors ({names})", _STATE_DICT_ALONE)
    return tree[others[0]] if others else None


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


# What a pickle may name. None of it has a dictionary of attributes, so that a pickle, which can
# set the attributes of what it has made, cannot change one.


class Storage(NamedTuple):
    """Says where in the file the numbers of tensors are, of which kind, and how many."""

    key: str
    kind: str
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * tensor_data.item_size(self.kind)


class Tensor(NamedTuple):
    """Describes a tensor as a view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unknown:
    """Stands for all that has no counterpart here; whatever is done to it has no effect."""

    __slots__ = ()
    name = ""

    def __new__(cls, *arguments, **more):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


class _Dictionary(dict):
    """Stands for collections.OrderedDict; the state of a state dict is its `_metadata`."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Kind(NamedTuple):
    """Stands for a class of storages, such as torch.FloatStorage."""

    kind: str


class _TensorOf(NamedTuple):
    """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""

    def __call__(self, storage, offset, shape, strides, *unused) -> Tensor | Unknown:
        if isinstance(storage, Unknown):
            return storage
        plain = isinstance(storage, Storage) and type(shape) is tuple and type(strides) is tuple
        if plain:
            tensor_data.check_dimensions(shape)
        if (
            not plain
            or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
            or len(shape) != len(strides)
        ):
            raise Malformed("a tensor in it is not a plain one", _STATE_DICT_ALONE)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        # With more elements than its storage, a tensor of a small file would fill the memory.
        if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
            raise Malformed("a tensor in it lies outside its own data")
        return Tensor(storage, offset, shape, strides)


class _ParameterOf(NamedTuple):
    """Stands for torch._utils._rebuild_parameter and its kin: the tensor itself."""

    def __call__(self, tensor, *unused):
        return tensor


_NAMES = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor": _TensorOf(),
    "torch._utils._rebuild_tensor_v2": _TensorOf(),
    "torch._utils._rebuild_parameter": _ParameterOf(),
    "torch._utils._rebuild_parameter_with_state": _ParameterOf(),
    "torch.DoubleStorage": _Kind("<f8"), "torch.FloatStorage": _Kind("<f4"),
    "torch.HalfStorage": _Kind("<f2"), "torch.BFloat16Storage": _Kind(tensor_data.BFLOAT16),
    "torch.LongStorage": _Kind("<i8"), "torch.IntStorage": _Kind("<i4"),
    "torch.ShortStorage": _Kind("<i2"), "torch.CharStorage": _Kind("i1"),
    "torch.ByteStorage": _Kind("u1"), "torch.BoolStorage": _Kind("?"),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, texts, numbers, `Tensor` and, of everything else, `Unknown`.

    Attributes:
      storages: all data that the pickle refers to.
    """

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self.storages: set[Storage] = set()

    def load(self) -> Any:
        """Returns what the next pickle makes; raises Malformed if it is damaged."""
        try:
            return super().load()
        except Malformed:
            raise
        except Exception as e:  # a damaged pickle can fail in any way
            raise Malformed("it is not a weights file of PyTorch, or a damaged one") from e

    def find_class(self, module: str, name: str) -> Any:
        text = f"{module}.{name}"
        if text in _NAMES:
            return _NAMES[text]
        return type("Unknown", (Unknown,), {"__slots__": (), "name": text})

    def persistent_load(self, pid: Any) -> Storage | Unknown:
        """Returns the storage that an ID of PyTorch refers to."""
        if type(pid) is not tuple or not 5 <= len(pid) <= 6:
            raise Malformed("it refers to data in an unknown way")
        tag, kind, key, _, size = pid[:5]
        if tag != "storage" or (len(pid) == 6 and pid[5] is not None):
            raise Malformed("it refers to data in an unknown way")
        if type(key) is not str or type(size) is not int or size < 0:
            raise Malformed("it refers to data by an impossible key or size")
        if not isinstance(kind, _Kind):
            return kind()  # of complex or quantized numbers
        storage = Storage(key, kind.kind, size)
        self.storages.add(storage)
        return storage


# The two layouts.


def _open_zip(content: bytes):
    """Opens the layout since PyTorch 1.6; returns (data.pkl's tree, storage -> bytes)."""
    # Count first: an open member takes far more memory than its entry in the file.
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
        # PyTorch does not compress, and a compressed member may be far larger than the file.
        if info.compress_type != zipfile.ZIP_STORED:
            raise Malformed(f"its member {quoted(name)} is compressed")
        if info.file_size > most:
            raise Malformed(f"its member {quoted(name)} is too long")
        try:
            return archive.read(info)
        except _BROKEN_ARCHIVE as e:
            raise Malformed(f"its member {quoted(name)} is damaged") from e

    def data_of(storage: Storage) -> bytes:
        data = member(f"data/{storage.key}", storage.num_bytes)
        if len(data) != storage.num_bytes:
            raise Malformed(f"its member {quoted('data/' + storage.key)} is cut off")
        return data

    if "byteorder" in members and member("byteorder", _LONGEST_BYTE_ORDER) != b"little":
        raise Malformed("its numbers are big-endian", _LITTLE_ENDIAN)
    return _Unpickler(io.BytesIO(member("data.pkl", _LARGEST_PROGRAM))).load(), data_of


def _open_legacy(content: bytes):
    """Opens the layout before: five pickles, then each storage as its length and its numbers."""
    stream = io.BytesIO(content[:_LARGEST_PROGRAM])
    if _Unpickler(stream).load() != _LEGACY_MAGIC or _Unpickler(stream).load() != _LEGACY_PROTOCOL:
        raise Malformed("it is not a weights file of PyTorch")
    system = _Unpickler(stream).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its numbers are big-endian", _LITTLE_ENDIAN)
    unpickler = _Unpickler(stream)
    tree = unpickler.load()
    _tensors(tree)  # if there are none, that is what is wrong, not the data that follow
    keys = _Unpickler(stream).load()
    if not isinstance(keys, list):
        raise Malformed("it has no list of its data")
    sizes = {storage.key: tensor_data.item_size(storage.kind) for storage in unpickler.storages}
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

    def data_of(storage: Storage) -> memoryview:
        found = data.get(storage.key)
        if found is None:
            raise Malformed("the data of a tensor are missing")
        if len(found) != storage.num_bytes:
            raise Malformed("the data of a tensor are cut off or too long")
        return found

    return tree, data_of
