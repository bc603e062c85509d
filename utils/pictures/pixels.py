"""Makes upright RGB pixels of a picture that Pillow opened."""

from __future__ import annotations

import io
from typing import Any

from utils.pictures.opening import Unreadable

_EXIF_ORIENTATION = 0x0112
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def orientation(image: Any) -> int:
    """Returns the EXIF orientation of Pillow's picture, 1 (upright) to 8.

    The pictures of TIFF and HEIC files are upright as soon as they are decoded; Pillow and
    pillow-heif turn them.
    """
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block turns nothing
        return 1
    return found if found in range(2, 9) else 1


def turned(image: Any, stored_as: int) -> Any:
    """Returns Pillow's picture turned upright from an EXIF orientation of 1 to 8."""
    from PIL import Image

    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(methods[stored_as]) if stored_as in methods else image


def to_rgb(image: Any, upright: bool = True) -> Any:
    """Returns Pillow's picture as RGB of 8 bits: first frame, turned upright, over white.

    Args:
      image: Pillow's picture, decoded or not yet.
      upright: whether to turn it as its EXIF orientation says.

    Raises:
      Unreadable: the pixels are floating-point numbers, of which nobody knows what is white.
      Exception: of many kinds, from Pillow's decoders; see `opening.decoder_errors`.
    """
    import numpy as np
    from PIL import Image

    image.load()
    if image.mode.startswith("F"):
        raise Unreadable("its pixels are floating-point numbers: save it with 8 or 16 bits")
    if upright:
        image = turned(image, orientation(image))
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip the 16 bits at 255.
        scaled = np.clip(np.rint(np.asarray(image, np.float32) / 257), 0, 255)
        image = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info or image.mode in _WITH_ALPHA:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def thumbnail(image_bytes: bytes, side: int, enlarge: bool = False) -> Any:
    """Returns Pillow's small RGB picture as training sees it, not turned by EXIF.

    Args:
      image_bytes: an encoded picture.
      side: of the longer side, in pixels.
      enlarge: whether a picture that is smaller becomes as large, too.

    Returns:
      None if Pillow cannot read the picture; TensorFlow may have read it.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(image_bytes))
        # A JPEG decodes to half or a quarter of its size in a fraction of the time.
        image.draft("RGB", (3 * side // 2, 3 * side // 2))
        small = to_rgb(image, upright=False)
        scale = side / max(small.size)
        if scale >= 1 and not enlarge:
            return small
        size = tuple(max(1, round(scale * length)) for length in small.size)
        return small.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    except Exception:  # Pillow's decoders raise errors of many kinds
        return None
