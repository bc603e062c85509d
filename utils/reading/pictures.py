"""Reads picture files of every kind that people have, as a viewer shows them.

This is the one place where the bytes of a file become pixels. So builders of data sets, `classify`,
calibration and reports see the same picture. An RGB or grey JPEG that TensorFlow decodes to the
right pixels keeps its bytes. Pillow decodes anything else: the first frame, turned upright, of
8 bits, over white. Pillow recognizes a file by its content, not by its name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from logging import CRITICAL, getLogger
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from utils.base.errors import UserError

# TensorFlow's decoders of JPEG and PNG refuse a picture of more values (pixels times channels).
MOST_NUMBERS = 2**29 - 1
_CHANNELS = 3  # a grey picture becomes RGB, too


def size_problem(height: int, width: int, channels: int = _CHANNELS) -> str | None:
    """Returns what is wrong with the size that a picture's header claims; None if nothing is."""
    most_pixels = MOST_NUMBERS // max(channels, _CHANNELS)
    if height * width <= most_pixels:
        return None
    return (
        f"the picture has {width} x {height} pixels by its header, and more than {most_pixels} "
        "cannot be decoded: replace it by a smaller one."
    )


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "HEIF")
NAMES = "JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, HEIC or AVIF"
QUALITY = 95
# Brands of the container that HEIC and AVIF files are in, which follow the word ftyp.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")
_BITS, _PHOTOMETRIC, _BANDS, _TILE_WIDTH, _TILE_HEIGHT = 258, 262, 277, 322, 323  # tags of TIFF
_PNG_BEGINNING = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
# Start-of-frame markers of JPEGs that every TensorFlow decodes: baseline, extended, progressive.
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_EXIF_ORIENTATION = 0x0112
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class Unreadable(Exception):
    """Says why a file is not a picture, or why it is damaged."""


class MissingDecoder(UserError):
    """Names the package that reads a format, which is not installed."""


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
    getLogger("PIL").setLevel(CRITICAL)


def fit(data: bytes, upright: bool = True) -> Picture:
    """Returns what goes into the data set for a file's bytes. Call `require_pillow` before.

    Args:
      data: the file.
      upright: turn pictures as their EXIF orientation says. (ImageNet's users never did.)

    Raises:
      Unreadable, MissingDecoder: as `open_picture`; or the pixels are damaged.
    """
    image = open_picture(data)
    with decoder_errors():
        changed = _change(image, data, upright)
        if changed is None:
            width, height = image.size
            # Decoding at an eighth of the size reads all bytes but makes few pixels.
            image.draft(None, (1, 1))
            image.load()
            return Picture(data, height, width, None)
        rgb = _rgb(image, data, upright)
        return Picture(encode(rgb), rgb.height, rgb.width, changed)


def for_tensorflow(data: bytes) -> bytes:
    """Returns bytes that TensorFlow decodes to the pixels that `fit` puts into a data set.

    A file that does not keep its bytes becomes an uncompressed BMP, because that loses nothing and
    takes the least time: 60 ms of a picture of 12 megapixels, and a PNG 500. Call `require_pillow`
    before.

    Raises:
      Unreadable, MissingDecoder: as `fit`, but a damaged JPEG is left to TensorFlow.
    """
    image = open_picture(data)
    with decoder_errors():
        if _change(image, data, upright=True) is None:
            return data
        encoded = io.BytesIO()
        _rgb(image, data).save(encoded, "BMP")
        return encoded.getvalue()


