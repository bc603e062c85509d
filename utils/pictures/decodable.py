"""Makes bytes of any picture file that TensorFlow decodes to the upright picture.

A file keeps its bytes if TensorFlow decodes them so. Else it becomes an uncompressed BMP, because
that loses nothing and takes the least time: 60 ms of a picture of 12 megapixels, and a PNG 500.
"""

from __future__ import annotations

import io
from typing import Any

from utils.base.tensorflow_version import importing_later, tf
from utils.pictures import opening, pixels

with importing_later():
    import preprocessing

# What files begin with that TensorFlow decodes. It ignores the palette of a BMP.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")


def for_tensorflow(data: bytes) -> bytes:
    """Returns bytes that TensorFlow decodes to the upright picture of a file of any format.

    Call `opening.require_pillow` before. A JPEG, PNG or GIF that is damaged keeps its bytes:
    TensorFlow says what is wrong.

    Args:
      data: the file.

    Raises:
      Unreadable, MissingDecoder: as `opening.open_picture`.
    """
    if data.startswith(_BEGINNINGS):
        return upright(data)
    with opening.decoder_errors():
        return _bmp(pixels.to_rgb(opening.open_picture(data)))


def upright(data: bytes) -> bytes:
    """Returns the bytes of a picture that TensorFlow decodes, turned as EXIF says.

    A picture without an orientation, or that cannot be decoded, keeps its bytes. The pixels of any
    other are those that TensorFlow decodes. Call `opening.require_pillow` before.
    """
    try:
        stored_as = pixels.orientation(opening.open_picture(data))
    except opening.Unreadable:
        return data
    if stored_as == 1:
        return data
    decoded = _decoded(data)
    return data if decoded is None else _bmp(pixels.turned(decoded, stored_as))


def _decoded(data: bytes) -> Any:
    """Returns Pillow's picture of the pixels that TensorFlow decodes; None if it decodes none."""
    from PIL import Image

    with tf.Graph().as_default(), tf.Session() as session:
        try:
            return Image.fromarray(session.run(preprocessing.decode_whole(tf.constant(data))))
        except tf.errors.OpError:
            return None


def _bmp(image: Any) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "BMP")
    return encoded.getvalue()
