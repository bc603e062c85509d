"""Repositories of a hub with the weights of golden networks, as timm writes them."""

import functools
import json

import golden_files
import golden_weights_torch
import safetensors.numpy


def golden_of(architecture, num_classes=None):
    """The golden file of a network of timm, perhaps with another number of classes."""
    golden = golden_files.read(f"timm_{architecture}")
    if num_classes:
        golden["num_classes"] = num_classes
        golden["state"] = [
            (key, [num_classes, *shape[1:]] if key.startswith("classifier") else shape)
            for key, shape in golden["state"]
        ]
    return golden


def config(architecture, num_classes, **changes):
    """The config.json that timm publishes for its MnasNets, with changes of `pretrained_cfg`."""
    entries = {
        "tag": "rmsp_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": num_classes,
        "pool_size": [7, 7],
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
    content = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": 1280,
        "pretrained_cfg": {**entries, **changes},
    }
    return json.dumps(content).encode()


@functools.cache
def weights(architecture, num_classes=None):
    """The bytes of a model.safetensors."""
    state = golden_weights_torch.state_dict(golden_of(architecture, num_classes))
    return safetensors.numpy.save(state, {"format": "pt"})


def repository(architecture, num_classes=None, **changes):
    """The files of a repository: name -> bytes."""
    classes = golden_of(architecture, num_classes)["num_classes"]
    return {
        "config.json": config(architecture, classes, **changes),
        "model.safetensors": weights(architecture, num_classes),
    }
