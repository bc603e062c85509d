"""Tests of contact sheets."""

import picture_files
import pytest

from utils.data import contact_sheet, pictures


@pytest.fixture(autouse=True, scope="module")
def pillow():
    pictures.require_pillow()


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (8, 1), (9, 2), (48, 6)])
def test_rows(count, rows):
    sheet = contact_sheet.draw("Title", [(picture_files.jpeg(), "1: cat")] * count)
    height = contact_sheet._SIDE + contact_sheet._TEXT + contact_sheet._GAP
    assert sheet.height == contact_sheet._TITLE + rows * height + contact_sheet._GAP


def test_captions_and_titles_of_any_length_and_alphabet():
    text = "мышь ποντίκι naïve " * 30
    plain = contact_sheet.draw("", [(picture_files.jpeg(), "")])
    sheet = contact_sheet.draw(text, [(picture_files.jpeg(), text)])
    assert sheet.size == plain.size
    assert sheet.tobytes() != plain.tobytes()
    # The caption ends before the next column begins.
    right = contact_sheet._GAP + contact_sheet._SIDE
    box = (right, contact_sheet._TITLE, right + contact_sheet._GAP, sheet.height)
    assert sheet.crop(box).getextrema() == ((255, 255),) * 3


def test_a_text_is_cut_with_an_ellipsis():
    font = contact_sheet._font(13)
    assert contact_sheet._shorten("short", font, 100) == "short"
    cut = contact_sheet._shorten("a longer text that does not fit", font, 100)
    assert cut.endswith("…")
    assert 50 < font.getlength(cut) <= 100


@pytest.mark.parametrize("name", ["png RGBA", "jpeg CMYK", "jpeg grey", "png grey 16 bits", "gif"])
def test_kinds_of_pictures(name):
    """A data set from elsewhere may hold them as they are."""
    kind = picture_files.kinds()[name]
    small = contact_sheet._thumbnail(kind.data)
    assert small.mode == "RGB"
    assert max(small.size) == contact_sheet._SIDE


def test_what_pillow_cannot_read_is_said_in_its_place():
    assert contact_sheet._thumbnail(b"text") is None
    contact_sheet.draw("Title", [(b"text", "1")])
