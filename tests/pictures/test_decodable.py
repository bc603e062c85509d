"""Bytes that TensorFlow decodes to the upright picture of a file of any kind."""

import numpy as np
import picture_files
import pytest
import tensorflow.compat.v1 as tf
from golden_files import IMAGES
from PIL import Image

import preprocessing
from utils.pictures import decodable, opening

KINDS = picture_files.kinds()
# What TensorFlow decodes otherwise than builders of data sets: it drops the transparency.
OVER_BLACK = ("png RGBA", "png LA", "png RGBA 16 bits", "png palette with a hole")


@pytest.fixture(autouse=True, scope="module")
def pillow():
    opening.require_pillow()


def decode(data: bytes) -> np.ndarray:
    """The pixels that TensorFlow decodes."""
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(preprocessing.decode_whole(tf.constant(data)))


@pytest.mark.parametrize("name", [name for name in KINDS if name not in OVER_BLACK])
def test_every_kind_shows_its_picture(name):
    kind = KINDS[name]
    off = np.abs(decode(decodable.for_tensorflow(kind.data)).astype(int) - kind.pixels)
    assert off.mean() < 1.5


@pytest.mark.parametrize(
    "name", [n for n in KINDS if n.startswith(("jpeg", "png", "gif")) and "EXIF" not in n]
)
def test_what_tensorflow_decodes_upright_keeps_its_bytes(name):
    assert decodable.for_tensorflow(KINDS[name].data) is KINDS[name].data
    assert decodable.upright(KINDS[name].data) is KINDS[name].data


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_pixels_are_those_of_tensorflow_turned(kind, orientation):
    """Whatever the format: the pixels of the same file without EXIF, turned and nothing else."""
    stored = picture_files.STORED[orientation](np.asarray(Image.open(IMAGES / "chelsea.jpg")))
    plain = picture_files.save(stored, kind)
    marked = picture_files.save(stored, kind, exif=picture_files.exif(orientation))
    turned = decode(decodable.for_tensorflow(marked))
    np.testing.assert_array_equal(picture_files.STORED[orientation](turned), decode(plain))
    assert (decodable.upright(marked) is marked) is (orientation == 1)


@pytest.mark.parametrize("colors", [2, 16, 256])
def test_the_palette_of_a_bmp_counts(colors):
    image = Image.fromarray(picture_files.smooth()).quantize(colors)
    found = decode(decodable.for_tensorflow(picture_files.save(image, "BMP")))
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "jpeg EXIF 6"])
def test_a_damaged_picture_is_left_to_tensorflow(name):
    for data in (KINDS[name].data[:60], KINDS[name].data[:-300]):
        assert decodable.for_tensorflow(data) is data
        assert decodable.upright(data) is data


@pytest.mark.parametrize("name", ["webp", "tiff", "avif", "heic"])
def test_other_formats_that_are_damaged(name):
    with pytest.raises(opening.Unreadable):
        decodable.for_tensorflow(KINDS[name].data[: len(KINDS[name].data) // 3])
