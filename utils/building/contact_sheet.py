"""Draws a PNG of many small pictures, each with its label under it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from utils.base import files
from utils.reading import pictures

COLUMNS, ROWS = 8, 6
# In pixels: side of a tile, space around it, height of its caption.
SIDE, GAP, CAPTION = 160, 14, 22
_FONT_SIZE = 13
_BACKGROUND, _FRAME, _INK = "#ffffff", "#f1f3f5", "#212529"


def write(path: str, tiles: Sequence[tuple[bytes, str]]) -> None:
    """Writes the sheet of encoded pictures and captions; UserError if that cannot be written."""
    pictures.require_pillow()
    encoded = io.BytesIO()
    draw(tiles).save(encoded, "PNG")
    files.write_bytes(path, encoded.getvalue())


def draw(tiles: Sequence[tuple[bytes, str]]) -> Any:
    """Returns Pillow's picture of the sheet, with `COLUMNS` encoded pictures and captions a row."""
    from PIL import Image

    rows = -(-len(tiles) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    for number, (image_bytes, caption) in enumerate(tiles):
        left = GAP + number % COLUMNS * (SIDE + GAP)
        top = GAP + number // COLUMNS * (SIDE + CAPTION + GAP)
        sheet.paste(_tile(image_bytes), (left, top))
        # A picture of its own, so that a long caption ends where the tile ends.
        sheet.paste(_text(caption, CAPTION, _BACKGROUND), (left, top + SIDE))
    return sheet


def _tile(image_bytes: bytes) -> Any:
    """Returns a square with the picture in its middle, or with words if it cannot be shown."""
    from PIL import Image

    small = pictures.thumbnail(image_bytes, SIDE, enlarge=True)
    if small is None:
        return _text("not shown", SIDE, _FRAME)
    tile = Image.new("RGB", (SIDE, SIDE), _FRAME)
    tile.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return tile


def _text(text: str, height: int, background: str) -> Any:
    """Returns a picture as wide as a tile with as much of a text as fits on one line."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (SIDE, height), background)
    place = (0, height / 2)
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(strip).text(place, " ".join(text.split()), _INK, font, anchor="lm")
    return strip
