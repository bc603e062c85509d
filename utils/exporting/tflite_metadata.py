"""TensorFlow Lite metadata inside a .tflite file: normalization and label names.

The Task libraries and ML Kit read it. Written with flatbuffers from the published schema
(metadata_schema.fbs, identifier M001) because tflite-support, the original writer, pins protobuf
below 4 and cannot be installed beside TensorFlow 2.15. A model's metadata is a buffer that the
model names TFLITE_METADATA; the label list is a zip archive appended to the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import flatbuffers

import utils.base.tensorflow_version  # noqa: F401
from utils.reading import labels

import tensorflow.compat.v1 as tf  # isort: skip

_BUFFER_NAME = b"TFLITE_METADATA"
_RESIZE_NAME = b"mnasnet_resize_method"
_IDENTIFIER = b"M001"
# Field numbers and enumeration values of metadata_schema.fbs.
_RGB = 1
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2
_OFFSET = flatbuffers.packer.uoffset
_BYTE, _FLOAT = flatbuffers.number_types.Uint8Flags, flatbuffers.number_types.Float32Flags


class _Table:
    """A flatbuffers table under construction: field number -> how to add it."""

    def __init__(self, builder: flatbuffers.Builder, num_fields: int):
        self._builder = builder
        builder.StartObject(num_fields)

    def offset(self, field: int, value: int) -> _Table:
        self._builder.PrependUOffsetTRelativeSlot(field, value, 0)
        return self

    def byte(self, field: int, value: int) -> _Table:
        self._builder.PrependUint8Slot(field, value, 0)
        return self

    def end(self) -> int:
        return self._builder.EndObject()


def _offsets(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return builder.EndVector()


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()


def _image_tensor(
    builder: flatbuffers.Builder, mean: Sequence[float], stddev: Sequence[float]
) -> int:
    """The input: RGB, normalized by the caller as (x - mean) / stddev."""
    properties = _Table(builder, 2).byte(0, _RGB).end()
    content = _Table(builder, 3).byte(0, _IMAGE_PROPERTIES).offset(1, properties).end()
    means, stddevs = _floats(builder, mean), _floats(builder, stddev)
    options = _Table(builder, 2).offset(0, means).offset(1, stddevs).end()
    unit = _Table(builder, 2).byte(0, _NORMALIZATION_OPTIONS).offset(1, options).end()
    units = _offsets(builder, [unit])
    highest = _floats(builder, [(255 - m) / s for m, s in zip(mean, stddev, strict=True)])
    lowest = _floats(builder, [(0 - m) / s for m, s in zip(mean, stddev, strict=True)])
    stats = _Table(builder, 2).offset(0, highest).offset(1, lowest).end()
    name = builder.CreateString("images")
    text = builder.CreateString("Picture to classify: RGB, 0 to 255.")
    table = _Table(builder, 7).offset(0, name).offset(1, text).offset(3, content)
    return table.offset(4, units).offset(5, stats).end()


def _logits_tensor(builder: flatbuffers.Builder, has_labels: bool) -> int:
    """The output: one score a class, named by the label file."""
    properties = _Table(builder, 0).end()
    content = _Table(builder, 3).byte(0, _FEATURE_PROPERTIES).offset(1, properties).end()
    associated = 0
    if has_labels:
        file_name = builder.CreateString(labels.FILE_NAME)
        text = builder.CreateString("Names of the classes, one a line.")
        label_file = _Table(builder, 5).offset(0, file_name).offset(1, text)
        associated = _offsets(builder, [label_file.byte(2, _TENSOR_AXIS_LABELS).end()])
    name = builder.CreateString("logits")
    text = builder.CreateString("Score of each class before the softmax.")
    table = _Table(builder, 7).offset(0, name).offset(1, text).offset(3, content)
    return (table.offset(6, associated) if has_labels else table).end()


def _metadata(
    model_name: str, has_labels: bool, mean: Sequence[float], stddev: Sequence[float]
) -> bytes:
    builder = flatbuffers.Builder(1024)
    inputs = _offsets(builder, [_image_tensor(builder, mean, stddev)])
    outputs = _offsets(builder, [_logits_tensor(builder, has_labels)])
    subgraphs = _offsets(builder, [_Table(builder, 10).offset(2, inputs).offset(3, outputs).end()])
    name = builder.CreateString(model_name)
    text = builder.CreateString("MnasNet image classifier.")
    parser = builder.CreateString("1.0.0")
    table = _Table(builder, 8).offset(0, name).offset(1, text).offset(3, subgraphs)
    builder.Finish(table.offset(7, parser).end(), _IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once: the zero points of an int8 file's channels are a tenth of it."""

    def __init__(self, initial_size: int):
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def add(
    content: bytes,
    model_name: str,
    label_names: Sequence[str] = (),
    mean: Sequence[float] = (0.0,),
    stddev: Sequence[float] = (1.0,),
    resize_method: str = "bicubic",
) -> bytes:
    """Returns a .tflite file's content with metadata and, where names are given, a label file.

    `mean` and `stddev`, one number or three, are what the file's caller normalizes pixels with:
    0 and 1 for a file that takes raw ones. `resize_method` is what pictures were resized with; it
    is an entry of its own, which the Task libraries pass over.
    """
    # The schema's Python code, generated from the published flatbuffers schema of models.
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    metadata = _metadata(model_name, bool(label_names), mean, stddev)
    for name, data in ((_BUFFER_NAME, metadata), (_RESIZE_NAME, resize_method.encode())):
        buffer = schema.BufferT()
        buffer.data = list(data)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [m for m in model.metadata or [] if m.name != name] + [entry]
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    packed = bytes(builder.Output())
    return _with_label_file(packed, label_names) if label_names else packed


