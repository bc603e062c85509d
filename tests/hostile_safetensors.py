"""Tables, metadata and networks in .safetensors files that are wrong."""

import itertools
import json
import struct

import numpy as np
from hostile_programs import COMMAND
from torch_files import (
    Call,
    entry,
    pickled,
    safetensors_file,
)

import mnasnet_models
from mnasnet_model import GlobalParams
from utils.weights import layer_names


def tables():
    """(name, content)."""

    def one(**changes):
        return safetensors_file(entry(**changes), bytes(8))

    plain = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for size in (
        0,
        1,
        7,
        59,
        1 << 20,
        99 << 20,
        101 << 20,
        1 << 31,
        1 << 32,
        1 << 63,
        (1 << 64) - 1,
    ):
        yield (
            f"a header of {size}",
            struct.pack("<Q", size) + json.dumps(entry()).encode() + bytes(8),
        )
    for count in (33, 65, 100, 100_000):
        yield f"{count} dimensions", one(shape=[1] * (count - 1) + [2])
        yield (
            f"{count} dimensions of 0",
            safetensors_file(entry(shape=[0] * count, data_offsets=[0, 0])),
        )
    shapes = (
        [-2],
        [1 << 62, 4],
        [0, 1 << 62, 1 << 62],
        [1 << 63],
        [1 << 64],
        [2.0],
        ["2"],
        [None],
        [[2]],
        None,
        "2",
        2,
        {},
        [],
        [3],
        [1e300],
        [True, 2],
    )
    for shape in shapes:
        yield f"the shape {shape!r}", one(shape=shape)
    yield (
        "empty and huge",
        safetensors_file(entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])),
    )
    offsets = (
        [0, 4],
        [8, 0],
        [-8, 0],
        [4, 12],
        [0, 1 << 62],
        [0, 1 << 64],
        [1 << 63, (1 << 63) + 8],
        [0],
        [0, 8, 8],
        None,
        "08",
        [0.0, 8.0],
        [True, 8],
        {},
        [0, 7],
    )
    for pair in offsets:
        yield f"the place {pair!r}", one(data_offsets=pair)
    for dtype in ("F8_E4M3", "F4", "U16", "U64", "C64", "f32", "", "X" * 100_000, None, 3, [], "Q"):
        for shape in ([2], [8], [1], [16]):
            yield f"the type {str(dtype)[:9]!r} {shape}", one(dtype=dtype, shape=shape)
    names = {
        "a line feed": "a\nb",
        "an escape": "\x1b[31mred",
        "NUL": "\0",
        "nothing": "",
        "a megabyte": "x" * (1 << 20),
        "prefixes": "module." * 100_000 + "a",
        "a mark": "\u202egnp",
        "a path": "../../a",
    }
    for name, key in names.items():
        yield f"a name of {name}", safetensors_file({key: plain}, bytes(8))
    tables = {
        "overlapping": {"a": plain, "b": plain},
        "half overlapping": {"a": plain, "b": {**plain, "data_offsets": [4, 12]}},
        "a thousand views": {str(n): plain for n in range(1000)},
        "a hole": {"a": plain, "b": {**plain, "data_offsets": [12, 20]}},
        "a list": [plain],
        "a number": 3,
        "a null entry": {"a": None},
        "a text entry": {"a": "x"},
        "an empty entry": {"a": {}},
        "only metadata": {"__metadata__": {"a": "b"}},
        "nothing": {},
        "metadata as tensor": {"__metadata__": plain},
    }
    for name, table in tables.items():
        yield name, safetensors_file(table, bytes(12))
    many = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}
    yield "tensors without number", safetensors_file(many)
    texts = {
        "the same name twice": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        "NaN": b'{"a": NaN}',
        "Infinity": b'{"a": {"shape": [Infinity]}}',
        "deep lists": b"[" * 1_000_000,
        "deep objects": b'{"a":' * 200_000,
        "deep lists in a table": b'{"a": ' + b"[" * 500_000,
        "a deep extra": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
        "many digits": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b"]}}",
        "bad UTF-8": b'{"\xff\xfe": 3}',
        "a surrogate": b'{"\\ud800": 3}',
        "UTF-16": "{}".encode("utf-16"),
        "a mark of order": b"\xef\xbb\xbf{}",
        "more after it": b"{} {}",
        "spaces": b" " * 10_000_000,
        "a long list": b'{"a": {"dtype": "F32", "shape": [' + b"1," * 8_000_000 + b"1]}}",
        "a pickle": pickled(Call("os", "system", COMMAND)),
        "XML": b"<a>" * 100,
    }
    for name, text in texts.items():
        yield name, safetensors_file(text, bytes(8))
    yield "trailing bytes", safetensors_file(entry(), bytes(100))
    for count in range(8):
        yield f"{count} bytes alone", b"\1" * count


_STAGE = "r1_k3_s11_e1_i8_o8"


