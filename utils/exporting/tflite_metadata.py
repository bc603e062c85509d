"""Writes and reads the metadata inside a .tflite file: normalization and label names.

The Task libraries and ML Kit read this metadata. It is written here with flatbuffers from the
published schema (metadata_schema.fbs, identifier M001), because tflite-support, the original
writer, pins protobuf below 4 and cannot be installed together with TensorFlow 2.15. The metadata
are a buffer that the model names TFLITE_METADATA; the label list is a zip archive at the end of the
file.
"""

from __future__ import annotations

import enum
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
# Enumeration values of metadata_schema.fbs.
_RGB = 1
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2
_OFFSET = flatbuffers.packer.uoffset
_BYTE, _FLOAT = flatbuffers.number_types.Uint8Flags, flatbuffers.number_types.Float32Flags


# Numbers of the fields of metadata_schema.fbs that are used here.


class _Model(enum.IntEnum):
    NAME, DESCRIPTION, SUBGRAPHS, MIN_PARSER_VERSION = 0, 1, 3, 7


class _Subgraph(enum.IntEnum):
    INPUTS, OUTPUTS = 2, 3


class _Tensor(enum.IntEnum):
    NAME, DESCRIPTION, CONTENT, PROCESS_UNITS, STATS, ASSOCIATED_FILES = 0, 1, 3, 4, 5, 6


class _Content(enum.IntEnum):
    PROPERTIES_TYPE, PROPERTIES = 0, 1


class _ImageProperties(enum.IntEnum):
    COLOR_SPACE = 0


class _ProcessUnit(enum.IntEnum):
    OPTIONS_TYPE, OPTIONS = 0, 1


class _Normalization(enum.IntEnum):
    MEAN, STDDEV = 0, 1


class _Stats(enum.IntEnum):
    MAX, MIN = 0, 1


class _AssociatedFile(enum.IntEnum):
    NAME, DESCRIPTION, TYPE = 0, 1, 2


class _Table:
    """Builds a flatbuffers table field by field."""

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
    """Writes the input: RGB, which the caller normalizes as (x - mean) / stddev."""
    properties = _Table(builder, 2).byte(_ImageProperties.COLOR_SPACE, _RGB).end()
    content = _content(builder, _IMAGE_PROPERTIES, properties)
    means, stddevs = _floats(builder, mean), _floats(builder, stddev)
    options = _Table(builder, 2).offset(_Normalization.MEAN, means)
    normalization = options.offset(_Normalization.STDDEV, stddevs).end()
    unit = _Table(builder, 2).byte(_ProcessUnit.OPTIONS_TYPE, _NORMALIZATION_OPTIONS)
    units = _offsets(builder, [unit.offset(_ProcessUnit.OPTIONS, normalization).end()])
    highest = _floats(builder, [(255 - m) / s for m, s in zip(mean, stddev, strict=True)])
    lowest = _floats(builder, [(0 - m) / s for m, s in zip(mean, stddev, strict=True)])
    stats = _Table(builder, 2).offset(_Stats.MAX, highest).offset(_Stats.MIN, lowest).end()
    name = builder.CreateString("images")
    text = builder.CreateString("Picture to classify: RGB, 0 to 255.")
    table = _tensor(builder, name, text, content)
    return table.offset(_Tensor.PROCESS_UNITS, units).offset(_Tensor.STATS, stats).end()


def _content(builder: flatbuffers.Builder, kind: int, properties: int) -> int:
    table = _Table(builder, 3).byte(_Content.PROPERTIES_TYPE, kind)
    return table.offset(_Content.PROPERTIES, properties).end()


def _tensor(builder: flatbuffers.Builder, name: int, text: int, content: int) -> _Table:
    """Begins the table of a tensor, to which more fields may be added."""
    table = _Table(builder, 7).offset(_Tensor.NAME, name).offset(_Tensor.DESCRIPTION, text)
    return table.offset(_Tensor.CONTENT, content)


