"""Weights files made by hand: .safetensors from a header, .pth without PyTorch."""

import io
import json
import pickle
import struct
import zipfile


def safetensors_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


# PyTorch is not here; classes of the same names make pickles like its own.


class Global:
    """Pickles as a bare name of another program's module."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of such a name."""

    def __init__(self, module, name, *arguments):
        self.function, self.arguments = Global(module, name), arguments


class Data:
    """Pickles as a reference to a storage."""

    def __init__(self, key, count, kind="FloatStorage"):
        self.pid = ("storage", Global("torch", kind), key, "cpu", count)


class _Pickler(pickle._Pickler):
    """Writes the three above, which need no module that is there."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Data):
            self.save(obj.pid + (None,) * self.legacy)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def pickled(tree, legacy=False):
    stream = io.BytesIO()
    pickler = _Pickler(stream, 2)
    pickler.legacy = legacy
    pickler.dump(tree)
    return stream.getvalue()


def tensor(key, shape, strides, offset=0, count=6, kind="FloatStorage"):
    empty = Call("collections", "OrderedDict")
    data = Data(key, count, kind)
    return Call("torch._utils", "_rebuild_tensor_v2", data, offset, shape, strides, False, empty)


def zip_file(tree, data, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(tree))
        for key, content in data.items():
            archive.writestr(f"archive/data/{key}", content)
    return stream.getvalue()


def pth_file(state):
    """A file of the newer layout with arrays of a state dict."""
    kinds = {"f4": "FloatStorage", "f8": "DoubleStorage", "i1": "CharStorage"}
    tree, data = {}, {}
    for number, (key, array) in enumerate(state.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kind = kinds[array.dtype.str[1:]]
        tree[key] = tensor(str(number), array.shape, strides, count=array.size, kind=kind)
        data[str(number)] = array.tobytes()
    return zip_file(tree, data)


def legacy_file(tree, data):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickled(part) for part in parts) + pickled(tree, legacy=True)
    content += pickled(sorted(data))
    for key in sorted(data):
        content += struct.pack("<q", len(data[key]) // 4) + data[key]
    return content
