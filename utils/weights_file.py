"""Weights files of PyTorch programs, read and written with NumPy alone.

`.safetensors` is a JSON table before plain data. `.pth` (also `.pth.tar`, `.pt`, `.bin`) is a
pickle, and a pickle is a program: the reader here runs none of it but a fixed list of calls that
make ordered dictionaries and plain tensors, in the zip layout (PyTorch 1.6 on) and in the one
before it. It refuses everything else: whole models, optimizers' own classes, quantized and sparse
tensors, TorchScript, compressed archives.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from utils import files
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

PICKLED = (".pth", ".pth.tar", ".pt", ".bin")
# A wrapped state dict stands under one of these keys, the averaged weights first (timm's order).
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What parallel and averaged models (`module.`) and torch.compile put before every key.
_MODULES = ("module.", "_orig_mod.")
_AVERAGING_COUNTER = "n_averaged"  # torch.optim.swa_utils.AveragedModel's own
_METADATA = "__metadata__"
_LARGEST_PROGRAM = 64 << 20

_BFLOAT16 = "bfloat16"
_SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": _BFLOAT16, "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16, "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class _Malformed(Exception):
    """What is wrong with a file, in half a sentence."""


def read(path: str) -> dict[str, np.ndarray]:
    """Returns a state dict: key -> array in PyTorch's layout.

    Half-precision numbers become float32; a wrapping dictionary (`state_dict`, `model`), the
    prefixes `module.` and `_orig_mod.` of parallel and compiled models and the counter of
    averaged ones go.

    Raises:
      UserError: the file is missing, malformed, or holds what is not a plain tensor.
    """
    if not _is_safetensors(path) and not path.lower().endswith(PICKLED):
        raise UserError(
            f"{path} has none of the endings .safetensors, {', '.join(PICKLED)}: name a weights "
            "file in one of these formats."
        )
    if tf.io.gfile.isdir(path):
        raise UserError(f"{path} is a folder: name the weights file in it.")
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            content = f.read()
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    try:
        parse = _parse_safetensors if _is_safetensors(path) else _parse_pth
        state = _without_wrappers(parse(content))
    except _Malformed as e:
        raise UserError(f"{path} cannot be used: {e}.") from e
    if not state:
        raise UserError(f"{path} holds no tensors: name a file with a state dict.")
    return state


def read_metadata(path: str) -> dict[str, Any]:
    """The texts that a file which `read` takes has beside its tensors; none in a .pth file."""
    if not _is_safetensors(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        found = json.loads(f.read(size)).get(_METADATA)
    return found if isinstance(found, dict) else {}


def write_safetensors(
    path: str, state: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes float32 arrays, and texts on them, as a file; UserError if it cannot be written."""
    header: dict[str, Any] = {_METADATA: {"format": "pt", **(metadata or {})}}
    blocks, offset = [], 0
    for key, array in state.items():
        block = np.ascontiguousarray(array, "<f4").tobytes()
        end = offset + len(block)
        header[key] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, end]}
        blocks.append(block)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start at a multiple of 8
    files.write_bytes(path, b"".join([struct.pack("<Q", len(text)), text, *blocks]))


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _without_wrappers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The keys of the model itself, without those of what it was trained or averaged in."""
    state = {key: array for key, array in state.items() if key != _AVERAGING_COUNTER}
    while state and (shared := [p for p in _MODULES if all(key.startswith(p) for key in state)]):
        state = {key.removeprefix(shared[0]): array for key, array in state.items()}
    return state


def _array(data: bytes | memoryview, kind: str) -> np.ndarray:
    """The flat array of some bytes; halves as float32."""
    if kind == _BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    array = np.frombuffer(data, kind)
    return array.astype(np.float32) if kind == "<f2" else array


def _item_size(kind: str) -> int:
    return 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize


# .safetensors


def _parse_safetensors(content: bytes) -> dict[str, np.ndarray]:
    if len(content) < 8:
        raise _Malformed("it is no .safetensors file")
    (size,) = struct.unpack("<Q", content[:8])
    data = memoryview(content)[8 + size :]
    if size > len(content) - 8:
        raise _Malformed("it is no .safetensors file, or it is cut off in its header")
    try:
        header = json.loads(content[8 : 8 + size])
        entries = {key: entry for key, entry in header.items() if key != _METADATA}
        return {key: _safetensor(key, entry, data) for key, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _Malformed("its header is not that of a .safetensors file") from e


def _safetensor(key: str, entry: dict[str, Any], data: memoryview) -> np.ndarray:
    kind = _SAFETENSORS_TYPES.get(entry["dtype"])
    if kind is None:
        raise _Malformed(f"tensor {key!r} has the type {entry['dtype']}, which has no counterpart")
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(isinstance(size, int) and size >= 0 for size in (*shape, start, end)):
        raise _Malformed(f"tensor {key!r} has an impossible shape or place")
    if end - start != math.prod(shape) * _item_size(kind):
        raise _Malformed(f"tensor {key!r} has {end - start} bytes, which is not its shape's number")
    if end > len(data):
        raise _Malformed(f"it is cut off before the end of tensor {key!r}")
    return _array(data[start:end], kind).reshape(shape)


# .pth


class _Allowed:
    """A name that a pickle may use. Without attributes: the pickle cannot change it."""

    __slots__ = ()


class _OrderedDict(_Allowed):
    """Stands for collections.OrderedDict."""

    __slots__ = ()

    def __call__(self, *items: Any) -> _Dict:
        return _Dict(*items)


class _Dict(collections.OrderedDict):
    """What an OrderedDict of the file becomes; the `_metadata` of a state dict is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The numbers that tensors are views of: where they are in the file, and how many."""

    key: str
    kind: str
    size: int

    def __setstate__(self, state: Any) -> None:
        # A pickle may set the state of any object, frozen or not.
        raise _Malformed("its data have a state of their own")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in numbers and not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        raise _Malformed("a tensor in it has a state of its own")


class _StorageType(_Allowed):
    """Stands for torch.FloatStorage and its like; one subclass a kind of number."""

    __slots__ = ()
    kind = ""


class _RebuildTensor(_Allowed):
    """Stands for torch._utils._rebuild_tensor_v2 (and _rebuild_tensor)."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *unused) -> _Tensor:
        numbers = (offset, *shape, *strides)
        if (
            not isinstance(storage, _Storage)
            or not all(type(n) is int and n >= 0 for n in numbers)
            or len(shape) != len(strides)
        ):
            raise _Malformed("a tensor in it is not a plain one")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        # More elements than the storage has would be a small file that fills the memory.
        if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
            raise _Malformed("a tensor in it lies outside its own data")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter(_Allowed):
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor, *unused) -> _Tensor:
        if not isinstance(tensor, _Tensor):
            raise _Malformed("a parameter in it is no tensor")
        return tensor


