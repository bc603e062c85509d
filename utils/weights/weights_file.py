"""Weights files of PyTorch programs, read and written without PyTorch.

The library safetensors reads, checks and writes `.safetensors`: a JSON table, then plain data. A
`.pth` file (also `.pth.tar`, `.pt`, `.bin`, `.ckpt`) is a pickle and the numbers of its tensors, in
a zip archive (PyTorch 1.6 and later) or one after the other (before).

No code of a pickle runs: in place of the classes and functions that it names, it gets stand-ins. So
what trainings put next to the weights (optimizers, settings, callbacks) is passed over.
"""

from __future__ import annotations

import collections
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from utils.base import files
from utils.base.errors import UserError, excerpt, quoted
from utils.weights import recognition

import tensorflow.compat.v1 as tf

PICKLED = (".pth", ".pth.tar", ".pt", ".bin", ".ckpt")
LARGEST_FILE = 1 << 30
_SAVE_ALONE = "save the model's state_dict() alone"
_MOST_DIMENSIONS = 32  # NumPy has no more
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_BFLOAT16 = tf.bfloat16.as_numpy_dtype
_HALVES = ("<f2", _BFLOAT16)
_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": _BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_STORAGE_TYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}


def read(path: str) -> dict[str, np.ndarray]:
    """Returns a state dict: key -> array in PyTorch's layout.

    Half-precision numbers become float32. What surrounds the network itself is left out: the
    dictionaries of a training around it (`state_dict`, `model`), what stands before the names of
    its layers (`module.`, `model.`, `backbone.`), and all tensors beside it.

    Raises:
      UserError: the file is missing, damaged or too large, or holds no plain tensors.
    """
    check_ending(path)
    content = _content(path)
    try:
        state = _safetensors(content) if _is_safetensors(path) else _state_dict(content, path)
    except UserError:
        raise
    except Exception as e:  # a damaged file can fail in any way
        raise UserError(
            f"{path} is no weights file, or a damaged one ({excerpt(files.reason(e))}): download "
            "it again or save it anew."
        ) from e
    if not state:
        raise UserError(f"{path} holds no tensors: name a file with a state dict.")
    return _network(state, path)


def check_ending(path: str) -> None:
    """Raises UserError for a file's name that does not end as a weights file's."""
    if not _is_safetensors(path) and not path.lower().endswith(PICKLED):
        raise UserError(
            f"{path} has none of the endings .safetensors, {', '.join(PICKLED)}: name a weights "
            "file in one of these formats."
        )


def is_one(path: str) -> bool:
    """Whether a path is that of a weights file, not of a TensorFlow checkpoint (`model.ckpt`)."""
    if not path.lower().endswith((".safetensors", *PICKLED)) or tf.io.gfile.isdir(path):
        return False
    return tf.io.gfile.exists(path) or not path.lower().endswith(".ckpt")


