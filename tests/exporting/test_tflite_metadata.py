"""Metadata inside .tflite files, read back without the code that wrote it."""

import struct
import zipfile

import flatbuffers
import numpy as np

import preprocessing
from utils.exporting import metadata, tflite

import tensorflow.compat.v1 as tf
from tensorflow.lite.python import schema_py_generated as schema

SIZE = 8
NAMES = ["cat", "a cup", "Nürburgring"]


def tiny():
    """A classifier of three classes."""
    images = tf.placeholder(tf.float32, [1, 8, 8, 3], "images")
    weights = np.random.RandomState(0).normal(size=(3, 3)).astype(np.float32)
    logits = tf.matmul(tf.reduce_mean(images, [1, 2]), tf.constant(weights))
    with tf.Session() as session:
        return tf.lite.TFLiteConverter.from_session(session, [images], [logits]).convert()


def described(content, contract=metadata.PUBLISHED, **fields):
    """The file with a description."""
    named = {"model_name": "tiny", "label_names": NAMES}
    named |= {name: fields.pop(name) for name in named if name in fields}
    prepared = preprocessing.Preparation(SIZE, **fields)
    return metadata.add(content, metadata.Description(contract, preparation=prepared, **named))


class Table:
    """Reads a flatbuffers table by field number, from the format's description alone."""

    def __init__(self, data, position):
        self._data, self._position = data, position
        self._vtable = position - struct.unpack_from("<i", data, position)[0]

    def _offset(self, field):
        size = struct.unpack_from("<H", self._data, self._vtable)[0]
        place = 4 + 2 * field
        return struct.unpack_from("<H", self._data, self._vtable + place)[0] if place < size else 0

    def byte(self, field):
        return self._data[self._position + self._offset(field)]

    def _follow(self, field):
        place = self._position + self._offset(field)
        return place + struct.unpack_from("<I", self._data, place)[0]

    def table(self, field):
        return Table(self._data, self._follow(field))

    def tables(self, field):
        start = self._follow(field)
        (count,) = struct.unpack_from("<I", self._data, start)
        places = [start + 4 + 4 * i for i in range(count)]
        return [Table(self._data, p + struct.unpack_from("<I", self._data, p)[0]) for p in places]

    def text(self, field):
        start = self._follow(field)
        (size,) = struct.unpack_from("<I", self._data, start)
        return self._data[start + 4 : start + 4 + size].decode()

    def floats(self, field):
        start = self._follow(field)
        (count,) = struct.unpack_from("<I", self._data, start)
        return list(struct.unpack_from(f"<{count}f", self._data, start + 4))


def metadata_of(content):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    data = bytes(bytearray(model.buffers[entry.buffer].data))
    assert data[4:8] == b"M001"
    return Table(data, struct.unpack_from("<I", data, 0)[0])


def test_the_model_computes_what_it_did():
    content = tiny()
    image = np.random.RandomState(1).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    with_metadata = described(content)
    np.testing.assert_array_equal(
        tflite.Interpreter(content=with_metadata).scores(image),
        tflite.Interpreter(content=content).scores(image),
    )


def test_normalization_color_space_and_label_file():
    metadata = metadata_of(described(tiny()))
    assert metadata.text(0) == "tiny"
    (subgraph,) = metadata.tables(3)
    (image,), (logits,) = subgraph.tables(2), subgraph.tables(3)
    content = image.table(3)
    assert content.byte(0) == 2 and content.table(1).byte(0) == 1  # ImageProperties, RGB
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert unit.table(1).floats(0) == [0.0] and unit.table(1).floats(1) == [1.0]
    assert image.table(5).floats(0) == [255.0] and image.table(5).floats(1) == [0.0]
    (label_file,) = logits.tables(6)
    assert label_file.text(0) == "labels.txt" and label_file.byte(2) == 2  # TENSOR_AXIS_LABELS


def test_normalization_by_the_caller():
    content = tiny()
    assert metadata.preparation(content, SIZE) == preprocessing.Preparation(SIZE)
    assert metadata.preparation(described(content), SIZE).is_raw
    mean, stddev = [127.0, 128.0, 0.0], [128.0, 64.0, 255.0]
    normalized = described(content, mean=mean, stddev=stddev)
    found = metadata.preparation(normalized, SIZE)
    assert (found.mean, found.stddev, found.is_raw) == (mean, stddev, False)
    (image,) = metadata_of(normalized).tables(3)[0].tables(2)
    options = image.tables(4)[0].table(1)
    assert options.floats(0) == mean and options.floats(1) == stddev
    assert image.table(5).floats(0) == [1.0, 127 / 64, 1.0]
    assert image.table(5).floats(1) == [-127 / 128, -2.0, 0.0]
    pixels = np.random.RandomState(1).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        tflite.Interpreter(content=normalized).scores(pixels),
        tflite.Interpreter(content=described(content)).scores(
            (pixels - np.array(mean)) / np.array(stddev)
        ),
        rtol=1e-5,
    )


def test_equal_vectors_are_written_once():
    model = schema.ModelT.InitFromPackedBuf(described(tiny(), label_names=()), 0)
    for tensor in model.subgraphs[0].tensors:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.linspace(1, 2, 1000).astype(np.float32)
        tensor.quantization.zeroPoint = np.zeros(1000, np.int64)
    expected = [t.name for t in model.subgraphs[0].tensors]
    assert len(expected) > 2
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    large = bytes(builder.Output())
    small = described(large, label_names=())
    assert len(small) < len(large) - 12000 * (len(expected) - 1) + 2000
    again = schema.ModelT.InitFromPackedBuf(small, 0)
    assert [t.name for t in again.subgraphs[0].tensors] == expected
    for tensor in again.subgraphs[0].tensors:
        np.testing.assert_array_equal(tensor.quantization.zeroPoint, np.zeros(1000))
        np.testing.assert_allclose(tensor.quantization.scale, np.linspace(1, 2, 1000), rtol=1e-6)


def test_label_names_are_inside(tmp_path):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(described(tiny()))
    assert metadata.label_names(str(path)) == NAMES
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.namelist() == ["labels.txt"]


def test_without_names_there_is_no_label_file(tmp_path):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(described(tiny(), label_names=()))
    assert metadata.label_names(str(path)) is None
    (subgraph,) = metadata_of(path.read_bytes()).tables(3)
    assert subgraph.tables(3)[0].text(0) == "logits"


def test_adding_twice_replaces():
    once = described(tiny(), model_name="first")
    assert metadata_of(described(once, model_name="second")).text(0) == "second"


def test_the_resize_method_is_inside():
    content = tiny()
    for method in ("bilinear", "bicubic"):
        made = described(content, resize_method=method)
        assert tflite.Interpreter(content=made).preparation.resize_method == method
    again = described(made, resize_method="bilinear")
    assert metadata.preparation(again, SIZE).resize_method == "bilinear"
