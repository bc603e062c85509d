"""What a .tflite file says of itself: contract, metadata, label names and signature.

A file of the contract `app` takes the pixels of a picture and gives probabilities, as image
classifiers from other sources do, so that MediaPipe and ML Kit show percentages. One of the
contract `published` has the tensors of the published program's files: it takes normalized pixels,
`truediv`, and gives `logits`.

MediaPipe, the Task libraries and ML Kit read the metadata. They are written here with flatbuffers
from the published schema (metadata_schema.fbs, identifier M001), because tflite-support, the
original writer, pins protobuf below 4 and cannot be installed together with TensorFlow 2.15. The
metadata are a buffer that the model names TFLITE_METADATA; the label list is a zip archive at the
end of the file. What the schema has no field for are entries of their own.

The signature is written here, too, because the converter that takes a session writes none.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import flatbuffers
import numpy as np

import preprocessing
from utils.base.tensorflow_version import tf
from utils.reading import dataset_info

SIGNATURE = "serving_default"


class Contract(NamedTuple):
    """Describes what a .tflite file takes and gives.

    Attributes:
      name: value of the setting tflite_contract.
      input_name: name of the input, as a tensor and in the signature.
      output_name: name of the output, likewise.
      takes_normalized: whether the input is (x - mean) / standard deviation of RGB in [0, 255].
      gives_probabilities: whether the output has gone through the softmax.
    """

    name: str
    input_name: str
    output_name: str
    takes_normalized: bool
    gives_probabilities: bool


APP = Contract("app", "images", "probabilities", False, True)
PUBLISHED = Contract("published", "truediv", "logits", True, False)
CONTRACTS = {contract.name: contract for contract in (APP, PUBLISHED)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities, float [classes], of logits; NaN if a logit is not finite."""
    with np.errstate(invalid="ignore"):
        exponents = np.exp(logits - logits.max())
        return exponents / exponents.sum()


_OFFSET = flatbuffers.packer.uoffset
_BYTE, _FLOAT = flatbuffers.number_types.Uint8Flags, flatbuffers.number_types.Float32Flags


class Table:
    """Builds a flatbuffers table field by field."""

    def __init__(self, builder: flatbuffers.Builder, num_fields: int):
        self._builder = builder
        builder.StartObject(num_fields)

    def offset(self, field: int, value: int) -> Table:
        """Adds a field that refers to a finished table, vector or text."""
        self._builder.PrependUOffsetTRelativeSlot(field, value, 0)
        return self

    def byte(self, field: int, value: int) -> Table:
        """Adds a field of 8 bits, such as an enumeration's value."""
        self._builder.PrependUint8Slot(field, value, 0)
        return self

    def integer(self, field: int, value: int) -> Table:
        """Adds a field of 32 bits without sign."""
        self._builder.PrependUint32Slot(field, value, 0)
        return self

    def end(self) -> int:
        """Finishes the table; returns its offset."""
        return self._builder.EndObject()


