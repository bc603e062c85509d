"""Opens picture files of every format that Pillow decodes, within limits of size.

Pillow recognizes a file by its content, not by its name. HEIC, the format of iPhones, needs the
package pillow-heif as well.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

from utils.base.errors import UserError
from utils.reading import picture_limits

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF")
NAMES = "JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC or AVIF"
# Brands of the container that HEIC and AVIF files are in, which follow the word ftyp.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_TILE_TAGS = (323, 322)  # height and width of a TIFF's tiles


class Unreadable(Exception):
    """Says why a file is not a picture, or why it is damaged."""


class MissingDecoder(UserError):
    """Names the package that reads a format, which is not installed."""


def require_pillow() -> None:
    """Loads Pillow's formats, and HEIC if pillow-heif is installed.

    Raises:
      UserError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise UserError("Pictures are read by Pillow: pip install pillow.") from e
    Image.init()  # not left to the first of many threads
    with contextlib.suppress(ImportError):  # the first HEIC picture says so
        import pillow_heif

        pillow_heif.register_heif_opener()
    # Pillow warns of damaged EXIF blocks and large pictures; what matters here is an error.
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def open_picture(data: bytes) -> Any:
    """Returns Pillow's picture of a file's bytes, of which only the header is read yet.

    Call `require_pillow` before, and have the pixels decoded within `decoder_errors`.

    Raises:
      Unreadable: the file is not a picture of a known format, it is damaged, or it claims more
        pixels than can be decoded.
      MissingDecoder: the package that reads this format is not installed.
    """
    from PIL import Image

    if not data:
        raise Unreadable("the file is empty")
    known = [name for name in FORMATS if name in Image.OPEN]
    with decoder_errors():
        try:
            image = Image.open(io.BytesIO(data), formats=known)
        except Image.UnidentifiedImageError as e:
            _require_decoder(data[4:8], data[8:12])
            raise Unreadable(f"this is not a {NAMES}") from e
        _check_sizes(image)
    return image


@contextlib.contextmanager
def decoder_errors() -> Iterator[None]:
    """Makes errors of Pillow's decoders, which are of many kinds, `Unreadable`."""
    try:
        yield
    except (Unreadable, MissingDecoder):
        raise
    except Exception as e:
        raise Unreadable(_reason(e)) from e


def _require_decoder(box: bytes, brand: bytes) -> None:
    """Raises MissingDecoder if that is why a file was not recognized."""
    from PIL import Image, features

    if box != b"ftyp":
        return
    if brand in _HEIC_BRANDS and "HEIF" not in Image.OPEN:
        raise MissingDecoder("HEIC pictures are read by pillow-heif: pip install pillow-heif.")
    if brand in _AVIF_BRANDS and not features.check("avif"):
        raise MissingDecoder(
            "AVIF pictures are read by Pillow 11.3 or later: pip install -U pillow."
        )


def _check_sizes(image: Any) -> None:
    """Raises Unreadable if the header claims a picture, or tiles of it, that no memory holds."""
    sizes = [(image.height, image.width)]
    if image.format == "TIFF":
        height, width = (int(image.tag_v2.get(tag, 0)) for tag in _TILE_TAGS)
        sizes.append((height, width))
    for height, width in sizes:
        if picture_limits.size_problem(height, width):
            raise Unreadable(f"its header claims {width} x {height} pixels, too many to decode")


def _reason(error: Exception) -> str:
    """Returns what an error of Pillow's says about a file."""
    # Pillow names the object it reads from, with its address.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", " these bytes", " ".join(str(error).split()))
    if "truncated" in text.lower():
        return "the file is truncated"
    return text.rstrip(".") or type(error).__name__
