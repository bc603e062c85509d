"""Reads state dicts in PyTorch's own files (.pth, .pth.tar, .pt, .bin) without PyTorch.

Such a file is a pickle (`pickle_program`) and the numbers of its tensors, in the zip layout
(PyTorch 1.6 and later) or in the layout before it. TorchScript and compressed archives are refused.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from typing import Any

import numpy as np

from utils.base.errors import quoted
from utils.weights import pickle_program, tensor_data
from utils.weights.pickle_program import STATE_DICT_ALONE, Storage, Tensor
from utils.weights.tensor_data import Malformed

# A wrapped state dict stands under one of these keys, the averaged weights first (timm's order).
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
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
      Malformed: the file is damaged, or holds more than plain tensors.
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
    """Returns the state dict in the dictionary that a file holds."""
    if not isinstance(tree, dict):
        raise Malformed("it holds no dictionary of tensors", STATE_DICT_ALONE)
    for wrapper in _WRAPPERS:
        if isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    others = [key for key, value in tree.items() if not isinstance(value, Tensor)]
    if others:
        raise Malformed(f"its entry {quoted(others[0])} is not a tensor", STATE_DICT_ALONE)
    return {str(key): tensor for key, tensor in tree.items()}


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
    return pickle_program.load(io.BytesIO(member("data.pkl", _LARGEST_PROGRAM))), data_of


def _open_legacy(content: bytes):
    """Opens the layout before: five pickles, then each storage as its length and its numbers."""
    stream = io.BytesIO(content[:_LARGEST_PROGRAM])
    if (
        pickle_program.load(stream) != _LEGACY_MAGIC
        or pickle_program.load(stream) != _LEGACY_PROTOCOL
    ):
        raise Malformed("it is not a weights file of PyTorch")
    system = pickle_program.load(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its numbers are big-endian", _LITTLE_ENDIAN)
    tree = pickle_program.load(stream)
    keys = pickle_program.load(stream)
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

    def data_of(storage: Storage) -> memoryview:
        found = data.get(storage.key)
        if found is None:
            raise Malformed("the data of a tensor are missing")
        if len(found) != storage.num_bytes:
            raise Malformed("the data of a tensor are cut off or too long")
        return found

    return tree, data_of
