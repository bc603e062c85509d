"""Makes picture files of every kind, with the pixels that each shows, from NumPy alone."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
WIDTH, HEIGHT = 120, 90
# How to save pictures of lossy formats with pixels close to those given.
FINE: dict[str, dict] = {
    "TIFF": {},
    "AVIF": {"quality": 95},
    "HEIF": {"quality": 95, "chroma": 444},
}
# How each EXIF orientation stores an upright picture.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


class Kind(NamedTuple):
    """A file, the RGB pixels it shows, and why it cannot keep its bytes (None if it can)."""

    data: bytes
    pixels: np.ndarray
    changed: str | None


def smooth(seed: int = 0) -> np.ndarray:
    """Returns uint8 [HEIGHT, WIDTH, 3] without symmetry, smooth enough for JPEG."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(20, 236, (3, 4, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def save(image, kind: str, **options) -> bytes:
    """Encodes Pillow's picture, or pixels."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(seed: int = 0, **options) -> bytes:
    """Returns a plain JPEG."""
    return save(smooth(seed), "JPEG", quality=95, **options)


def exif(orientation: int) -> Image.Exif:
    """Returns an EXIF block with an orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png16(values: np.ndarray) -> bytes:
    """Returns a PNG of 16 bits, which Pillow cannot write, from uint16 [H, W, channels]."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_with(chunk: bytes) -> bytes:
    """Returns a small PNG with a further chunk after its header."""
    data = save(smooth(), "PNG")
    return data[:33] + chunk + data[33:]


def tiff16(values: np.ndarray, photometric: int, order: str = "<", apart: bool = False) -> bytes:
    """Returns a TIFF of 16 bits, which Pillow writes only of grey, from uint16 [H, W, channels].

    Args:
      values: the numbers as stored.
      photometric: 0 if zero is white, 1 for grey, 2 for RGB.
      order: of the bytes: '<' or '>'.
      apart: whether each channel is stored by itself.
    """
    height, width, channels = values.shape
    strips = [values[..., [c]] for c in range(channels)] if apart else [values]
    encoded = [strip.astype(f"{order}u2").tobytes() for strip in strips]
    start = 8 + 2 + 12 * 10 + 4
    first = start + 2 * channels + 8 * len(encoded)
    offsets = [first + n * len(encoded[0]) for n in range(len(encoded))]
    lists = {
        258: ("H", [16] * channels),
        273: ("I", offsets),
        279: ("I", [len(encoded[0])] * len(encoded)),
    }
    numbers = {
        256: width,
        257: height,
        259: 1,
        262: photometric,
        277: channels,
        278: height,
        284: 2 if apart else 1,
    }
    entries, behind = b"", b""
    for tag in sorted({*lists, *numbers}):
        kind, content = lists.get(tag, ("I", [numbers.get(tag, 0)]))
        packed = struct.pack(f"{order}{len(content)}{kind}", *content)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(content))
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", start + len(behind))
            behind += packed
    header = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, 10)
    return (header + entries + bytes(4) + behind).ljust(first, b"\0") + b"".join(encoded)


def bmp32_without_alpha(pixels: np.ndarray) -> bytes:
    """Returns a BMP of RGBA pixels whose alpha is 0 everywhere, as grabbers of screens write."""
    height, width, _ = pixels.shape
    rows = np.dstack([pixels[::-1, :, ::-1], np.zeros((height, width), np.uint8)]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    numbers = (108, width, height, 1, 32, 3, len(rows), 2835, 2835, 0, 0, *masks)
    header = struct.pack("<IiiHHIIiiIIIIII", *numbers) + b" niW" + bytes(48)
    return struct.pack("<2sIHHI", b"BM", 122 + len(rows), 0, 0, 122) + header + rows


def gif_on_screen(image: Image.Image, width: int, height: int) -> bytes:
    """Returns a GIF whose frame is at the top left of a larger screen."""
    data = save(image, "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def jpeg_turned_by_xmp(pixels: np.ndarray) -> bytes:
    """Returns a JPEG with an orientation in its XMP data alone, by which no viewer turns it."""
    text = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = save(pixels, "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(text) + 2) + text + data[2:]


def jpeg_claiming(width: int, height: int, **options) -> bytes:
    """Returns a small JPEG whose header claims another size; decoders fill the rest with grey."""
    data = bytearray(jpeg(**options))
    at = 2  # after the marker that every JPEG begins with
    while data[at + 1] not in (0xC0, 0xC2):  # the frame's header, baseline or progressive
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_claiming(width: int, height: int) -> bytes:
    """Returns a small PNG whose header claims another size, with the right checksum."""
    data = bytearray(save(smooth(), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def gif_claiming(width: int, height: int) -> bytes:
    """Returns a small GIF whose header and first frame claim another size."""
    data = bytearray(save(smooth()[..., 0], "GIF"))
    frame = data.index(struct.pack("<BHHHH", 0x2C, 0, 0, WIDTH, HEIGHT))
    data[6:10] = data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_claiming(width: int, height: int) -> bytes:
    """Returns a small BMP whose header claims another size."""
    data = bytearray(save(smooth(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """Returns a small WebP whose header claims another size."""
    data = bytearray(save(smooth(), "WEBP", exif=exif(1)))  # EXIF brings the extended header
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def tiff_claiming(width: int, height: int) -> bytes:
    """Returns a small TIFF whose header claims another size."""
    data = bytearray(save(smooth(), "TIFF"))
    for tag, was, now in ((256, WIDTH, width), (257, HEIGHT, height)):
        at = data.index(struct.pack("<HHII", tag, 4, 1, was))
        data[at + 8 : at + 12] = struct.pack("<I", now)
    return bytes(data)


def tiled_tiff(side: int) -> bytes:
    """Returns a black TIFF of 8 x 8 pixels, which is one compressed tile of another size."""
    compressor = zlib.compressobj(9)
    rows = [compressor.compress(b"\0" * 3 * side) for _ in range(side)]
    data = b"".join([*rows, compressor.flush()])
    tags = (
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 2),
        (277, 3),
        (284, 1),
        (322, side),
        (323, side),
    )
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries[2] = struct.pack("<HHII", 258, 3, 3, start)  # bits of three channels
    entries += [
        struct.pack("<HHII", 324, 4, 1, start + 6),
        struct.pack("<HHII", 325, 4, 1, len(data)),
    ]
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return header + b"".join(entries) + bytes(4) + struct.pack("<HHH", 8, 8, 8) + data


def iso_claiming(kind: str, width: int, height: int) -> bytes:
    """Returns a small AVIF or HEIF whose property of the size claims another one."""
    data = bytearray(save(smooth(), kind))
    at = data.index(b"ispe") + 8
    while at > 7:
        data[at : at + 8] = struct.pack(">II", width, height)
        at = data.find(b"ispe", at) + 8
    return bytes(data)


# Headers that claim more pixels than can be decoded: 30000 x 30000, and one row too many.
GIGANTIC = {
    "jpeg": jpeg_claiming(30000, 30000),
    "progressive jpeg": jpeg_claiming(30000, 30000, progressive=True),
    "jpeg beyond the limit by a row": jpeg_claiming(13377, 13378),
    "png": png_claiming(30000, 30000),
    "gif": gif_claiming(30000, 30000),
    "bmp": bmp_claiming(30000, 30000),
    "webp": webp_claiming(16000, 16000),
    "tiff": tiff_claiming(30000, 30000),
    "tiff of gigantic tiles": tiled_tiff(16000),
    "avif": iso_claiming("AVIF", 30000, 30000),
    "heic": iso_claiming("HEIF", 30000, 30000),
}


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Returns what pixels look like over white; alpha is in [0, 255]."""
    share = alpha[..., np.newaxis] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