def read_metadata(path: str) -> dict[str, str]:
    """Returns the texts that a valid .safetensors file has next to its tensors; none for .pth."""
    if not _is_safetensors(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        return json.loads(f.read(size)).get("__metadata__", {})


def write_safetensors(
    path: str, state: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays as float32, and texts next to them; UserError if that fails."""
    arrays = {key: np.asarray(array, "<f4", order="C") for key, array in state.items()}
    content = safetensors.numpy.save(arrays, {"format": "pt", **(metadata or {})})
    files.write_bytes(path, content)


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _content(path: str) -> bytes:
    if tf.io.gfile.isdir(path):
        raise UserError(f"{path} is a folder: name the weights file in it.")
    try:
        size = tf.io.gfile.stat(path).length
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    if size > LARGEST_FILE:
        raise UserError(
            f"{path} has {size} bytes, more than weights of a network of this family ever take "
            f"({LARGEST_FILE}): {_SAVE_ALONE}."
        )
    return files.read_bytes(path)


def _numbers(data: bytes, kind: Any, count: int = -1) -> np.ndarray:
    array = np.frombuffer(data, kind, count)
    return array.astype(np.float32) if kind in _HALVES else array


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    # The library refuses tensors that overlap, leave holes or lie outside the file.
    return {
        key: _numbers(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
        for key, entry in safetensors.deserialize(content)
    }


# Pickles.


class _Unknown:
    """Stands for each class and function that has no counterpart here; it does nothing."""

    __slots__ = ()
    name = ""

    def __new__(cls, *arguments, **more):
        return super().__new__(cls)

    def _ignore(self, *arguments):
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, texts, numbers, arrays and, of everything else, `_Unknown`.

    Tensors are views of storages, whose numbers are filled in when the pickle is read.

    Attributes:
      storages: key -> (array, type of its numbers in the file).
    """

    def __init__(self, stream: io.BytesIO, most_bytes: int):
        super().__init__(stream)
        self.storages: dict[str, tuple[np.ndarray, Any]] = {}
        self._bytes_left = most_bytes

    def find_class(self, module: str, name: str) -> Any:
        text = f"{module}.{name}"
        if text == "collections.OrderedDict":
            return collections.OrderedDict
        if text in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return self._tensor
        if text.startswith("torch._utils._rebuild_parameter"):
            return self._parameter
        return type("_Unknown", (_Unknown,), {"__slots__": (), "name": text})

    def persistent_load(self, pid: Any) -> np.ndarray | _Unknown:
        _, storage_class, key, _, size, *view = pid
        kind = _STORAGE_TYPES.get(storage_class.name)
        if kind is None or view not in ([], [None]):
            return _Unknown()  # of complex or quantized numbers
        if key not in self.storages:
            # Without this bound, a few bytes could ask for more memory than the machine has.
            self._bytes_left -= size * np.dtype(kind).itemsize
            if self._bytes_left < 0:
                raise ValueError("its tensors need more data than it has")
            shown = np.float32 if kind in _HALVES else kind
            self.storages[key] = np.zeros(size, shown), kind
        return self.storages[key][0]

    def _parameter(self, tensor, *unused):
        return tensor

    def _tensor(self, storage, offset, shape, strides, *unused) -> np.ndarray | _Unknown:
        if isinstance(storage, _Unknown):
            return storage
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        elements = math.prod(shape)
        if (
            min((offset, *shape, *strides)) < 0
            or len(shape) > _MOST_DIMENSIONS
            or elements > storage.size
            or (elements and last >= storage.size)
        ):
            raise ValueError("a tensor lies outside its own data")
        if not elements:
            return storage[:0].reshape(shape)
        # The stride of an axis of one element may be anything.
        steps = [s * storage.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True)]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def _state_dict(content: bytes, path: str) -> dict[str, np.ndarray]:
    """Returns all tensors in the dictionaries of a pickle, by the names of their places."""
    is_zip = content.startswith(b"PK\x03\x04")
    tree = _read_zip(content) if is_zip else _read_legacy(content)
    state = dict(_flat(tree)) if isinstance(tree, dict) else {}
    if not state:
        held = [tree, *(tree.values() if isinstance(tree, dict) else ())]
        names = ", ".join(sorted({value.name for value in held if isinstance(value, _Unknown)}))
        objects = f", but objects of {excerpt(names)}" if names else ""
        raise UserError(f"{path} holds no dictionary of tensors{objects}: {_SAVE_ALONE}.")
    return state


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _read_zip(content: bytes) -> Any:
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}

    def member(name: str) -> bytes:
        if members[name].file_size > len(content):
            raise ValueError(f"its member {name} is compressed")
        return archive.read(members[name])

    unpickler = _Unpickler(io.BytesIO(member("data.pkl")), len(content))
    tree = unpickler.load()
    for key, (array, kind) in unpickler.storages.items():
        array[:] = _numbers(member(f"data/{key}"), kind, array.size)
    return tree


def _read_legacy(content: bytes) -> Any:
    """Reads the layout before: five pickles, then each storage as its length and its numbers."""
    stream = io.BytesIO(content)
    magic, _, _ = (_Unpickler(stream, 0).load() for _ in range(3))
    if magic != _LEGACY_MAGIC:
        raise ValueError("it does not begin as one")
    unpickler = _Unpickler(stream, len(content))
    tree = unpickler.load()
    for key in _Unpickler(stream, 0).load():
        array, kind = unpickler.storages[key]
        stream.seek(8, io.SEEK_CUR)
        data = stream.read(array.size * np.dtype(kind).itemsize)
        array[:] = _numbers(data, kind, array.size)
    return tree


def _network(state: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """Returns the tensors of the network in a larger model, without what precedes their names.

    The stem tells where the network is, because other parts may have any name. Without one, all
    tensors are returned as they are.
    """
    stems = [f"{names.stem[0]}.weight" for names in recognition.PROGRAMS.values()]
    prefixes = {
        key.removesuffix(stem)
        for key in state
        for stem in stems
        if key == stem or key.endswith("." + stem)
    }
    # torchvision's blocks have layers of the stem's name within.
    outer = [p for p in prefixes if not any(q != p and p.startswith(q) for q in prefixes)]
    if not outer:
        return state
    chosen = [prefix for prefix in outer if "ema" in prefix] if len(outer) > 1 else outer
    if len(chosen) != 1:
        raise UserError(
            f"{path} holds several networks, {', '.join(map(quoted, sorted(outer)[:5]))}: save the "
            "state_dict() of one."
        )
    (prefix,) = chosen
    beside = [key for key in state if not key.startswith(prefix)]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        logging.info(
            "%s: the network is what stands under %s; left out: %s%s.",
            path,
            quoted(prefix),
            excerpt(", ".join(beside[:3])),
            more,
        )
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