def _logits_tensor(builder: flatbuffers.Builder, has_labels: bool) -> int:
    """Writes the output: a score for each class, named by the label file."""
    properties = _Table(builder, 0).end()
    content = _content(builder, _FEATURE_PROPERTIES, properties)
    associated = 0
    if has_labels:
        file_name = builder.CreateString(labels.FILE_NAME)
        text = builder.CreateString("Names of the classes, one a line.")
        label_file = _Table(builder, 5).offset(_AssociatedFile.NAME, file_name)
        label_file.offset(_AssociatedFile.DESCRIPTION, text)
        label_file.byte(_AssociatedFile.TYPE, _TENSOR_AXIS_LABELS)
        associated = _offsets(builder, [label_file.end()])
    name = builder.CreateString("logits")
    text = builder.CreateString("Score of each class before the softmax.")
    table = _tensor(builder, name, text, content)
    return (table.offset(_Tensor.ASSOCIATED_FILES, associated) if has_labels else table).end()


def _metadata(
    model_name: str, has_labels: bool, mean: Sequence[float], stddev: Sequence[float]
) -> bytes:
    builder = flatbuffers.Builder(1024)
    inputs = _offsets(builder, [_image_tensor(builder, mean, stddev)])
    outputs = _offsets(builder, [_logits_tensor(builder, has_labels)])
    subgraph = _Table(builder, 10).offset(_Subgraph.INPUTS, inputs)
    subgraphs = _offsets(builder, [subgraph.offset(_Subgraph.OUTPUTS, outputs).end()])
    name = builder.CreateString(model_name)
    text = builder.CreateString("MnasNet image classifier.")
    parser = builder.CreateString("1.0.0")
    table = _Table(builder, 8).offset(_Model.NAME, name).offset(_Model.DESCRIPTION, text)
    table.offset(_Model.SUBGRAPHS, subgraphs).offset(_Model.MIN_PARSER_VERSION, parser)
    builder.Finish(table.end(), _IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once; the zero points of its channels are a tenth of an int8 file."""

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
    """Returns a .tflite file's content with metadata.

    Args:
      content: the file without metadata.
      model_name: name of the model.
      label_names: names of the classes for a label file in the file; none for no label file.
      mean: what the file's caller subtracts from pixels, one number or one for each channel.
      stddev: what the caller divides by afterwards; with mean 0 and stddev 1, pixels stay raw.
      resize_method: how pictures were resized in training, an entry that Task libraries ignore.
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
    """Returns the label names inside a .tflite file; None if it has none."""
    with tf.io.gfile.GFile(path, "rb") as f:
        content = io.BytesIO(f.read())
    if not zipfile.is_zipfile(content):
        return None
    with zipfile.ZipFile(content) as archive:
        if labels.FILE_NAME not in archive.namelist():
            return None
        return archive.read(labels.FILE_NAME).decode().splitlines()


class _Reader:
    """Reads a table of finished flatbuffers by field numbers."""

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
    """Returns (mean, standard deviation) with which a file's caller normalizes pixels.

    None means that the file takes raw pixels: it has no metadata, or mean 0 and deviation 1.
    """
    data = _entry(content, _BUFFER_NAME)
    if data is None:
        return None
    subgraphs = _Reader(data).tables(_Model.SUBGRAPHS)
    for image in (image for subgraph in subgraphs for image in subgraph.tables(_Subgraph.INPUTS)):
        for unit in image.tables(_Tensor.PROCESS_UNITS):
            options = unit.table(_ProcessUnit.OPTIONS)
            kind = unit.byte(_ProcessUnit.OPTIONS_TYPE)
            if kind == _NORMALIZATION_OPTIONS and options is not None:
                mean = options.floats(_Normalization.MEAN)
                stddev = options.floats(_Normalization.STDDEV)
                return None if (set(mean), set(stddev)) == ({0.0}, {1.0}) else (mean, stddev)
    return None


def resize_method(content: bytes) -> str | None:
    """Returns how the caller of a file resizes pictures; None if the file does not say."""
    data = _entry(content, _RESIZE_NAME)
    return data.decode() if data is not None else None


def _entry(content: bytes, name: bytes) -> bytes | None:
    """Returns the buffer under a name in a .tflite file's list of metadata."""
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
        # Use a fixed date, so that the same network gives the same bytes.
        info = zipfile.ZipInfo(labels.FILE_NAME, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(label_names))
    return whole.getvalue()
