"""Weights files of PyTorch programs, read and written without PyTorch.

The library safetensors reads, checks and writes `.safetensors`: a JSON table, then plain data. The
module `pickled` reads `.pth` (also `.pth.tar`, `.pt`, `.bin`, `.ckpt`), which is a pickle.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from utils.base import files
from utils.base.errors import UserError, quoted
from utils.weights import layer_names, pickled, tensor_data
from utils.weights.tensor_data import Malformed

import tensorflow.compat.v1 as tf

PICKLED = (".pth", ".pth.tar", ".pt", ".bin", ".ckpt")
_METADATA = "__metadata__"
LARGEST_FILE = 1 << 30
_LARGEST_HEADER = 16 << 20
_SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": tensor_data.BFLOAT16, "I64": "<i8",
    "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read(path: str) -> dict[str, np.ndarray]:
    """Returns a state dict: key -> array in PyTorch's layout.

    Half-precision numbers become float32. What surrounds the network itself is left out: the
    dictionaries of a training around it (`state_dict`, `model`), what stands before the names of
    its layers (`module.`, `model.`, `backbone.`), and all tensors beside it.

    Raises:
      UserError: the file is missing, malformed or too large, or holds more than plain tensors.
    """
    check_ending(path)
    if tf.io.gfile.isdir(path):
        raise UserError(f"{path} is a folder: name the weights file in it.")
    content = _content(path)
    try:
        parse = _parse_safetensors if _is_safetensors(path) else pickled.parse
        state = _network(parse(content), path)
    except Malformed as e:
        raise UserError(f"{path} cannot be used: {e}.") from e
    if not state:
        raise UserError(f"{path} holds no tensors: name a file with a state dict.")
    return state


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


def read_metadata(path: str) -> dict[str, Any]:
    """Returns the texts that a valid .safetensors file has next to its tensors; none for .pth."""
    if not _is_safetensors(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        found = json.loads(f.read(size)).get(_METADATA)
    return found if isinstance(found, dict) else {}


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
    try:
        size = tf.io.gfile.stat(path).length
        if size > LARGEST_FILE:
            raise UserError(
                f"{path} has {size} bytes, more than weights of a network of this family ever take "
                f"({LARGEST_FILE}): save the model's state_dict() alone."
            )
        with tf.io.gfile.GFile(path, "rb") as f:
            return f.read()
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e


def _parse_safetensors(content: bytes) -> dict[str, np.ndarray]:
    if len(content) < 8 or struct.unpack_from("<Q", content)[0] > _LARGEST_HEADER:
        raise Malformed("it is not a .safetensors file, or its header is longer than 16 MiB")
    try:
        # The library refuses tensors that overlap, leave holes or lie outside the file.
        entries = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as e:
        raise Malformed(
            f"it is not a .safetensors file, or a damaged one ({quoted(str(e))})"
        ) from e
    kinds = {key: _kind(key, entry["dtype"]) for key, entry in entries.items()}
    tensor_data.check({k: (e["shape"], kinds[k]) for k, e in entries.items()}, len(content))
    return {
        key: tensor_data.array(entry["data"], kinds[key]).reshape(entry["shape"])
        for key, entry in entries.items()
    }


def _kind(key: str, dtype: str) -> str:
    kind = _SAFETENSORS_TYPES.get(dtype)
    if kind is None:
        raise Malformed(
            f"tensor {quoted(key)} has the type {dtype}, which has no counterpart here",
            "save the weights as float32",
        )
    return kind


def _network(state: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """Returns the tensors of the network in a larger model, without what precedes their names.

    The stem tells where the network is, because other parts may have any name. Without one, all
    tensors are returned as they are.
    """
    stems = [f"{names.stem[0]}.weight" for names in layer_names.PROGRAMS.values()]
    prefixes = {
        key.removesuffix(stem)
        for key in state
        for stem in stems
        if key == stem or key.endswith("." + stem)
    }
    # torchvision's blocks have layers of the stem's name within.
    outer = [p for p in prefixes if not any(q != p and p.startswith(q) for q in prefixes)]
    averaged = [prefix for prefix in outer if "ema" in prefix]
    if len(outer) > 1 and len(averaged) != 1:
        raise Malformed(
            f"it holds several networks, {', '.join(map(quoted, sorted(outer)[:5]))}",
            "save the state_dict() of one",
        )
    if not outer:
        return state
    (prefix,) = averaged if len(outer) > 1 else outer
    beside = [key for key in state if not key.startswith(prefix)]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        logging.info(
            "%s: the network is what stands under %s; left out: %s%s.",
            path, quoted(prefix), ", ".join(beside[:3]), more,
        )  # fmt: skip
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
