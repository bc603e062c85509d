"""Picture files of every kind: the pixels that all commands make of them, and what is refused."""

import importlib
import io
import random
import sys

import numpy as np
import picture_files
import pytest
from PIL import Image, features

import preprocessing
import utils
from utils.base.errors import UserError
from utils.reading import pictures
from utils.reading.pictures import Unreadable

import tensorflow.compat.v1 as tf

KINDS = picture_files.kinds()


@pytest.fixture(autouse=True, scope="module")
def pillow():
    pictures.require_pillow()


@pytest.fixture(scope="module")
def decode():
    """Decodes a picture's bytes as training does."""
    encoded = tf.placeholder(tf.string, [])
    decoded = preprocessing.decode_whole(encoded)
    with tf.Session() as session:
        yield lambda data: session.run(decoded, {encoded: data})


# The same picture everywhere.


@pytest.mark.parametrize("name", KINDS)
def test_the_data_set_shows_the_picture(name, decode):
    kind = KINDS[name]
    picture = pictures.fit(kind.data)
    assert picture.changed == kind.changed
    if kind.changed is None:
        assert picture.encoded == kind.data
    decoded = decode(picture.encoded).astype(int)
    assert decoded.shape == kind.pixels.shape == (picture.height, picture.width, 3)
    off = np.abs(decoded - kind.pixels)
    # A paletted or a black and white picture is rough, which costs JPEG more.
    rough = any(word in name for word in ("palette", "1 bit", "gif"))
    assert off.mean() < (6 if rough else 1.5)
    assert np.quantile(off, 0.99) < (40 if rough else 8)


@pytest.mark.parametrize("name", KINDS)
def test_classify_sees_the_pixels_of_the_data_set(name, decode):
    kind = KINDS[name]
    data = pictures.for_tensorflow(kind.data)
    pixels = decode(data)
    assert np.abs(pixels.astype(int) - kind.pixels).mean() < 1.5
    if kind.changed is None:
        assert data is kind.data
    else:
        assert pictures.encode(Image.fromarray(pixels)) == pictures.fit(kind.data).encoded


@pytest.mark.parametrize("name", KINDS)
def test_a_report_shows_the_picture(name):
    """A record holds a picture as its builder stored it, and is shown so."""
    kind = KINDS[name]
    if "EXIF" not in name:
        small = pictures.thumbnail(kind.data, max(kind.pixels.shape))
        assert np.abs(np.asarray(small, int) - kind.pixels).mean() < 1.5


@pytest.mark.parametrize("name", ["png RGBA", "png LA", "png palette with a hole", "png 1 bit"])
def test_a_png_in_a_record_is_decoded_over_white(name, decode):
    """Training, evaluation and the SavedModel decode so."""
    assert np.abs(decode(KINDS[name].data).astype(int) - KINDS[name].pixels).max() <= 1


@pytest.mark.parametrize("dark", [3, 70, 4095])
def test_values_of_16_bits_are_scaled_by_the_bits_that_they_use(dark, decode):
    """8, 8 and 12 bits: the greatest value that they hold is white."""
    values = np.full((8, 8, 1), dark, np.uint16)
    shown = decode(pictures.for_tensorflow(picture_files.png16(values)))
    assert (shown == (255 if dark == 4095 else dark)).all()


def test_bits_are_said_once(caplog):
    for name in ("png grey 12 bits", "tiff RGB 12 bits", "pgm 12 of 16 bits"):
        pictures.fit(KINDS[name].data)
    assert sum("bits" in message for message in caplog.messages) <= 1


def test_a_grey_of_16_bits_may_be_transparent(decode):
    values = np.full((8, 8, 1), 65535, np.uint16)
    values[4:] = 300
    data = picture_files.png16(values)
    data = data[:33] + picture_files.png_chunk(b"tRNS", (300).to_bytes(2, "big")) + data[33:]
    assert (decode(pictures.for_tensorflow(data)) == 255).all()


@pytest.mark.parametrize("colors", [2, 16, 256])
def test_the_palette_of_a_bmp_counts(colors, decode):
    image = Image.fromarray(picture_files.smooth()).quantize(colors)
    found = decode(pictures.for_tensorflow(picture_files.save(image, "BMP")))
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


# Files that keep their bytes or are encoded anew.


def test_a_new_encoding_is_close_to_the_pixels(decode):
    """At quality 95 and full colour resolution, pixels stay within 6."""
    rgb = picture_files.smooth()
    encoded = pictures.fit(picture_files.save(rgb, "PNG")).encoded
    assert np.abs(decode(encoded).astype(int) - rgb).max() <= 6


