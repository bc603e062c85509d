"""Runs the training program in the process of the test, and prepares what it is given."""

import re

import pytest
import yaml
from absl import flags, logging
from programs import TINY_NETWORK

import mnasnet_main
from utils.base.errors import UserError
from utils.config import settings
from utils.training import configuration

import tensorflow.compat.v1 as tf


def run_here(*arguments):
    """Runs the program with its flags in this process, at the log level that its shell sets."""
    # An export sets the level that absl remembers, which caplog knows nothing of.
    logging.set_verbosity(logging.INFO)
    mnasnet_main.main(["mnasnet_main.py", *arguments])


def log_of(caplog, *arguments):
    """What the program logs while it runs in this process."""
    caplog.clear()
    with caplog.at_level("INFO", "absl"):
        run_here(*arguments)
    return caplog.text


def refusal(*arguments):
    """The sentence with which the program refuses its flags; it is one line."""
    with pytest.raises((UserError, flags.Error)) as error:
        run_here(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def tiny_params(**more):
    """Settings of the tiny network on small pictures of ten classes, without a TPU."""
    spec = yaml.safe_load(TINY_NETWORK.read_text())
    return {
        **settings.default_params(),
        "model_name": spec.pop("name"),
        "model_spec": spec,
        "num_label_classes": 10,
        "input_image_size": 32,
        "use_tpu": False,
        **more,
    }


def is_frozen(name, freeze):
    """What should be frozen, by the part of the network in a variable's name."""
    part = re.search(r"/mnas_(stem|blocks_\d+|head)/(dense)?", "/" + name)
    if part is None:
        assert name == "global_step"
        return False
    if "freeze_backbone" in freeze:
        return part[2] is None
    kept = ["stem"] + [f"blocks_{n}" for n in range(int(freeze["freeze_until"][-1]) + 1)]
    return part[1] in kept


def values_of(checkpoint):
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def write_data(folder, train, validation=None):
    folder.mkdir()
    for name, contents in (
        ("train", train),
        ("validation", train if validation is None else validation),
    ):
        with tf.io.TFRecordWriter(str(folder / f"{name}-00000-of-00001")) as writer:
            for content in contents:
                writer.write(content)


def tpu_params(digits_dir, model_dir, num_eval_images):
    """Settings of an evaluation on a TPU."""
    given = {
        "data_dir": digits_dir,
        "model_dir": str(model_dir),
        "mode": "eval",
        "num_eval_images": num_eval_images,
        "eval_batch_size": 100,
    }
    return {**configuration.resolve(given), "use_tpu": True}