def label_names(path: str) -> list[str] | None:
    """The label names inside a .tflite file; None where it has none."""
    with tf.io.gfile.GFile(path, "rb") as f:
        content = io.BytesIO(f.read())
    if not zipfile.is_zipfile(content):
        return None
    with zipfile.ZipFile(content) as archive:
        if labels.FILE_NAME not in archive.namelist():
            return None
        return archive.read(labels.FILE_NAME).decode().splitlines()


class _Reader:
    """A table of finished flatbuffers, read by field numbers."""

    def __init__(self, data: bytes, position: int | None = None):
        start = flatbuffers.encode.Get(_OFFSET, data, 0) if position is None else position
        self._table = flatbuffers.table.Table(data, start)

    def _field(self, number: int) -> int:
        return self._table.Offset(4 + 2 * number)

    def byte(self, number: int) -> int:
        place = self._field(number)
        return self._table.Get(_BYTE, self._table.Pos + place) if place else 0

    def table(self, number: int) -> _Reader | None:
        place = self._field(number)
        return self._at(self._table.Pos + place) if place else None

    def tables(self, number: int) -> list[_Reader]:
        place = self._field(number)
        if not place:
            return []
        start = self._table.Vector(place)
        return [self._at(start + 4 * i) for i in range(self._table.VectorLen(place))]

    def floats(self, number: int) -> list[float]:
        place = self._field(number)
        return self._table.GetVectorAsNumpy(_FLOAT, place).tolist() if place else []

    def _at(self, position: int) -> _Reader:
        return _Reader(self._table.Bytes, self._table.Indirect(position))


def normalization(content: bytes) -> tuple[list[float], list[float]] | None:
    """(mean, standard deviation) that the caller of a file normalizes pixels with.

    None without metadata, or where they change nothing: the file takes raw pixels.
    """
    data = _entry(content, _BUFFER_NAME)
    if data is None:
        return None
    for image in (i for subgraph in _Reader(data).tables(3) for i in subgraph.tables(2)):
        for unit in image.tables(4):
            options = unit.table(1)
            if unit.byte(0) == _NORMALIZATION_OPTIONS and options is not None:
                mean, stddev = options.floats(0), options.floats(1)
                return None if (set(mean), set(stddev)) == ({0.0}, {1.0}) else (mean, stddev)
    return None


def resize_method(content: bytes) -> str | None:
    """What the caller of a file resizes pictures with; None where the file does not say."""
    data = _entry(content, _RESIZE_NAME)
    return data.decode() if data is not None else None


def _entry(content: bytes, name: bytes) -> bytes | None:
    """The buffer that a .tflite file's list of metadata has under a name."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == name:
            return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    return None


def _with_label_file(content: bytes, label_names: Sequence[str]) -> bytes:
    """Appends a zip archive with the label file, uncompressed as readers expect."""
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        # A fixed date: the same export has the same bytes.
        info = zipfile.ZipInfo(labels.FILE_NAME, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(label_names))
    return whole.getvalue()