def kinds() -> dict[str, Kind]:
    """Returns all kinds of picture files by name."""
    rgb = smooth()
    image = Image.fromarray(rgb)
    gray = np.repeat(np.asarray(image.convert("L"))[..., np.newaxis], 3, 2)
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    rgba = np.dstack([rgb, alpha])
    palette = image.quantize(32)
    paletted = np.asarray(palette.convert("RGB"))
    hole = int(np.bincount(np.asarray(palette).ravel()).argmax())
    holed = np.where((np.asarray(palette) == hole)[..., np.newaxis], 255, paletted)
    wide = rgb.astype(np.uint16) * 257
    wide_alpha = alpha.astype(np.uint16)[..., np.newaxis] * 257
    bits = image.convert("1")
    ramp = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 6).reshape(HEIGHT, WIDTH, 1)
    ramp8 = np.repeat(np.rint(ramp / 257).astype(np.uint8), 3, 2)
    later = Image.fromarray(255 - rgb).quantize(32)
    # Cameras and microscopes use a part of the 16 bits.
    bits12 = rgb.astype(np.uint16) * 16 + 15
    bits10 = rgb.astype(np.uint16) * 4 + 3
    grey12, grey10 = bits12[..., :1], bits10[..., :1]
    first = np.repeat(rgb[..., :1], 3, 2)
    size = f"{WIDTH} {HEIGHT}".encode()
    dark = b"P5 %s 4095\n%s" % (size, (grey12 // 8).astype(">u2").tobytes())
    screen = np.full((2 * HEIGHT, 2 * WIDTH, 3), 255, np.uint8)
    screen[:HEIGHT, :WIDTH] = paletted
    noise = b"a" * 3_000_000
    found = {
        "jpeg": Kind(save(rgb, "JPEG", quality=95), rgb, None),
        "jpeg 4:4:4": Kind(save(rgb, "JPEG", quality=95, subsampling=0), rgb, None),
        "jpeg grey": Kind(save(gray[..., 0], "JPEG", quality=95), gray, None),
        "jpeg progressive": Kind(save(rgb, "JPEG", quality=95, progressive=True), rgb, None),
        "jpeg CMYK": Kind(save(image.convert("CMYK"), "JPEG", quality=95), rgb, "CMYK"),
        "png": Kind(save(rgb, "PNG"), rgb, "PNG"),
        "png grey": Kind(save(gray[..., 0], "PNG"), gray, "PNG"),
        "png 1 bit": Kind(
            save(bits, "PNG"),
            np.repeat(np.asarray(bits)[..., np.newaxis] * np.uint8(255), 3, 2),
            "PNG",
        ),
        "png palette": Kind(save(palette, "PNG"), paletted, "PNG"),
        "png palette with a hole": Kind(save(palette, "PNG", transparency=hole), holed, "PNG"),
        "png RGBA": Kind(save(rgba, "PNG"), over_white(rgb, alpha), "PNG"),
        "png LA": Kind(
            save(Image.fromarray(np.dstack([gray[..., 0], alpha]), "LA"), "PNG"),
            over_white(gray, alpha),
            "PNG",
        ),
        "png grey 16 bits": Kind(png16(ramp), ramp8, "PNG"),
        "png RGB 16 bits": Kind(png16(wide), rgb, "PNG"),
        "png RGBA 16 bits": Kind(
            png16(np.dstack([wide, wide_alpha])), over_white(rgb, alpha), "PNG"
        ),
        "png EXIF": Kind(save(STORED[6](rgb), "PNG", exif=exif(6)), rgb, "PNG"),
        "gif": Kind(save(palette, "GIF"), paletted, "GIF"),
        "gif of two frames": Kind(
            save(palette, "GIF", save_all=True, append_images=[later]), paletted, "GIF"
        ),
        "bmp": Kind(save(rgb, "BMP"), rgb, "BMP"),
        "gif with a hole": Kind(save(palette, "GIF", transparency=hole), holed, "GIF"),
        "gif smaller than its screen": Kind(
            gif_on_screen(palette, 2 * WIDTH, 2 * HEIGHT), screen, "GIF"
        ),
        "bmp of alpha 0": Kind(bmp32_without_alpha(rgb), rgb, "BMP"),
        "ppm": Kind(save(rgb, "PPM"), rgb, "PPM"),
        "pgm": Kind(save(gray[..., 0], "PPM"), gray, "PPM"),
        "pbm 1 bit": Kind(
            save(bits, "PPM"),
            np.repeat(np.asarray(bits)[..., np.newaxis] * np.uint8(255), 3, 2),
            "PPM",
        ),
        "pbm 1 bit as text": Kind(
            b"P1 %s\n%s" % (size, " ".join("10"[bit] for bit in np.asarray(bits).ravel()).encode()),
            np.repeat(np.asarray(bits)[..., np.newaxis] * np.uint8(255), 3, 2),
            "PPM",
        ),
        "ppm as text": Kind(
            b"P3 %s 255\n%s" % (size, " ".join(map(str, rgb.ravel())).encode()), rgb, "PPM"
        ),
        "pgm 12 of 16 bits": Kind(
            b"P5 %s 65535\n%s" % (size, grey12.astype(">u2").tobytes()), first, "PPM"
        ),
        "pgm 12 bits": Kind(
            b"P5 %s 4095\n%s" % (size, grey12.astype(">u2").tobytes()), first, "PPM"
        ),
        "pgm 12 bits dark": Kind(dark, first // 8, "PPM"),
        "png grey 12 bits": Kind(png16(grey12), first, "PNG"),
        "png grey 10 bits": Kind(png16(grey10), first, "PNG"),
        "png RGB 12 bits": Kind(png16(bits12), rgb, "PNG"),
        "png RGBA 10 bits": Kind(
            png16(np.dstack([bits10, wide_alpha])), over_white(rgb, alpha), "PNG"
        ),
        "png LA 12 bits": Kind(
            png16(np.dstack([grey12, wide_alpha])), over_white(first, alpha), "PNG"
        ),
        "tiff grey 12 bits": Kind(tiff16(grey12, 1), first, "TIFF"),
        "tiff grey 12 bits, 0 is white": Kind(tiff16(4095 - grey12, 0), first, "TIFF"),
        "tiff grey 16 bits, big-endian": Kind(tiff16(ramp, 1, ">"), ramp8, "TIFF"),
        "tiff RGB 16 bits, big-endian": Kind(tiff16(wide, 2, ">"), rgb, "TIFF"),
        "tiff RGB 12 bits": Kind(tiff16(bits12, 2), rgb, "TIFF"),
        "tiff RGB 10 bits, big-endian": Kind(tiff16(bits10, 2, ">"), rgb, "TIFF"),
        "tiff RGB 16 bits, channels apart": Kind(tiff16(wide, 2, apart=True), rgb, "TIFF"),
        "tiff RGB 12 bits, channels apart": Kind(tiff16(bits12, 2, ">", apart=True), rgb, "TIFF"),
        "ppm 12 bits": Kind(b"P6 %s 4095\n%s" % (size, bits12.astype(">u2").tobytes()), rgb, "PPM"),
        "ppm 12 of 16 bits": Kind(
            b"P6 %s 65535\n%s" % (size, bits12.astype(">u2").tobytes()), rgb, "PPM"
        ),
        "pgm 12 bits as text": Kind(
            b"P2 %s 4095\n%s" % (size, " ".join(map(str, grey12.ravel())).encode()), first, "PPM"
        ),
        "tiff 32 bits": Kind(
            save(Image.fromarray(ramp[..., 0].astype(np.int32)), "TIFF"), ramp8, "TIFF"
        ),
        "png of a large profile": Kind(
            png_with(png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(noise))), rgb, "PNG"
        ),
        "png of a large text": Kind(
            png_with(png_chunk(b"zTXt", b"prompt\0\0" + zlib.compress(noise))), rgb, "PNG"
        ),
        "png of a damaged text": Kind(
            png_with(png_chunk(b"tEXt", b"a\0b")[:-1] + b"!"), rgb, "PNG"
        ),
        "png of two frames": Kind(
            save(rgb, "PNG", save_all=True, append_images=[Image.fromarray(255 - rgb)]), rgb, "PNG"
        ),
        "webp of two frames": Kind(
            save(
                rgb,
                "WEBP",
                save_all=True,
                append_images=[Image.fromarray(255 - rgb)],
                lossless=True,
            ),
            rgb,
            "WEBP",
        ),
        "jpeg turned by XMP alone": Kind(jpeg_turned_by_xmp(rgb), rgb, None),
        "webp": Kind(save(rgb, "WEBP", lossless=True), rgb, "WEBP"),
        "webp RGBA": Kind(
            save(rgba, "WEBP", lossless=True, exact=True), over_white(rgb, alpha), "WEBP"
        ),
        "webp EXIF": Kind(save(STORED[6](rgb), "WEBP", lossless=True, exif=exif(6)), rgb, "WEBP"),
        "tiff": Kind(save(rgb, "TIFF"), rgb, "TIFF"),
        "tiff LZW": Kind(save(rgb, "TIFF", compression="tiff_lzw"), rgb, "TIFF"),
        "tiff CMYK": Kind(save(image.convert("CMYK"), "TIFF"), rgb, "TIFF"),
        "tiff grey 16 bits": Kind(save(Image.fromarray(ramp[..., 0]), "TIFF"), ramp8, "TIFF"),
        "tiff of two pages": Kind(
            save(rgb, "TIFF", save_all=True, append_images=[Image.fromarray(255 - rgb)]),
            rgb,
            "TIFF",
        ),
        "avif": Kind(save(rgb, "AVIF", **FINE["AVIF"]), rgb, "AVIF"),
        "heic": Kind(save(rgb, "HEIF", **FINE["HEIF"]), rgb, "HEIF"),
        "heic RGBA": Kind(save(rgba, "HEIF", **FINE["HEIF"]), over_white(rgb, alpha), "HEIF"),
    }
    for orientation, stored in STORED.items():
        found[f"jpeg EXIF {orientation}"] = Kind(
            save(stored(rgb), "JPEG", quality=95, exif=exif(orientation)),
            rgb,
            None if orientation == 1 else "EXIF rotation",
        )
        for kind in ("TIFF", "AVIF", "HEIF"):
            # pillow-heif takes the orientation from bytes alone.
            data = save(stored(rgb), kind, exif=exif(orientation).tobytes(), **FINE[kind])
            found[f"{kind.lower()} EXIF {orientation}"] = Kind(data, rgb, kind)
    return found