def _allowed_names() -> dict[tuple[str, str], _Allowed]:
    names: dict[tuple[str, str], _Allowed] = {
        ("collections", "OrderedDict"): _OrderedDict(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    }
    for name, kind in _STORAGE_TYPES.items():
        members = {"__slots__": (), "kind": kind}
        names["torch", name] = type(name, (_StorageType,), members)()
    return names


_NAMES = _allowed_names()


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, numbers, texts and `_Tensor`s; nothing is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Malformed(
                f"it holds {module}.{name}, not only tensors: save the model's state_dict() alone"
            )
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        try:
            kind, storage_type, key, _, size = pid[:5]
        except (TypeError, ValueError) as e:
            raise _Malformed("it refers to data in an unknown way") from e
        view = pid[5] if len(pid) > 5 else None
        if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
            raise _Malformed("it refers to data that are not a plain storage")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise _Malformed("it refers to data by an impossible key or size")
        return _Storage(key, storage_type.kind, size)


def _load(stream: io.BytesIO) -> Any:
    """The next pickle of a stream, restricted."""
    try:
        return _Unpickler(stream, encoding="utf-8").load()
    except _Malformed:
        raise
    # A broken pickle can fail in the unpickler in any way.
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError,
        AttributeError, OverflowError, MemoryError, RecursionError, ImportError, struct.error,
    ) as e:  # fmt: skip
        raise _Malformed("it is no weights file of PyTorch, or a damaged one") from e


