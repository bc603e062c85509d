"""Makes .pth archives whose members, sizes and methods lie."""

import io
import struct
import zipfile

from hostile_pickles import GOOD, SIX
from torch_files import pickled, tensor, zip_file


def archive_of(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _patched(content, signature, offset, new, which=0):
    """Content with bytes replaced at an offset from the n-th place of a signature."""
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + new + content[at + offset + len(new) :]


def archives():
    """Yields (name, content)."""
    good, tree = zip_file(GOOD, {"0": SIX}), pickled(GOOD)
    local, central, end = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
    yield "a compressed table", zip_file(GOOD, {"0": SIX}, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": b"N" * (16 << 20), "archive/data/0": SIX}
    yield "a bomb as table", archive_of(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/data/0": bytes(16 << 20)}
    yield "a bomb as data", archive_of(bomb, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": tree, "archive/byteorder": b"little" * (3 << 20)}
    yield "a bomb as byte order", archive_of(bomb, zipfile.ZIP_DEFLATED)
    names = {
        "no table": {"archive/data/0": SIX},
        "TorchScript": {"archive/constants.pkl": tree},
        "no folder": {"data.pkl": tree, "data/0": SIX},
        "nothing": {},
        "climbing names": {"../data.pkl": tree, "../data/0": SIX},
        "rooted names": {"/data.pkl": tree, "/data/0": SIX},
        "two tables": {"a/data.pkl": tree, "b/data.pkl": b"x", "a/data/0": SIX},
        "a folder as table": {"archive/data.pkl/": b""},
        "big-endian": {
            "archive/data.pkl": tree,
            "archive/byteorder": b"big",
            "archive/data/0": SIX,
        },
        "a long byte order": {"archive/data.pkl": tree, "archive/byteorder": bytes(1 << 20)},
        "an archive in an archive": {"archive/data.pkl": good},
        "a long name": {"a" * 60_000 + "/data.pkl": tree},
    }
    for name, members in names.items():
        yield name, archive_of(members)
    for which, member in enumerate(("data.pkl", "data/0")):
        for method in (1, 6, 8, 9, 12, 14, 97, 99):
            changed = _patched(good, central, 10, struct.pack("<H", method), which)
            yield f"{member} of method {method}", changed
        for flag in (0x1, 0x20, 0x40, 0x800, 0x2000, 0xFFFF):
            changed = _patched(good, central, 8, struct.pack("<H", flag), which)
            yield f"{member} with flags {flag:#x}", changed
            changed = _patched(good, local, 6, struct.pack("<H", flag), which)
            yield f"{member} with local flags {flag:#x}", changed
        for size in (0, 1, 1 << 30, 0xFFFFFFFF):
            packed = struct.pack("<I", size)
            for field, offset in (("stored", 20), ("whole", 24), ("place", 42)):
                yield (
                    f"{member}, {field} size {size}",
                    _patched(good, central, offset, packed, which),
                )
            both = _patched(good, central, 20, packed + packed, which)
            yield f"{member}, both sizes {size}", both
        yield f"{member} of version 255", _patched(good, central, 6, b"\xff\xff", which)
        yield f"{member} with another sum", _patched(good, central, 16, b"abcd", which)
        yield f"{member} of month 15", _patched(good, central, 14, b"\xff\xff", which)
        yield f"{member} with a long local name", _patched(good, local, 26, b"\xff\xff", which)
        yield f"{member} with a long extra field", _patched(good, central, 30, b"\xff\xff", which)
        yield f"{member} with another local name", _patched(good, local, 30, b"xxxx", which)
    for field, offset in (("count", 10), ("size", 12), ("place", 16), ("comment", 20)):
        width = 4 if field in ("size", "place") else 2
        for value in (b"\0" * width, b"\xff" * width):
            yield f"end with {field} {value.hex()}", _patched(good, end, offset, value)
    yield "no end", good[: good.index(end)]
    yield "something before it", b"PK\x03\x04" + good
    yield "something after it", good + bytes(100_000)
    yield "members that overlap", _overlapping(2000, 1 << 20)
    yield "many members", _overlapping(120_000, 4, named=1)


def _overlapping(count, size, named=None):
    """Members that all have the same bytes; `named` of them are tensors, by default all."""
    tree = {
        str(n): tensor(str(n), (size // 4,), (1,), count=size // 4) for n in range(named or count)
    }
    content = archive_of({"archive/data.pkl": pickled(tree), "archive/data/0": bytes(size)})
    at = content.index(b"PK\x01\x02", content.index(b"archive/data/0") + size)
    first = content.index(b"PK\x01\x02", at + 1)
    end = content.index(b"PK\x05\x06", first)
    template = content[first:end]
    entries = [template]
    for number in range(1, count):
        name = f"archive/data/{number}".encode()
        entries.append(template[:28] + struct.pack("<H", len(name)) + template[30:46] + name)
    directory = content[at:first] + b"".join(entries)
    tail = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, *[min(count + 1, 0xFFFF)] * 2, len(directory), at, 0
    )
    return content[:at] + directory + tail
