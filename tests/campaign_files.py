"""Files of a campaign: a tiny trained network with what belongs to it, and ways to damage them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests import campaign_process
from utils.reading import examples, records

import tensorflow.compat.v1 as tf  # isort: skip

SPEC = "name: tiny\nstages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\nhead_size: 16\n"


@dataclasses.dataclass
class Base:
    """What attempts start from; they change copies of it."""

    folder: Path

    def __post_init__(self):
        self.data, self.model = self.folder / "data", self.folder / "model"
        self.spec, self.weights = self.folder / "tiny.yaml", self.folder / "tiny.safetensors"
        self.pictures = self.folder / "pictures"

    def flags(self, **given) -> list[str]:
        """Of a training of seconds; None takes a flag away."""
        values = {
            "data_dir": self.data, "model_dir": self.model, "model_spec": self.spec,
            "input_image_size": 32, "train_batch_size": 8, "eval_batch_size": 8, "train_steps": 4,
            "steps_per_eval": 2, "num_label_classes": 4, "eval_timeout": 1, "tf_random_seed": 1,
            **given,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in values.items() if value is not None]

    def copy(self, folder: Path) -> Base:
        """A copy to damage."""
        shutil.copytree(self.folder, folder / "base", ignore=shutil.ignore_patterns("runs"))
        return Base(folder / "base")


def make_base(folder: Path) -> Base:
    """Builds a data set, trains, exports and writes weights, with the package's own programs."""
    base = Base(folder)
    folder.mkdir(parents=True)
    base.spec.write_text(SPEC)
    counts = ["--num_train=24", "--num_validation=8", "--num_classes=4"]
    for module, argv in (
        ("utils.data", ["fake", f"--output_dir={base.data}", *counts]),
        ("mnasnet_main", base.flags(export_dir=base.model / "export")),
        ("utils.export_weights", [f"--model_dir={base.model}", f"--output={base.weights}"]),
    ):
        outcome = campaign_process.run(module, argv, folder / "runs")
        problem = campaign_process.finished(outcome)
        assert problem is None, problem
    _write_pictures(base)
    return base


def _write_pictures(base: Base) -> None:
    """Two folders of pictures, out of the data set."""
    paths = records.list_files(str(base.data), "train-")
    for number, record in enumerate(itertools.islice(records.read_records(paths[0]), 12)):
        place = base.pictures / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(records.unpack(record, paths[0], number)[0])


# Damage that any file may have.


def cuts(content: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """The file cut short at evenly spread places, the empty file first."""
    for place in np.linspace(0, max(len(content) - 1, 0), number).astype(int):
        yield f"cut to {place}", content[:place]


def flips(content: bytes, places) -> Iterator[tuple[str, bytes]]:
    """One byte turned over at each of the places."""
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 0xFF
        yield f"byte {place} flipped", bytes(changed)


def others(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Other content altogether."""
    yield "zeros", bytes(len(content))
    yield "random bytes", np.random.RandomState(0).bytes(max(len(content), 64))
    yield "twice", content * 2
    yield "text", b"this is some text\n"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 64


# Weights.


def hostile_weights(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(name, file name, content) of files that are no, or strange, weights."""
    (size,) = struct.unpack("<Q", content[:8])
    places = [*range(12), *np.linspace(12, 8 + size - 1, 70).astype(int), len(content) - 1]
    for name, damaged in itertools.chain(
        cuts(content, 50), flips(content, places), others(content)
    ):
        yield name, "w.safetensors", damaged
    for name, header in _hostile_headers(json.loads(content[8 : 8 + size])):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        yield name, "w.safetensors", struct.pack("<Q", len(text)) + text + content[8 + size :]
    for length in (0, 1, 1 << 31, 1 << 40, (1 << 64) - 1):
        yield f"header of {length}", "w.safetensors", struct.pack("<Q", length) + content[8:]
    for name, damaged in itertools.chain(cuts(content, 5), others(content), _hostile_pickles()):
        yield f"{name} as .pth", "w.pth", damaged


def _hostile_headers(header: dict) -> Iterator[tuple[str, object]]:
    """Headers of a .safetensors file that say what is not so."""
    key = next(k for k in header if k != "__metadata__")
    for field, values in {
        "dtype": ["F33", 3, None, "", "I64", "F64", ["F32"], "BF16"],
        "shape": [[], [-1], [1 << 40], [1 << 62, 1 << 62], "8", None, [1.5], [0], [[8]], 8],
        "data_offsets": [[0, 0], [0], [8, 0], [-4, 4], [0, 1 << 50], None, "ab", [0.5, 9.5], {}],
    }.items():
        for value in values:
            yield f"{field} {value!r}", {**header, key: {**header[key], field: value}}
        yield f"no {field}", {**header, key: {k: v for k, v in header[key].items() if k != field}}
    for metadata in (3, [], {"format": 3}, {"mnasnet_tpu": "{"}, None, "x", {"x": None}):
        yield f"metadata {metadata!r}", {**header, "__metadata__": metadata}
    for value in (None, [], 3, "x", {}):
        yield f"tensor {value!r}", {**header, key: value}
        yield f"header {value!r}", value
    yield "no tensor", {"__metadata__": header.get("__metadata__", {})}
    yield "deep nesting", b"[" * 100_000
    yield "a number of 10,000 digits", b'{"a": ' + b"9" * 10_000 + b"}"
    yield "not UTF-8", b'{"\xff": 1}'
    yield "other names", {f"x.{k}": v for k, v in header.items() if k != "__metadata__"}


def _hostile_pickles() -> Iterator[tuple[str, bytes]]:
    yield "empty pickle", b"\x80\x02."
    yield "pickle of a call", b"cos\nsystem\n(S'true'\ntR."
    yield "pickle of a list", b"\x80\x02]q\x00."
    yield "pickle of a number", b"\x80\x02K\x01."
    yield "deep pickle", b"\x80\x02" + b"(" * 200_000 + b"."
    yield "large string", b"\x80\x02X\xff\xff\xff\x7f"
    yield "zip without files", b"PK\x05\x06" + bytes(18)
    yield "zip that is cut", b"PK\x03\x04" + bytes(26)


# Records.


def damaged_records(content: bytes, example: bytes) -> Iterator[tuple[str, bytes]]:
    """Contents of a TFRecord file that are not as they should be.

    Args:
      content: of a whole file.
      example: the first record, to repeat with changes.
    """
    (length,) = struct.unpack("<Q", content[:8])
    yield from cuts(content, 10)
    yield from flips(content, [0, 7, 8, 12, 12 + length // 2, 12 + length, len(content) - 1])
    yield from others(content)
    for name, record in _damaged_examples(example):
        yield name, framed(record) + content


def _damaged_examples(example: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty record", b""
    yield "record of garbage", b"\xff\xfe garbage"
    yield "record cut in the middle", example[: len(example) // 2]
    for label in (0, -1, 5, 1 << 40):
        yield f"label {label}", examples.example(b"no picture", label)
    for name, picture in (
        ("empty picture", b""),
        ("picture of garbage", b"\xff\xd8\xff no picture"),
        ("picture of text", b"hello"),
        ("half a picture", records.unpack(example, "x", 0)[0][:500]),
    ):
        yield name, examples.example(picture, 1)


def framed(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            writer.write(record)
        return Path(file.name).read_bytes()