def _parse_pth(content: bytes) -> dict[str, np.ndarray]:
    if content[:4] == b"PK\x03\x04":
        tree, data_of = _open_zip(content)
    else:
        tree, data_of = _open_legacy(content)
    arrays: dict[_Storage, np.ndarray] = {}
    state = {}
    for key, tensor in _tensors(tree).items():
        storage = tensor.storage
        if storage not in arrays:
            data = data_of(storage)
            if len(data) != storage.size * _item_size(storage.kind):
                raise _Malformed(f"the data of tensor {key!r} are cut off or too long")
            arrays[storage] = _array(data, storage.kind)
        flat = arrays[storage]
        strides = [stride * flat.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
        state[key] = np.array(view)
    return state


def _tensors(tree: Any) -> dict[str, _Tensor]:
    """The state dict in what a file holds."""
    if not isinstance(tree, dict):
        raise _Malformed("it holds no dictionary of tensors: save the model's state_dict()")
    for wrapper in _WRAPPERS:
        if isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    others = [key for key, value in tree.items() if not isinstance(value, _Tensor)]
    if others:
        raise _Malformed(
            f"its entry {str(others[0])[:80]!r} is no tensor: save the model's state_dict() alone"
        )
    return {str(key): tensor for key, tensor in tree.items()}


def _open_zip(content: bytes):
    """The layout since PyTorch 1.6: (data.pkl's tree, storage -> bytes)."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, OSError) as e:
        raise _Malformed("it is a damaged or cut-off archive") from e
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" in members:
        raise _Malformed("it is a TorchScript program: save the model's state_dict() instead")
    if "data.pkl" not in members:
        raise _Malformed("it is an archive, but not one of PyTorch")

    def member(name: str) -> bytes:
        info = members.get(name)
        if info is None:
            raise _Malformed(f"its member {name!r} is missing")
        # PyTorch stores; something compressed may be far larger than the file.
        if info.compress_type != zipfile.ZIP_STORED:
            raise _Malformed(f"its member {name!r} is compressed")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, RuntimeError) as e:
            raise _Malformed(f"its member {name!r} is damaged") from e

    if "byteorder" in members and member("byteorder") != b"little":
        raise _Malformed("its numbers are big-endian")
    program = member("data.pkl")
    if len(program) > _LARGEST_PROGRAM:
        raise _Malformed("its table of tensors is too long")
    return _load(io.BytesIO(program)), lambda storage: member(f"data/{storage.key}")


def _open_legacy(content: bytes):
    """The layout before: five pickles, then each storage as its length and its numbers."""
    stream = io.BytesIO(content)
    if _load(stream) != _LEGACY_MAGIC or _load(stream) != _LEGACY_PROTOCOL:
        raise _Malformed("it is no weights file of PyTorch")
    system = _load(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Malformed("its numbers are big-endian")
    tree = _load(stream)
    keys = _load(stream)
    if not isinstance(keys, list):
        raise _Malformed("it has no list of its data")
    sizes = {t.storage.key: _item_size(t.storage.kind) for t in _tensors(tree).values()}
    data: dict[str, memoryview] = {}
    view, position = memoryview(content), stream.tell()
    for key in keys:
        if key not in sizes:
            raise _Malformed("it has data that belong to no tensor")
        if position + 8 > len(content):
            raise _Malformed("it is cut off")
        (count,) = struct.unpack_from("<q", content, position)
        end = position + 8 + max(count, 0) * sizes[key]
        if count < 0 or end > len(content):
            raise _Malformed("it is cut off")
        data[key] = view[position + 8 : end]
        position = end

    def data_of(storage: _Storage) -> memoryview:
        if storage.key not in data:
            raise _Malformed("the data of a tensor are missing")
        return data[storage.key]

    return tree, data_of
