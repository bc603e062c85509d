"""Picture files of any kind to what goes into a data set: upright RGB or grey JPEGs.

A JPEG that TensorFlow decodes to the right pixels keeps its bytes. Anything else (PNG, GIF's first
frame, BMP, WebP; CMYK, palettes, 16 bits, transparency, EXIF rotation) is decoded here and encoded
anew as RGB. Transparent pixels are laid over white.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from typing import Any, NamedTuple

from utils.base.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
QUALITY = 95
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_EXIF_ORIENTATION = 0x0112
# Start-of-frame markers of JPEGs that TensorFlow decodes: baseline, extended, progressive.
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


class Unreadable(Exception):
    """A file that is no picture, or a damaged one; the message says why."""


class Picture(NamedTuple):
    """A picture fit for a data set.

    Attributes:
      encoded: bytes of a JPEG.
      height: in pixels.
      width: in pixels.
      changed: why the bytes are not those of the file, such as 'PNG' or 'CMYK'; None if they are.
    """

    encoded: bytes
    height: int
    width: int
    changed: str | None


def require_pillow() -> None:
    """Loads Pillow's formats; UserError if it is not installed."""
    try:
        from PIL import Image
    except ImportError as e:
        raise UserError("Pictures are read by Pillow: pip install pillow.") from e
    Image.init()  # not left to the first of many threads
    # What matters is an error; damaged EXIF blocks and large pictures are none.
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def fit(data: bytes, upright: bool = True) -> Picture:
    """Returns what goes into the data set for a file's bytes.

    Args:
      data: the file.
      upright: turn pictures as their EXIF orientation says. (ImageNet's users never did.)

    Raises:
      Unreadable: the file is no picture of a known format, or it is damaged.
    """
    from PIL import Image

    if not data:
        raise Unreadable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as e:
        raise Unreadable("this is no JPEG, PNG, GIF, BMP or WebP") from e
    except Exception as e:  # decoders raise errors of many kinds
        raise Unreadable(_reason(e)) from e
    try:
        changed = _change(image, data, upright)
        if changed is None:
            width, height = image.size
            # At an eighth of the scale all bytes are read, but few pixels are made.
            image.draft(None, (1, 1))
            image.load()
            return Picture(data, height, width, None)
        rgb = to_rgb(image, upright)
        return Picture(encode(rgb), rgb.height, rgb.width, changed)
    except Exception as e:  # likewise
        raise Unreadable(_reason(e)) from e


def _change(image: Any, data: bytes, upright: bool) -> str | None:
    """Why a picture cannot keep its bytes; None if it can."""
    if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it
        return image.format
    if image.mode not in ("RGB", "L"):
        return image.mode
    if _frame(data) not in _PLAIN_FRAMES:
        return "unusual JPEG"
    return "EXIF rotation" if upright and _orientation(image) != 1 else None


def _frame(data: bytes) -> int | None:
    """The start-of-frame marker of a JPEG."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker in _PLAIN_FRAMES or marker in _OTHER_FRAMES:
            return marker
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _orientation(image: Any) -> int:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block turns nothing
        return 1
    return orientation if orientation in range(2, 9) else 1


def to_rgb(image: Any, upright: bool = True) -> Any:
    """Pillow's picture as RGB of 8 bits: first frame, turned upright, over white."""
    import numpy as np
    from PIL import Image, ImageOps

    image.load()
    if upright and _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16 bits, which Pillow's own conversion would clip at 255.
        scaled = np.clip(np.rint(np.asarray(image, np.float32) / 257), 0, 255)
        image = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info or image.mode in _WITH_ALPHA:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def encode(image: Any, quality: int = QUALITY, subsampling: int = 0) -> bytes:
    """The JPEG of Pillow's picture; by default at full colour resolution."""
    options = {"quality": quality, "subsampling": subsampling}
    if not hasattr(os, "memfd_create"):
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", **options)
        return encoded.getvalue()
    # Into a file Pillow encodes without Python's lock, so that threads encode side by side.
    with os.fdopen(os.memfd_create("picture"), "w+b") as file:
        image.save(file, "JPEG", **options)
        file.seek(0)
        return file.read()


def _reason(error: Exception) -> str:
    # Pillow names the object it reads from, with its address.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", " these bytes", " ".join(str(error).split()))
    if "truncated" in text.lower():
        return "the file is truncated"
    return text.rstrip(".") or type(error).__name__
