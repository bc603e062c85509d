"""Makes TFRecord files with one damaged record each, as copying, building and malice leave them.

A file has three records, each a picture with a label from 1 to `CLASSES`; one of them is damaged,
by default the second.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import picture_files

import tensorflow.compat.v1 as tf

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
CLASSES = 10
DAMAGED = 1  # the number of the record that is replaced
HEADER_BYTES, FRAME_BYTES = 12, 16


class Damage(NamedTuple):
    """A damaged file.

    Attributes:
      name: what was done to it.
      content: the file's bytes.
      record: the number of the first record that cannot be used.
      words: what a sentence on it has to say.
      is_label: whether the record is readable, and its label alone is wrong.
    """

    name: str
    content: bytes
    record: int
    words: str
    is_label: bool = False


def _crc32c(data: bytes) -> int:
    """Computes the masked checksum of TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def header(length: int) -> bytes:
    """Returns what is before a record: its length and the length's checksum."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", _crc32c(packed))


def framed(record: bytes) -> bytes:
    """Returns a record as it is in a file."""
    return header(len(record)) + record + struct.pack("<I", _crc32c(record))


def feature(*values) -> tf.train.Feature:
    """Makes a feature of bytes or integers; without values, it has no type."""
    if not values:
        return tf.train.Feature()
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**features: tf.train.Feature) -> bytes:
    """Serializes an example with the features `image` and `label`, or others by their names."""
    names = {"image": IMAGE_KEY, "label": LABEL_KEY}
    named = {names.get(name, name): value for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString(
        deterministic=True
    )


def small_jpeg(**options) -> bytes:
    """Makes a JPEG of about a thousand bytes, so that checksums in Python take no time."""
    return picture_files.save(picture_files.smooth()[:24, :32], "JPEG", **options)


def good() -> list[bytes]:
    """Returns the three records of an undamaged file."""
    return [example(image=feature(small_jpeg()), label=feature(n + 1)) for n in range(3)]


def content_of(records: list[bytes]) -> bytes:
    """Returns the content of a file of records."""
    return b"".join(map(framed, records))


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def files() -> Iterator[Damage]:
    """Yields files with damaged frames: cuts, flipped bytes, lengths that lie, other files."""
    first, second, third = map(framed, good())
    whole = first + second + third
    start, size = len(first), len(second)
    for name, place in {
        "in the length": 3,
        "in the data": size // 2,
        "in the checksum": size - 1,
    }.items():
        yield Damage(f"cut {name}", whole[: start + place], 1, "truncated")
    yield Damage("cut in the first record", whole[: start // 2], 0, "truncated")
    for name, place in {
        "length": 0,
        "length's checksum": 8,
        "data": size // 2,
        "checksum": size - 1,
    }.items():
        yield Damage(f"flipped {name}", _flipped(whole, start + place), 1, "damaged")
    body = second[HEADER_BYTES:]
    for name, length in {
        "a byte less": size - FRAME_BYTES - 1,
        "beyond the end": 10**6,
        "all ones": 2**64 - 1,
    }.items():
        lying = first + header(length) + body + third
        yield Damage(f"length that claims {name}", lying, 1, "damaged")
    yield Damage("byte lost", whole[: start + 20] + whole[start + 21 :], 1, "damaged")
    zeros = whole[:start] + bytes(size) + third
    yield Damage("record of zeros", zeros, 1, "damaged")
    yield Damage("text behind the end", whole + b"and so on\n" * 9, 3, "damaged")
    for name, content in {
        "text": b"some text that is no record at all\n" * 20,
        "zeros": bytes(4096),
        "a few bytes": b"TF",
    }.items():
        yield Damage(f"file of {name}", content, 0, "damaged")
    for kind, packed in (("GZIP", gzip.compress(whole, mtime=0)), ("ZLIB", zlib.compress(whole))):
        half = len(packed) // 2
        yield Damage(f"{kind} cut in half", packed[:half], 0, "truncated")
        yield Damage(f"{kind} cut before the last byte", packed[:-1], 3, "truncated")
        yield Damage(f"{kind} flipped in the middle", _flipped(packed, half), 0, "damaged")
        yield Damage(f"{kind} and zeros", packed + bytes(512), 3, "damaged")


def examples() -> Iterator[tuple[str, bytes, str]]:
    """Yields (name, record, words of the sentence) of records that are not a labelled picture."""
    image, label = feature(small_jpeg()), feature(1)
    whole = example(image=image, label=label)
    for name, record in {
        "text": b"some text",
        "half an example": whole[: len(whole) // 2],
    }.items():
        yield f"record of {name}", record, "this is not a tf.train.Example"
    yield "empty record", b"", f"{IMAGE_KEY} is missing"
    yield "no image", example(label=label), f"{IMAGE_KEY} is missing"
    yield "misspelt label", example(image=image, labels=label), f"{LABEL_KEY} is missing"
    yield "label of no kind", example(image=image, label=feature()), f"{LABEL_KEY} is missing"
    none = tf.train.Feature(int64_list=tf.train.Int64List())
    yield "no value", example(image=image, label=none), f"{LABEL_KEY} has 0 values"
    yield "two labels", example(image=image, label=feature(1, 2)), f"{LABEL_KEY} has 2 values"
    yield "label as text", example(image=image, label=feature(b"1")), f"{LABEL_KEY} holds bytes"
    numbers = feature(255, 216, 255)
    yield "image as pixels", example(image=numbers, label=label), f"{IMAGE_KEY} holds integers"


def labels() -> Iterator[tuple[str, bytes, str]]:
    """Yields (name, record, words of the sentence) of records whose label is out of range."""
    for label in (0, CLASSES + 1, 2**32 + 1, -(2**63)):
        record = example(image=feature(small_jpeg()), label=feature(label))
        yield f"label {label}", record, f"label {label} "


def images() -> Iterator[tuple[str, bytes, str]]:
    """Yields (name, record, words of the sentence) of records with a picture no decoder reads."""

    def record(encoded: bytes) -> bytes:
        return example(image=feature(encoded), label=feature(1))

    encoded = {"JPEG": small_jpeg(), "progressive JPEG": small_jpeg(progressive=True)}
    small = picture_files.smooth()[:24, :32]
    encoded |= {kind: picture_files.save(small, kind) for kind in ("PNG", "BMP")}
    for kind, data in encoded.items():
        for share in (0.02, 0.6):
            part = record(data[: int(share * len(data))])
            yield f"{kind} cut at {share:.0%}", part, "cannot be decoded"
    for name, data in {
        "empty picture": b"",
        "text as a picture": b"no picture at all",
        "JPEG of no size": picture_files.jpeg_claiming(0, 0),
        "JPEG wider than JPEGs can be": picture_files.jpeg_claiming(65535, 65535),
        "WebP": picture_files.save(small, "WEBP"),
    }.items():
        yield name, record(data), "cannot be decoded"
    for kind, data in picture_files.GIGANTIC.items():
        yield f"gigantic {kind}", record(data), "cannot be decoded"


def all_damages() -> Iterator[Damage]:
    """Yields every damaged file."""
    yield from files()
    for kind in (examples, labels, images):
        for name, record, words in kind():
            first, _, third = good()
            content = content_of([first, record, third])
            yield Damage(name, content, DAMAGED, words, is_label=kind is labels)
