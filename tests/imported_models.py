"""Weights files of golden networks, and models imported from them."""

import pathlib

import golden_weights_torch
import pytest

import mnasnet_models
from utils import import_weights
from utils.base.errors import UserError
from utils.config import network
from utils.training import averages, checkpoints, configuration
from utils.weights import weights_file

import tensorflow.compat.v1 as tf

SMALL = "timm_mnasnet_small"
SPEC = {
    "stages": ["r1_k3_s11_e1_i8_o8", *mnasnet_models.MODELS["mnasnet-small"].stages[1:]],
    "stem_size": 8,
}


def write(path, golden, change=lambda state: state, num_classes=None):
    """A .safetensors file of a golden file's state dict."""
    state = golden_weights_torch.state_dict(golden, num_classes)
    weights_file.write_safetensors(str(path), change(state))
    return str(path)


def restored_params(model_dir):
    """The settings that a run takes from a model_dir, with no flag but the folder."""
    return configuration.resolve({"model_dir": str(model_dir), "data_dir": "null", "mode": "eval"})


def described(model_dir):
    """The network of a model_dir."""
    return network.describe(restored_params(model_dir))


def logits(model_dir, images):
    """Of the network that params.yaml describes, with the averages that evaluation reads."""
    params = restored_params(model_dir)
    with tf.Graph().as_default(), tf.Session() as session:
        outputs, _ = mnasnet_models.build_mnasnet_model(
            tf.constant(images), params["model_name"], False, network.overrides(params)
        )
        averages.AveragesSaver().restore(session, checkpoints.latest(str(model_dir)))
        return session.run(outputs)


def run_import(path, model_dir, **arguments):
    """What the command line does."""
    names = ("source", "labels", "mapping")
    given = {"weights": str(path), "model_dir": str(model_dir), **dict.fromkeys(names)}
    import_weights.run({**given, **arguments})


def refused(path, words, model_dir, **arguments):
    """Imports, and checks that one sentence says why that fails and nothing is written."""
    with pytest.raises(UserError, match=words) as caught:
        run_import(path, model_dir, **arguments)
    assert "\n" not in str(caught.value)
    assert not pathlib.Path(model_dir).exists()
    return caught.value
