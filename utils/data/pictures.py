"""Turns picture files of any kind into what a data set holds: upright RGB or grey JPEGs.

If TensorFlow decodes a JPEG to the right pixels, the JPEG keeps its bytes. Anything else (PNG, the
first frame of a GIF, BMP, WebP; CMYK, palettes, 16 bits, transparency, EXIF rotation) is decoded
here and encoded anew as RGB. Transparent pixels are laid over white.
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
    """Says why a file is not a picture, or why it is damaged."""


class Picture(NamedTuple):
    """A picture fit for a data set.

    Attributes:
      encoded: bytes of a JPEG.
      height: in pixels.
      width: in pixels.
      changed: why the picture was encoded anew, such as 'PNG' or 'CMYK'; None if the bytes are
        those of the file.
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
    # Pillow warns of damaged EXIF blocks and large pictures; what matters here is an error.
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def fit(data: bytes, upright: bool = True) -> Picture:
    """Returns what goes into the data set for a file's bytes.

    Args:
      data: the file.
      upright: turn pictures as their EXIF orientation says. (ImageNet's users never did.)

    Raises:
      Unreadable: the file is not a picture of a known format, or it is damaged.
    """
    from PIL import Image

    if not data:
        raise Unreadable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as e:
        raise Unreadable("this is not a JPEG, PNG, GIF, BMP or WebP") from e
    except Exception as e:  # decoders raise errors of many kinds
        raise Unreadable(_reason(e)) from e
    try:
        changed = _change(image, data, upright)
        if changed is None:
            width, height = image.size
            # Decoding at an eighth of the size reads all bytes but makes few pixels.
            image.draft(None, (1, 1))
            image.load()
            return Picture(data, height, width, None)
        rgb = to_rgb(image, upright)
        return Picture(encode(rgb), rgb.height, rgb.width, changed)
    except Exception as e:  # of many kinds here, too
        raise Unreadable(_reason(e)) from e


def _change(image: Any, data: bytes, upright: bool) -> str | None:
    """Says why a picture cannot keep its bytes; None if it can."""
    if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it
        return image.format
    if image.mode not in ("RGB", "L"):
        return image.mode
    if _frame(data) not in _PLAIN_FRAMES:
        return "unusual JPEG"
    return "EXIF rotation" if upright and _orientation(image) != 1 else None


def _frame(data: bytes) -> int | None:
    """Returns the start-of-frame marker of a JPEG; None if there is none."""
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
    """Returns the EXIF orientation, 1 (upright) to 8."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block turns nothing
        return 1
    return orientation if orientation in range(2, 9) else 1


def to_rgb(image: Any, upright: bool = True) -> Any:
    """Returns Pillow's picture as RGB of 8 bits: first frame, turned upright, over white."""
    import numpy as np
    from PIL import Image, ImageOps

    image.load()
    if upright and _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip the 16 bits at 255.
        scaled = np.clip(np.rint(np.asarray(image, np.float32) / 257), 0, 255)
        image = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info or image.mode in _WITH_ALPHA:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def encode(image: Any, quality: int = QUALITY, subsampling: int = 0) -> bytes:
    """Returns the JPEG of Pillow's picture, by default at full colour resolution.

    Args:
      image: Pillow's picture.
      quality: 1 to 95.
      subsampling: of the colours: 0 for none, 2 for half the resolution both ways.
    """
    options = {"quality": quality, "subsampling": subsampling}
    if not hasattr(os, "memfd_create"):
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", **options)
        return encoded.getvalue()
    # Pillow releases Python's lock only when it writes into a file: threads encode in parallel.
    with os.fdopen(os.memfd_create("picture"), "w+b") as file:
        image.save(file, "JPEG", **options)
        file.seek(0)
        return file.read()


def _reason(error: Exception) -> str:
    """Returns what an error of Pillow's says about a file."""
    # Pillow names the object it reads from, with its address.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", " these bytes", " ".join(str(error).split()))
    if "truncated" in text.lower():
        return "the file is truncated"
    return text.rstrip(".") or type(error).__name__
