"""Opening picture files: formats, limits of size, packages that are missing."""

import numpy as np
import picture_files
import pytest
from PIL import Image, features

from utils.pictures import opening, pixels


@pytest.fixture(autouse=True, scope="module")
def pillow():
    opening.require_pillow()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_format_is_opened(kind):
    data = picture_files.save(picture_files.smooth(), kind)
    assert opening.open_picture(data).format == kind
    assert opening.open_picture(data).size == (picture_files.WIDTH, picture_files.HEIGHT)


@pytest.mark.parametrize("name", picture_files.GIGANTIC)
def test_a_gigantic_size_is_refused_before_anything_is_decoded(name):
    with pytest.raises(opening.Unreadable):
        opening.open_picture(picture_files.GIGANTIC[name])


def test_tiles_of_a_tiff_may_be_larger_than_the_picture():
    image = opening.open_picture(picture_files.tiled_tiff(16))
    np.testing.assert_array_equal(np.asarray(pixels.to_rgb(image)), np.zeros((8, 8, 3)))


def test_floating_point_pixels_are_refused():
    data = picture_files.save(Image.new("F", (4, 4), 0.5), "TIFF")
    with pytest.raises(opening.Unreadable, match="floating-point"):
        pixels.to_rgb(opening.open_picture(data))


def test_heic_without_pillow_heif_is_one_sentence(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF")
    data = picture_files.save(picture_files.smooth(), "HEIF")
    words = r"^HEIC pictures are read by pillow-heif: pip install pillow-heif\.$"
    with pytest.raises(opening.MissingDecoder, match=words):
        opening.open_picture(data)
    with pytest.raises(opening.Unreadable, match="not a JPEG"):
        opening.open_picture(b"no picture")


def test_avif_without_its_decoder_is_one_sentence(monkeypatch):
    data = picture_files.save(picture_files.smooth(), "AVIF")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(opening.MissingDecoder, match=r"pip install -U pillow\.$"):
        opening.open_picture(data)


def test_a_damaged_heic_needs_no_other_package():
    data = picture_files.save(picture_files.smooth(), "HEIF")
    with pytest.raises(opening.Unreadable):
        opening.open_picture(data[:40])