def metadata():
    """(name, metadata)."""
    for name, value in (("a number", 3), ("a list", []), ("null", None), ("a text", "x")):
        yield f"{name} at all", value
        yield f"{name} in it", {"mnasnet_settings": value}
    texts = {
        "nothing": "",
        "half": "{",
        "a list": "[]",
        "null": "null",
        "deep": "[" * 100_000,
        "deeper objects": '{"model_name":' * 100_000,
        "NaN": "NaN",
        "a megabyte": "x" * (1 << 20),
        "many digits": "9" * 100_000,
        "a pickle": "cos\nsystem\n(S'touch EXECUTED'\ntR.",
    }
    for name, text in texts.items():
        yield name, {"mnasnet_settings": text}
    good = {
        "model_name": "m",
        "model_spec": {"stages": [_STAGE], "stem_size": 8},
        "input_image_size": 32,
        "resize_method": "bicubic",
    }
    for name in good:
        values = (
            None,
            3,
            -1,
            1e308,
            True,
            "",
            "x" * 100_000,
            "a\nb\x1b[1m",
            [],
            {},
            [[]] * 1000,
            10**400,
            "!!python/object/apply:os.system [touch EXECUTED]",
        )
        for number, value in enumerate(values):
            yield f"{name}, value {number}", _settings({**good, name: value})
        yield f"without {name}", _settings({k: v for k, v in good.items() if k != name})
    fields = ("r", "k", "e", "i", "o")
    for field, size in itertools.product(
        fields, ("0", "100000000", "9" * 30, "9" * 5000, "-1", "1e9")
    ):
        stage = "_".join(f"{f}{size}" if f == field else f"{f}1" for f in fields) + "_s11"
        yield (
            f"stages of {field}{size[:20]} ({len(size)})",
            _settings({**good, "model_spec": {"stages": [stage], "stem_size": 1}}),
        )
    stages = {
        "numbers": [3],
        "none": [],
        "a text": _STAGE,
        "a megabyte": ["x" * (1 << 20)],
        "a thousand times a hundred": ["r100_k3_s11_e1_i8_o8"] * 1000,
        "many": [_STAGE] * 100_000,
        "strides": ["r1_k3_s99_e1_i8_o8"],
        "ratios": [_STAGE + "_se" + "9" * 400],
        "a null": [None],
        "nested": [[[_STAGE]]],
        "a line feed": [_STAGE + "\n"],
    }
    for name, value in stages.items():
        yield f"stages of {name}", _settings({**good, "model_spec": {"stages": value}})
    numbers = (0, -1, 10**9, 10**400, 1e308, float("nan"), float("inf"), True, "8", None, [8])
    keys = (
        "stem_size",
        "head_size",
        "depth_multiplier",
        "depth_divisor",
        "min_depth",
        "batch_norm_epsilon",
        "dropout_rate",
        "activation",
        "padding",
        "mean_rgb",
        "unknown",
    )
    for key, (number, value) in itertools.product(keys, enumerate(numbers)):
        spec = {**good["model_spec"], key: [value] * 3 if key == "mean_rgb" else value}
        yield f"{key}, value {number}", _settings({**good, "model_spec": spec})


def _settings(values):
    return {"mnasnet_settings": json.dumps(values)}


def networks():
    """(name, state dict): narrow ones, so that they are small."""

    def state(stem=8, head=8, classes=3, fill=1.0):
        stages = mnasnet_models.MnasNetDecoder().decode(
            [
                "r1_k3_s11_e1_i8_o8",
                "r1_k3_s22_e3_i8_o8",
                "r2_k3_s22_e6_i8_o8",
                "r4_k5_s22_e6_i8_o8",
                "r3_k3_s11_e6_i8_o8",
                "r3_k5_s22_e6_i8_o8",
                "r1_k3_s11_e6_i8_o8",
            ]
        )
        stages = [
            stage._replace(se_ratio=0.25 if 3 <= number <= 5 else None)
            for number, stage in enumerate(stages)
        ]
        blocks = layer_names.unroll(stages, GlobalParams())
        tensors = layer_names.tensors("timm", blocks, stem, head, classes)
        return {t.key: np.full(t.shape, fill, np.float32) for t in tensors}

    yield "no filters in the head", state(head=0)
    yield "no filters in the stem", state(stem=0)
    yield "no classes", state(classes=0)
    yield "one class", state(classes=1)
    yield "NaN", state(fill=np.nan)
    yield "infinite", state(fill=-np.inf)
    yield "negative variances", state(fill=-1.0)
    good = state()
    yield "whole numbers", {**good, "bn1.weight": np.ones(good["bn1.weight"].shape, np.int8)}
    for key in list(good)[:3] + list(good)[-3:]:
        yield f"no {key}", {k: v for k, v in good.items() if k != key}
        yield f"a scalar {key}", {**good, key: np.ones([], np.float32)}
        yield f"an empty {key}", {**good, key: np.ones([0], np.float32)}
    yield "many more", {**good, **{f"x{n}": np.ones([1], np.float32) for n in range(9000)}}
