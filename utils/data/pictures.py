"""Turns picture files of any kind into what a data set holds: upright RGB or grey JPEGs.

If TensorFlow decodes a JPEG to the right pixels, the JPEG keeps its bytes. Anything else (PNG, the
first frame of a GIF, BMP, WebP, TIFF, HEIC, AVIF; CMYK, palettes, 16 bits, transparency, EXIF
rotation) is decoded here and encoded anew as RGB. Transparent pixels are laid over white.
"""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

from utils.pictures import opening, pixels

QUALITY = 95
# Start-of-frame markers of JPEGs that every TensorFlow decodes: baseline, extended, progressive.
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


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


def fit(data: bytes, upright: bool = True) -> Picture:
    """Returns what goes into the data set for a file's bytes.

    Args:
      data: the file.
      upright: turn pictures as their EXIF orientation says. (ImageNet's users never did.)

    Raises:
      Unreadable: the file is not a picture of a known format, or it is damaged.
      MissingDecoder: the package that reads this format is not installed.
    """
    image = opening.open_picture(data)
    with opening.decoder_errors():
        changed = _change(image, data, upright)
        if changed is None:
            width, height = image.size
            # Decoding at an eighth of the size reads all bytes but makes few pixels.
            image.draft(None, (1, 1))
            image.load()
            return Picture(data, height, width, None)
        rgb = pixels.to_rgb(image, upright)
        return Picture(encode(rgb), rgb.height, rgb.width, changed)


def _change(image: Any, data: bytes, upright: bool) -> str | None:
    """Says why a picture cannot keep its bytes; None if it can."""
    if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it
        return image.format
    if image.mode not in ("RGB", "L"):
        return image.mode
    if _frame(data) not in _PLAIN_FRAMES:
        return "unusual JPEG"
    return "EXIF rotation" if upright and pixels.orientation(image) != 1 else None


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
