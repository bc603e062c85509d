"""Tests of picture files of every kind."""

import importlib
import io
import random
import sys

import numpy as np
import picture_files
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import utils
from utils.base.errors import UserError
from utils.data import pictures
from utils.pictures import opening
from utils.pictures.opening import Unreadable

KINDS = picture_files.kinds()


@pytest.fixture(autouse=True, scope="module")
def pillow():
    opening.require_pillow()


def decode(data: bytes) -> np.ndarray:
    """Pixels as training decodes them."""
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(tf.io.decode_jpeg(data, channels=3))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_shows_the_same_picture(name):
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


def test_a_new_encoding_is_close_to_the_pixels():
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


def test_a_mpo_file_of_a_stereo_camera_is_a_jpeg():
    first, second = (Image.fromarray(picture_files.smooth(seed)) for seed in (1, 2))
    data = picture_files.save(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    picture = pictures.fit(data)
    assert picture.encoded == data
    off = np.abs(decode(picture.encoded).astype(int) - picture_files.smooth(1))
    assert off.mean() < 1.5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"This is no picture.\n", "not a JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC or AVIF"),
        (b"\xff\xd8\xff", "not a JPEG"),
        (b"\0" * 5000, "not a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
        (picture_files.save(picture_files.smooth(), "PPM"), "not a JPEG"),
    ],
)
def test_what_is_no_picture(data, words):
    with pytest.raises(Unreadable, match=words):
        pictures.fit(data)


@pytest.mark.parametrize("name", [n for n in KINDS if " of two " not in n])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_files(name, share):
    data = KINDS[name].data
    with pytest.raises(Unreadable) as error:
        pictures.fit(data[: int(len(data) * share)])
    assert "object at 0x" not in str(error.value)


def test_a_picture_of_absurd_size_is_refused_before_it_fills_the_memory():
    bomb = bytearray(picture_files.save(np.zeros((8, 8, 3), np.uint8), "BMP"))
    bomb[18:26] = (60000).to_bytes(4, "little") * 2
    with pytest.raises(Unreadable, match="3600000000 pixels"):
        pictures.fit(bytes(bomb))


@pytest.mark.parametrize("name", picture_files.GIGANTIC)
def test_a_header_that_claims_a_gigantic_size_is_refused(name):
    with pytest.raises(Unreadable):
        pictures.fit(picture_files.GIGANTIC[name])


@pytest.mark.parametrize("name", ["jpeg", "jpeg grey", "jpeg progressive"])
def test_what_is_kept_can_be_decoded_and_what_is_refused_cannot(name):
    """The check at an eighth of the scale judges damaged JPEGs like TensorFlow's decoder."""
    rng = random.Random(name)
    data = KINDS[name].data
    kept = refused = 0
    encoded = tf.placeholder(tf.string, [])
    decoded = tf.io.decode_jpeg(encoded, channels=3)
    with tf.Session() as session:
        for _ in range(150):
            damaged = bytearray(data[: rng.choice([len(data), len(data) - rng.randrange(1, 999)])])
            for _ in range(rng.randrange(4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                picture = pictures.fit(bytes(damaged))
            except Unreadable:
                with pytest.raises(tf.errors.OpError):
                    session.run(decoded, {encoded: bytes(damaged)})
                refused += 1
            else:
                shape = session.run(decoded, {encoded: picture.encoded}).shape
                assert shape == (picture.height, picture.width, 3)
                kept += 1
    assert kept > 20
    assert refused > 20


def test_the_same_bytes_each_time():
    for kind in KINDS.values():
        assert pictures.fit(kind.data) == pictures.fit(kind.data)


def test_without_pillow_one_sentence(tmp_path, monkeypatch):
    """No module needs Pillow to be imported; the first command that uses it says what to do."""
    monkeypatch.setattr(utils, "data", utils.data)
    for name in [name for name in sys.modules if name.startswith("utils.data")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    command = importlib.import_module("utils.data.command")
    with pytest.raises(UserError, match=r"^Pictures are read by Pillow: pip install pillow\.$"):
        command.main(["x", "fake", f"--output_dir={tmp_path}/out"])
    assert not (tmp_path / "out").exists()
