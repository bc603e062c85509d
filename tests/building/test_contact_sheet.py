"""Tests of contact sheets."""

import io

import numpy as np
import picture_files
import pytest
from PIL import Image

from utils.building import inspection
from utils.building.inspection import CAPTION, GAP, SIDE
from utils.reading import pictures


@pytest.fixture(autouse=True, scope="module")
def pillow():
    pictures.require_pillow()


def tile(sheet):
    """Pixels of a sheet's first picture."""
    return np.asarray(sheet.crop((GAP, GAP, GAP + SIDE, GAP + SIDE)), int)


def caption(sheet):
    """Pixels of a sheet's first caption."""
    return np.asarray(sheet.crop((GAP, GAP + SIDE, GAP + SIDE, GAP + SIDE + CAPTION)), int)


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (8, 1), (9, 2), (48, 6)])
def test_rows(count, rows):
    sheet = inspection.draw_sheet([(picture_files.jpeg(), "1: cat")] * count)
    assert sheet.size == (8 * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP)


def test_captions_of_any_length_and_alphabet():
    text = "мышь ποντίκι naïve\n " * 30
    plain = inspection.draw_sheet([(picture_files.jpeg(), "")])
    sheet = inspection.draw_sheet([(picture_files.jpeg(), text)])
    assert sheet.size == plain.size
    assert (caption(sheet) != caption(plain)).any()
    assert (tile(sheet) == tile(plain)).all()
    # The caption ends before the next column begins.
    box = (GAP + SIDE, 0, GAP + SIDE + GAP, sheet.height)
    assert sheet.crop(box).getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("name", ["png RGBA", "jpeg CMYK", "jpeg grey", "png grey 16 bits", "gif"])
def test_kinds_of_pictures(name):
    """A data set from elsewhere may hold them as they are."""
    kind = picture_files.kinds()[name]
    sheet = inspection.draw_sheet([(kind.data, "")])
    assert sheet.mode == "RGB"
    height = SIDE * picture_files.HEIGHT // picture_files.WIDTH
    top = (SIDE - height) // 2
    expected = Image.fromarray(kind.pixels).resize((SIDE, height))
    off = np.abs(tile(sheet)[top : top + height] - np.asarray(expected, int))
    assert off.mean() < 8


def test_what_pillow_cannot_read_is_said_in_its_place():
    unreadable = tile(inspection.draw_sheet([(b"text", "1")]))
    assert len(np.unique(unreadable)) > 2  # words on the frame


def test_the_file(tmp_path):
    tiles = [(picture_files.jpeg(), "1: cat")]
    inspection.write_sheet(str(tmp_path / "sheet.png"), tiles)
    sheet = Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes()))
    assert sheet.format == "PNG"
    assert (np.asarray(sheet) == np.asarray(inspection.draw_sheet(tiles))).all()