def offsets(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    """Writes a vector of tables or texts; returns its offset."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return builder.EndVector()


def floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    """Writes a vector of float32; returns its offset."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()


class Reader:
    """Reads a table of finished flatbuffers by field numbers."""

    def __init__(self, data: bytes, position: int | None = None):
        start = flatbuffers.encode.Get(_OFFSET, data, 0) if position is None else position
        self._table = flatbuffers.table.Table(data, start)

    def _field(self, number: int) -> int:
        return self._table.Offset(4 + 2 * number)

    def byte(self, number: int) -> int:
        """Returns a field of 8 bits; 0 if it is missing."""
        place = self._field(number)
        return self._table.Get(_BYTE, self._table.Pos + place) if place else 0

    def table(self, number: int) -> Reader | None:
        """Returns the table that a field refers to; None if it is missing."""
        place = self._field(number)
        return self._at(self._table.Pos + place) if place else None

    def tables(self, number: int) -> list[Reader]:
        """Returns the tables of a vector; none if it is missing."""
        place = self._field(number)
        if not place:
            return []
        start = self._table.Vector(place)
        return [self._at(start + 4 * i) for i in range(self._table.VectorLen(place))]

    def floats(self, number: int) -> list[float]:
        """Returns the numbers of a vector of float32; none if it is missing."""
        place = self._field(number)
        return self._table.GetVectorAsNumpy(_FLOAT, place).tolist() if place else []

    def _at(self, position: int) -> Reader:
        return Reader(self._table.Bytes, self._table.Indirect(position))


_BUFFER_NAME = b"TFLITE_METADATA"
_RESIZE_NAME = b"mnasnet_resize_method"
_CONTRACT_NAME = b"mnasnet_contract"
_SIZE_NAME = b"mnasnet_image_size"
_CROP_NAME = b"mnasnet_crop_share"
_IDENTIFIER = b"M001"
# Enumeration values of metadata_schema.fbs.
_RGB = 1
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2

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
    COLOR_SPACE, DEFAULT_SIZE = 0, 1


class _ImageSize(enum.IntEnum):
    WIDTH, HEIGHT = 0, 1


class _ProcessUnit(enum.IntEnum):
    OPTIONS_TYPE, OPTIONS = 0, 1


class _Normalization(enum.IntEnum):
    MEAN, STDDEV = 0, 1


class _Stats(enum.IntEnum):
    MAX, MIN = 0, 1


class _AssociatedFile(enum.IntEnum):
    NAME, DESCRIPTION, TYPE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Description:
    """Holds what a .tflite file says of itself.

    Attributes:
      contract: what the file takes and gives.
      model_name: name of the model.
      label_names: names of the classes for a label file in the file; none for no label file.
      preparation: how the file's caller prepares a picture.
    """

    contract: Contract
    model_name: str
    label_names: Sequence[str]
    preparation: preprocessing.Preparation


def _in_words(preparation: preprocessing.Preparation) -> str:
    """Returns sentences that tell an app's author how a picture becomes the input."""
    pixels = "RGB, 0 to 255"
    if not preparation.is_raw:
        pixels += ", then (x - mean) / standard deviation"
    size = preparation.image_size
    return (
        f"Picture to classify: {pixels}. Cut out the centre square of "
        f"{100 * preparation.crop_share:.1f} % of the shorter side, and resize it "
        f"({preparation.resize_method}) to {size} x {size} pixels."
    )


def _image_tensor(builder: flatbuffers.Builder, description: Description) -> int:
    """Writes the input: RGB, which the caller normalizes as (x - mean) / stddev."""
    mean, stddev = description.preparation.mean, description.preparation.stddev
    side = description.preparation.image_size
    size = Table(builder, 2).integer(_ImageSize.WIDTH, side)
    size_table = size.integer(_ImageSize.HEIGHT, side).end()
    properties = Table(builder, 2).byte(_ImageProperties.COLOR_SPACE, _RGB)
    image_properties = properties.offset(_ImageProperties.DEFAULT_SIZE, size_table).end()
    content = _content(builder, _IMAGE_PROPERTIES, image_properties)
    means, stddevs = floats(builder, mean), floats(builder, stddev)
    options = Table(builder, 2).offset(_Normalization.MEAN, means)
    normalization = options.offset(_Normalization.STDDEV, stddevs).end()
    unit = Table(builder, 2).byte(_ProcessUnit.OPTIONS_TYPE, _NORMALIZATION_OPTIONS)
    units = offsets(builder, [unit.offset(_ProcessUnit.OPTIONS, normalization).end()])
    highest = floats(builder, [(255 - m) / s for m, s in zip(mean, stddev, strict=True)])
    lowest = floats(builder, [(0 - m) / s for m, s in zip(mean, stddev, strict=True)])
    stats = Table(builder, 2).offset(_Stats.MAX, highest).offset(_Stats.MIN, lowest).end()
    name = builder.CreateString(description.contract.input_name)
    text = builder.CreateString(_in_words(description.preparation))
    table = _tensor(builder, name, text, content)
    return table.offset(_Tensor.PROCESS_UNITS, units).offset(_Tensor.STATS, stats).end()


def _content(builder: flatbuffers.Builder, kind: int, properties: int) -> int:
    table = Table(builder, 3).byte(_Content.PROPERTIES_TYPE, kind)
    return table.offset(_Content.PROPERTIES, properties).end()


def _tensor(builder: flatbuffers.Builder, name: int, text: int, content: int) -> Table:
    """Begins the table of a tensor, to which more fields may be added."""
    table = Table(builder, 7).offset(_Tensor.NAME, name).offset(_Tensor.DESCRIPTION, text)
    return table.offset(_Tensor.CONTENT, content)


def _scores_tensor(builder: flatbuffers.Builder, description: Description) -> int:
    """Writes the output: a score for each class, named by the label file."""
    properties = Table(builder, 0).end()
    content = _content(builder, _FEATURE_PROPERTIES, properties)
    associated = 0
    if description.label_names:
        file_name = builder.CreateString(dataset_info.LABELS_FILE)
        text = builder.CreateString("Names of the classes, one a line.")
        label_file = Table(builder, 5).offset(_AssociatedFile.NAME, file_name)
        label_file.offset(_AssociatedFile.DESCRIPTION, text)
        label_file.byte(_AssociatedFile.TYPE, _TENSOR_AXIS_LABELS)
        associated = offsets(builder, [label_file.end()])
    name = builder.CreateString(description.contract.output_name)
    text = builder.CreateString(
        "Probability of each class."
        if description.contract.gives_probabilities
        else "Score of each class before the softmax."
    )
    table = _tensor(builder, name, text, content)
    return (table.offset(_Tensor.ASSOCIATED_FILES, associated) if associated else table).end()


def _metadata(description: Description) -> bytes:
    builder = flatbuffers.Builder(1024)
    inputs = offsets(builder, [_image_tensor(builder, description)])
    outputs = offsets(builder, [_scores_tensor(builder, description)])
    subgraph = Table(builder, 10).offset(_Subgraph.INPUTS, inputs)
    subgraphs = offsets(builder, [subgraph.offset(_Subgraph.OUTPUTS, outputs).end()])
    name = builder.CreateString(description.model_name)
    text = builder.CreateString(f"MnasNet image classifier. Contract: {description.contract.name}.")
    parser = builder.CreateString("1.0.0")
    table = Table(builder, 8).offset(_Model.NAME, name).offset(_Model.DESCRIPTION, text)
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


def add(content: bytes, description: Description) -> bytes:
    """Returns a .tflite file's content with its description: metadata, signature, tensors' names.

    Args:
      content: a classifier of square pictures without them, or with others, which are replaced.
      description: what the file is to say of itself.
    """
    # The schema's Python code, generated from the published flatbuffers schema of models.
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    entries = {
        _BUFFER_NAME: _metadata(description),
        _RESIZE_NAME: description.preparation.resize_method.encode(),
        _CONTRACT_NAME: description.contract.name.encode(),
        _SIZE_NAME: str(description.preparation.image_size).encode(),
        _CROP_NAME: f"{description.preparation.crop_share:.6g}".encode(),
    }
    for name, data in entries.items():
        buffer = schema.BufferT()
        buffer.data = list(data)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [m for m in model.metadata or [] if m.name != name] + [entry]
    _name_tensors(model, description.contract)
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    packed = bytes(builder.Output())
    return _with_label_file(packed, description.label_names) if description.label_names else packed


def _name_tensors(model, contract: Contract) -> None:
    """Gives input and output of a model the names of a contract, and the model its signature."""
    from tensorflow.lite.python import schema_py_generated as schema

    def named(name: str, index: int):
        model.subgraphs[0].tensors[index].name = name.encode()
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), index
        return entry

    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE.encode()
    signature.inputs = [named(contract.input_name, model.subgraphs[0].inputs[0])]
    signature.outputs = [named(contract.output_name, model.subgraphs[0].outputs[0])]
    signature.subgraphIndex = 0
    model.signatureDefs = [signature]


