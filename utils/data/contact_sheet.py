"""A PNG of many small pictures, each with its label under it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

from utils.base import files
from utils.data import pictures

COLUMNS, ROWS = 8, 6
_SIDE, _GAP, _TEXT, _TITLE = 160, 14, 22, 48  # pixels
_BACKGROUND, _FRAME, _INK, _FAINT = "#ffffff", "#f1f3f5", "#212529", "#868e96"


def write(path: str, title: str, tiles: Sequence[tuple[bytes, str]]) -> None:
    """Draws encoded pictures with their captions; UserError if the file cannot be written."""
    pictures.require_pillow()
    encoded = io.BytesIO()
    draw(title, tiles).save(encoded, "PNG")
    files.write_bytes(path, encoded.getvalue())


def draw(title: str, tiles: Sequence[tuple[bytes, str]]) -> Any:
    """Pillow's picture of the sheet."""
    from PIL import Image, ImageDraw

    rows = -(-len(tiles) // COLUMNS)
    size = (
        COLUMNS * (_SIDE + _GAP) + _GAP,
        _TITLE + rows * (_SIDE + _TEXT + _GAP) + _GAP,
    )
    sheet = Image.new("RGB", size, _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_GAP, _TITLE / 2), _shorten(title, _font(20), size[0] - 2 * _GAP), _INK,
                _font(20), anchor="lm")  # fmt: skip
    for number, (image_bytes, caption) in enumerate(tiles):
        left = _GAP + number % COLUMNS * (_SIDE + _GAP)
        top = _TITLE + number // COLUMNS * (_SIDE + _TEXT + _GAP)
        _draw_tile(sheet, canvas, left, top, image_bytes, caption)
    return sheet


def _draw_tile(sheet, canvas, left: int, top: int, image_bytes: bytes, caption: str) -> None:
    canvas.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), _FRAME)
    small = _thumbnail(image_bytes)
    if small is None:
        middle = (left + _SIDE / 2, top + _SIDE / 2)
        canvas.text(middle, "not shown", _FAINT, _font(13), anchor="mm")
    else:
        sheet.paste(small, (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2))
    text = _shorten(caption, _font(13), _SIDE)
    canvas.text((left, top + _SIDE + _TEXT / 2), text, _INK, _font(13), anchor="lm")


def _thumbnail(image_bytes: bytes) -> Any:
    """The picture as training sees it (not turned by EXIF data); None if Pillow cannot read it."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(image_bytes))
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        small = pictures.to_rgb(image, upright=False)
        scale = _SIDE / max(small.size)
        size = tuple(max(1, round(scale * side)) for side in small.size)
        return small.resize(size, Image.Resampling.LANCZOS)
    except Exception:  # Pillow's decoders raise errors of many kinds; TensorFlow's could read it
        return None


def _font(size: int) -> Any:
    """DejaVu, which has most alphabets, where matplotlib is installed; else Pillow's own."""
    from PIL import ImageFont

    try:
        import matplotlib

        path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
        return ImageFont.truetype(path, size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def _shorten(text: str, font, width: float) -> str:
    """As much of a text as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
