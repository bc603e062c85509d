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


def source_of(golden):
    """What a user must say of a file that two networks fit."""
    return f"timm:{golden['model']}" if "efficientnet" in golden["model"] else None


def write(path, golden, change=lambda state: state):
    """A .safetensors file of a golden file's state dict."""
    weights_file.write_safetensors(str(path), change(golden_weights_torch.state_dict(golden)))
    return str(path)


def restored_params(model_dir):
    """The settings that a run takes from a model_dir, with no flag but the folder."""
    return configuration.resolve({"model_dir": model_dir, "data_dir": "null", "mode": "eval"})


def logits(model_dir, images):
    """Of the network that params.yaml describes, with the averages that evaluation reads."""
    params = restored_params(model_dir)
    with tf.Graph().as_default(), tf.Session() as session:
        outputs, _ = mnasnet_models.build_mnasnet_model(
            tf.constant(images),
            params["model_name"],
            False,
            network.overrides(params),
        )
        averages.AveragesSaver().restore(session, checkpoints.latest(model_dir))
        return session.run(outputs)


def run_import(path, model_dir, **arguments):
    """What the command line does."""
    names = ("source", "labels", "mapping")
    import_weights.run(
        {"weights": path, "model_dir": str(model_dir), **dict.fromkeys(names), **arguments}
    )


def refused(name, words, model_dir):
    """Imports, and checks that one sentence says why that fails and nothing is written."""
    with pytest.raises(UserError, match=words) as caught:
        run_import(name, model_dir)
    assert "\n" not in str(caught.value)
    assert not pathlib.Path(model_dir).exists()
    return caught.value