def thumbnail(data: bytes, side: int, enlarge: bool = False) -> Any:
    """Returns Pillow's small RGB picture of one in a record, which EXIF data do not turn.

    Args:
      data: an encoded picture.
      side: of the longer side, in pixels.
      enlarge: whether a picture that is smaller becomes as large, too.

    Returns:
      None if Pillow cannot read the picture; TensorFlow may have read it.
    """
    from PIL import Image

    try:
        image = open_picture(data)
        # A JPEG decodes to half or a quarter of its size in a fraction of the time.
        image.draft("RGB", (3 * side // 2, 3 * side // 2))
        small = _rgb(image, data, upright=False)
        scale = side / max(small.size)
        if scale >= 1 and not enlarge:
            return small
        size = tuple(max(1, round(scale * length)) for length in small.size)
        return small.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    except Exception:  # Pillow's decoders raise errors of many kinds
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


# Opening.


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
            image = Image.open(_file(data), formats=known)
        except Image.UnidentifiedImageError as e:
            _require_decoder(data[4:8], data[8:12])
            raise Unreadable(_unknown(data)) from e
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


def _file(data: bytes) -> io.BytesIO:
    """Returns a file for Pillow: of a PNG, the chunks alone that make its pixels.

    Texts and profiles do not matter here, but Pillow refuses a picture for a large one.
    """
    if not data.startswith(_PNG_BEGINNING):
        return io.BytesIO(data)
    chunks, at = [_PNG_BEGINNING], len(_PNG_BEGINNING)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in _PNG_CHUNKS:
            chunks.append(data[at:end])
        at = end
    return io.BytesIO(b"".join(chunks))


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


def _unknown(data: bytes) -> str:
    """Returns what is known of a file that is not read, and the remedy."""
    from PIL import Image, TiffImagePlugin

    with contextlib.suppress(Exception):  # a damaged header
        if data.startswith(_TIFF_BEGINNINGS):
            tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
            file = io.BytesIO(data)
            file.seek(tags.next)
            tags.load(file)
            return (
                f"this is a TIFF of {tags.get(_BANDS, 1)} bands of {tags[_BITS][0]} bits: save it, "
                "or three bands that you choose, as an RGB PNG"
            )
        return f"this is a {Image.open(io.BytesIO(data)).format} file: convert it to PNG or JPEG"
    return f"this is not a {NAMES}: if it is a picture, convert it to PNG or JPEG"


def _check_sizes(image: Any) -> None:
    """Raises Unreadable if the header claims a picture, or tiles of it, that no memory holds."""
    sizes = [(image.height, image.width)]
    if image.format == "TIFF":
        height, width = (int(image.tag_v2.get(tag, 0)) for tag in (_TILE_HEIGHT, _TILE_WIDTH))
        sizes.append((height, width))
    for height, width in sizes:
        if size_problem(height, width):
            raise Unreadable(f"its header claims {width} x {height} pixels, too many to decode")


def _reason(error: Exception) -> str:
    """Returns what an error of Pillow's says about a file."""
    # Pillow names the object it reads from, with its address.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", " these bytes", " ".join(str(error).split()))
    if "truncated" in text.lower():
        return "the file is truncated"
    return text.rstrip(".") or type(error).__name__


# Which files keep their bytes.


def _change(image: Any, data: bytes, upright: bool) -> str | None:
    """Returns why a picture cannot keep its bytes; None if it can."""
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
    """Returns the EXIF orientation of Pillow's picture, 1 (upright) to 8.

    The pictures of TIFF and HEIC files are upright as soon as they are decoded; Pillow and
    pillow-heif turn them. Pillow's `getexif` would read XMP data, too, by which no viewer turns.
    """
    from PIL import Image

    block = Image.Exif()
    try:
        block.load(image.info.get("exif", b""))
        found = block.get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block turns nothing
        return 1
    return found if found in range(2, 9) else 1


# Pixels.


def _rgb(image: Any, data: bytes, upright: bool = True) -> Any:
    """Returns Pillow's RGB picture of 8 bits: the pixels of a file as a viewer shows them.

    Args:
      image: Pillow's picture of the file, not decoded yet.
      data: the file.
      upright: whether to turn it as its EXIF orientation says.

    Raises:
      Unreadable: the pixels are floating-point numbers, of which nobody knows what is white.
      Exception: of many kinds, from Pillow's decoders; see `decoder_errors`.
    """
    from PIL import Image

    kind, frame = image.format, getattr(image, "dispose_extent", None)  # of a GIF
    stored_as = _orientation(image) if upright else 1
    image = _eight_bits(image, data)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        # Viewers show the colours of a BMP whose alpha channel was never filled in.
        if kind == "BMP" and not image.getextrema()[3][1]:
            image.putalpha(255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if frame and frame != (0, 0, *image.size):
        # Pillow fills the rest of the screen with the palette's first colour.
        screen = Image.new("RGB", image.size, "white")
        screen.paste(image.crop(frame), frame)
        image = screen
    return _turned(image, stored_as)


def _eight_bits(image: Any, data: bytes) -> Any:
    """Returns Pillow's picture decoded, with 8 bits a channel; arguments as of `_rgb`."""
    white = _correct_layout(image)
    tiles = image.tile  # how the pixels are stored; decoding empties it
    image.load()
    if image.mode.startswith("F"):
        raise Unreadable("its pixels are floating-point numbers: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _eight_bits_of_grey(image, white)
    if tiles and image.format in ("PNG", "TIFF", "PPM"):
        channels, _, bits = _layout(tiles[0]).partition(";")
        if bits.startswith("16") and channels in ("RGB", "RGBX", "RGBA", "R", "LA"):
            return _eight_bits_of_colours(image, data, tiles, white)
    return image


def _layout(tile: Any) -> str:
    """Returns Pillow's name for how pixels are stored, such as 'RGB;16B' (big-endian)."""
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _with_layout(tile: Any, layout: str) -> Any:
    more = () if isinstance(tile.args, str) else tile.args[1:]
    return tile._replace(args=(layout, *more))


def _correct_layout(image: Any) -> int | None:
    """Corrects what Pillow takes for the layout of some pictures of 16 bits.

    Returns:
      The value that is white, if the file says so.
    """
    if image.format == "PPM" and image.mode in ("I", "RGB"):
        (tile,) = image.tile
        if tile.codec_name == "raw" or tile.args[1] < 256:
            return None
        white = tile.args[1] if tile.args[1] < 65535 else None
        if tile.codec_name == "ppm_plain":  # Pillow scales grey to 16 bits, and colours to 8
            return None if white is None else 65535
        # Python would decode it, in half a minute for 12 megapixels.
        layout = "I;16B" if image.mode == "I" else "RGB;16B"
        image.tile = [tile._replace(codec_name="raw", args=layout)]
        return white
    if image.format == "TIFF" and image.tag_v2.get(_BITS, (0,))[0] == 16:
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        # Pillow takes channels that are stored apart for 8 bits.
        image.tile = [
            _with_layout(tile, f"{_layout(tile)};16{order}") if len(_layout(tile)) == 1 else tile
            for tile in image.tile
        ]
    return None


def _eight_bits_of_grey(image: Any, white: int | None) -> Any:
    """Returns Pillow's grey picture of 16 or 32 bits with 8."""
    from PIL import Image, ImageOps

    values = np.asarray(image, np.float32)
    grey = Image.fromarray(_scaled(values, white))
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # 0 is white
        grey = ImageOps.invert(grey)
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
    return grey


def _eight_bits_of_colours(image: Any, data: bytes, tiles: list[Any], white: int | None) -> Any:
    """Returns Pillow's picture of channels of 16 bits, of which it has decoded the upper bytes."""
    from PIL import Image

    upper = np.asarray(image)
    if white is None and upper[..., :3].max(initial=0) >= 64:  # more than 14 bits are used
        return image

    def lower_bytes(layout: str) -> str:
        if layout == "LA;16B":
            return "RGBA"  # both bytes of both
        return layout[:-1] + ("L" if layout.endswith("B") else "B")  # the other order

    again: Any = Image.open(_file(data), formats=[image.format])
    again.tile = [_with_layout(tile, lower_bytes(_layout(tile))) for tile in tiles]
    again.load()
    is_grey = _layout(tiles[0]) == "LA;16B"
    lower = np.asarray(again)[..., 1:2] if is_grey else np.asarray(again)[..., :3]
    values = upper[..., :3] * np.float32(256) + lower
    return Image.fromarray(np.dstack([_scaled(values, white), upper[..., 3:]]))


def _scaled(values: np.ndarray, white: int | None) -> np.ndarray:
    """Returns values scaled to uint8 in [0, 255]; 255 is `white`, or else what their bits hold.

    Cameras and microscopes store 10, 12 or 14 bits in 16, which would be nearly black.
    """
    if white is None:
        bits = max(8, int(values.max(initial=0)).bit_length())
        bits += bits % 2
        if bits < 16:
            logging.log_first_n(
                logging.INFO,
                "A picture of 16 bits uses %d of them: such pictures are scaled by "
                "the bits that they use.",
                1,
                bits,
            )
        white = 2**bits - 1
    return np.rint(np.clip(values * (255 / white), 0, 255)).astype(np.uint8)


def _turned(image: Any, stored_as: int) -> Any:
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
