"""Makes weights that claim strange networks: in their metadata, or by their tensors' shapes."""

import itertools
import json

import numpy as np

import mnasnet_models
from mnasnet_model import GlobalParams
from utils.weights import layer_names

_STAGE = "r1_k3_s11_e1_i8_o8"


def metadata():
    """Yields (name, metadata) for the header of a .safetensors file."""
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
    """Yields (name, state dict) of networks that are recognized; they are narrow, hence small."""

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
        blocks = layer_names.unrolled(stages, GlobalParams())
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
