"""Writes files of records, good and bad ones."""

import io

import golden_files
import picture_files
from PIL import Image

from utils.reading import examples

import tensorflow.compat.v1 as tf

CLASSES = 10


def picture(image_format="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 20, 30)).save(buffer, image_format)
    return buffer.getvalue()


def write(path, serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in serialized:
            writer.write(example)
    return str(path)


def good(count=3):
    return [examples.example(picture(), number % CLASSES + 1) for number in range(count)]


def example_of(**features):
    """An example with any features; names have '__' for '/'."""
    made = {}
    for name, values in features.items():
        key = name.replace("__", "/")
        if values and isinstance(values[0], bytes):
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif values and isinstance(values[0], float):
            made[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


# What is no usable record, and a word of the reason.
BAD = {
    "label 0": (lambda: examples.example(picture(), 0), "label 0 "),
    "label 11": (lambda: examples.example(picture(), CLASSES + 1), "label 11 "),
    "negative label": (lambda: examples.example(picture(), -1), "label -1 "),
    "no picture": (lambda: examples.example(b"no picture", 1), "decoded"),
    "empty picture": (lambda: examples.example(b"", 1), "decoded"),
    "half a JPEG": (
        lambda: examples.example(golden_files.picture("astronaut.jpg")[:3000], 1),
        "decoded",
    ),
    "gigantic JPEG": (
        lambda: examples.example(picture_files.GIGANTIC["jpeg"], 1),
        "30000 x 30000 pixels",
    ),
    "gigantic GIF": (
        lambda: examples.example(picture_files.GIGANTIC["gif"], 1),
        "30000 x 30000 pixels",
    ),
    "garbage": (lambda: b"\xff\xfe garbage", "Example"),
    "no features": (lambda: b"", "image/encoded"),
    "no label": (lambda: example_of(image__encoded=[picture()]), "image/class/label is missing"),
    "no image": (lambda: example_of(image__class__label=[1]), "image/encoded"),
    "two labels": (
        lambda: example_of(image__encoded=[picture()], image__class__label=[1, 2]),
        "image/class/label has 2 values",
    ),
    "no value": (
        lambda: example_of(image__encoded=[picture()], image__class__label=[]),
        "image/class/label has 0 values",
    ),
    "label as text": (
        lambda: example_of(image__encoded=[picture()], image__class__label=[b"1"]),
        "image/class/label holds bytes where integers are expected",
    ),
    "label as float": (
        lambda: example_of(image__encoded=[picture()], image__class__label=[1.0]),
        "image/class/label holds floats where integers are expected",
    ),
    "picture as number": (
        lambda: example_of(image__encoded=[7], image__class__label=[1]),
        "image/encoded holds integers where bytes are expected",
    ),
    "label beyond 32 bits": (
        lambda: examples.example(picture(), 2**32 + 1),
        "label 4294967297 does not fit in 32 bits",
    ),
}