@pytest.mark.parametrize("orientation", range(2, 9))
def test_imagenet_is_not_turned(orientation):
    data = KINDS[f"jpeg EXIF {orientation}"].data
    picture = pictures.fit(data, upright=False)
    assert picture.encoded == data
    assert (picture.width, picture.height) == Image.open(io.BytesIO(data)).size


def test_a_damaged_exif_block_turns_nothing():
    data = bytearray(KINDS["jpeg EXIF 6"].data)
    start = data.index(b"Exif\0\0") + 6
    data[start : start + 8] = b"\xff" * 8
    assert pictures.fit(bytes(data)).encoded == bytes(data)


def test_a_mpo_file_of_a_stereo_camera_is_a_jpeg(decode):
    first, second = (Image.fromarray(picture_files.smooth(seed)) for seed in (1, 2))
    data = picture_files.save(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    picture = pictures.fit(data)
    assert picture.encoded == data
    off = np.abs(decode(picture.encoded).astype(int) - picture_files.smooth(1))
    assert off.mean() < 1.5


@pytest.mark.parametrize("name", ["jpeg", "jpeg grey", "jpeg progressive"])
def test_what_is_kept_can_be_decoded_and_what_is_refused_cannot(name, decode):
    """The check at an eighth of the scale judges damaged JPEGs like TensorFlow's decoder."""
    rng = random.Random(name)
    data = KINDS[name].data
    kept = refused = 0
    for _ in range(150):
        damaged = bytearray(data[: rng.choice([len(data), len(data) - rng.randrange(1, 999)])])
        for _ in range(rng.randrange(4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            picture = pictures.fit(bytes(damaged))
        except Unreadable:
            with pytest.raises(tf.errors.OpError):
                decode(bytes(damaged))
            refused += 1
        else:
            assert decode(picture.encoded).shape == (picture.height, picture.width, 3)
            kept += 1
    assert kept > 20
    assert refused > 20


def test_the_same_bytes_each_time():
    for kind in KINDS.values():
        assert pictures.fit(kind.data) == pictures.fit(kind.data)


# What is refused.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"This is no picture.\n", "not a JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, HEIC or AVIF"),
        (b"\xff\xd8\xff", "not a JPEG"),
        (b"\0" * 5000, "not a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG.*convert"),
        (picture_files.save(picture_files.smooth(), "TGA"), "TGA.*convert it to PNG"),
        (picture_files.save(picture_files.smooth(), "JPEG2000"), "JPEG2000.*convert it to PNG"),
        (picture_files.tiff16(np.ones((8, 8, 13), np.uint16), 1), "13 bands of 16 bits.*RGB"),
        (picture_files.save(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
    ],
)
def test_what_is_not_read_is_named_with_the_remedy(data, words):
    with pytest.raises(Unreadable, match=words):
        pictures.fit(data)


@pytest.mark.parametrize("name", [n for n in KINDS if " of two " not in n])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_files(name, share):
    data = KINDS[name].data
    with pytest.raises(Unreadable) as error:
        pictures.fit(data[: int(len(data) * share)])
    assert "object at 0x" not in str(error.value)


@pytest.mark.parametrize("name", picture_files.GIGANTIC)
def test_a_gigantic_size_is_refused_before_anything_is_decoded(name):
    with pytest.raises(Unreadable):
        pictures.open_picture(picture_files.GIGANTIC[name])


def test_tiles_of_a_tiff_may_be_larger_than_the_picture(decode):
    found = decode(pictures.for_tensorflow(picture_files.tiled_tiff(16)))
    np.testing.assert_array_equal(found, np.zeros((8, 8, 3)))


def test_heic_without_pillow_heif_is_one_sentence(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF")
    data = picture_files.save(picture_files.smooth(), "HEIF")
    words = r"^HEIC pictures are read by pillow-heif: pip install pillow-heif\.$"
    with pytest.raises(pictures.MissingDecoder, match=words):
        pictures.fit(data)


def test_avif_without_its_decoder_is_one_sentence(monkeypatch):
    data = picture_files.save(picture_files.smooth(), "AVIF")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(pictures.MissingDecoder, match=r"pip install -U pillow\.$"):
        pictures.fit(data)


def test_a_damaged_heic_needs_no_other_package():
    data = picture_files.save(picture_files.smooth(), "HEIF")
    with pytest.raises(Unreadable):
        pictures.fit(data[:40])


def test_without_pillow_one_sentence(tmp_path, monkeypatch):
    """No module needs Pillow to be imported; the first command that uses it says what to do."""
    monkeypatch.setattr(utils, "data", utils.data)
    for name in [name for name in sys.modules if name.startswith("utils.data")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    command = importlib.import_module("utils.data")
    with pytest.raises(UserError, match=r"^Pictures are read by Pillow: pip install pillow\.$"):
        command.main(["x", "fake", f"--output_dir={tmp_path}/out"])
    assert not (tmp_path / "out").exists()