def label_names(path: str) -> list[str] | None:
    """Returns the label names inside a .tflite file; None if it has none."""
    with tf.io.gfile.GFile(path, "rb") as f:
        content = io.BytesIO(f.read())
    if not zipfile.is_zipfile(content):
        return None
    with zipfile.ZipFile(content) as archive:
        if dataset_info.LABELS_FILE not in archive.namelist():
            return None
        return archive.read(dataset_info.LABELS_FILE).decode().splitlines()


def preparation(content: bytes, image_size: int) -> preprocessing.Preparation:
    """Returns how a file's caller prepares a picture; the published way where it does not say.

    A file that does not say which share of a picture it crops is older than the other shares.
    """
    method, share, size = (_entry(content, n) for n in (_RESIZE_NAME, _CROP_NAME, _SIZE_NAME))
    known = preprocessing.Preparation(image_size)
    if method is not None:
        known = known._replace(resize_method=method.decode())
    # Six digits tell the published share from others; computed with them, a side may be one less.
    if share is not None and size is not None and share.decode() != f"{known.crop_share:.6g}":
        known = known._replace(eval_crop_share=float(share))
    mean, stddev = _normalization(content) or (known.mean, known.stddev)
    return known._replace(mean=mean, stddev=stddev)


def _normalization(content: bytes) -> tuple[list[float], list[float]] | None:
    """Returns (mean, stddev) of the caller of a file; None if the file has no metadata."""
    data = _entry(content, _BUFFER_NAME)
    if data is None:
        return None
    subgraphs = Reader(data).tables(_Model.SUBGRAPHS)
    for image in (image for subgraph in subgraphs for image in subgraph.tables(_Subgraph.INPUTS)):
        for unit in image.tables(_Tensor.PROCESS_UNITS):
            options = unit.table(_ProcessUnit.OPTIONS)
            kind = unit.byte(_ProcessUnit.OPTIONS_TYPE)
            if kind == _NORMALIZATION_OPTIONS and options is not None:
                mean = options.floats(_Normalization.MEAN)
                stddev = options.floats(_Normalization.STDDEV)
                return mean, stddev
    return None


def contract(content: bytes) -> Contract | None:
    """Returns what a file takes and gives; None if the file does not say, and gives logits."""
    data = _entry(content, _CONTRACT_NAME)
    return CONTRACTS.get(data.decode(errors="replace")) if data is not None else None


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
        info = zipfile.ZipInfo(dataset_info.LABELS_FILE, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(label_names))
    return whole.getvalue()
