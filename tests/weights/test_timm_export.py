"""State dicts for timm: the tensors, and which model of timm loads them."""

import logging
import re

import golden_files
import golden_weights_torch
import numpy as np
import pytest
from imported_models import SMALL, restored_params

import mnasnet_models
from mnasnet_model import GlobalParams, round_filters
from utils.config import network, settings
from utils.training import checkpoints
from utils.weights import layer_names, recognition, timm_export, timm_models

import tensorflow.compat.v1 as tf


@pytest.mark.parametrize("name", ["timm_semnasnet_075", "timm_mnasnet_small"])
def test_round_trip_gives_the_same_state_dict(name, imported):
    golden, model_dir = imported(name)
    params = restored_params(model_dir)
    state = timm_export.timm_state_dict(checkpoints.latest(model_dir), params)
    expected = golden_weights_torch.state_dict(golden)
    assert list(state) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(state[key], array, err_msg=key)


@pytest.mark.parametrize("use_keras", [True, False])
@pytest.mark.parametrize(
    ("name", "multiplier", "expected"),
    [("mnasnet-b1", 0.5, "mnasnet_050"), ("mnasnet-small", None, "mnasnet_small")],
)
def test_own_checkpoint_becomes_a_state_dict_for_timm(
    name, multiplier, expected, use_keras, tmp_path
):
    params = {**settings.default_params(), "model_name": name, "use_keras": use_keras,
              "depth_multiplier": multiplier, "num_label_classes": 3}  # fmt: skip
    with tf.Session() as session:
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 32, 32, 3]), name, False, network.overrides(params)
        )
        session.run(tf.global_variables_initializer())
        checkpoint = tf.train.Saver().save(session, str(tmp_path / "model.ckpt-5"))
    state = timm_export.timm_state_dict(checkpoint, params)
    recognized = recognition.recognize(state, "state")
    assert (recognized.model_name, recognized.num_classes) == (expected, 3)


@pytest.mark.parametrize(
    ("name", "multiplier", "overrides", "words"),
    [
        ("mnasnet-a1", None, {}, r"^timm.create_model\('semnasnet_100', num_classes=3, "
         r"bn_eps=0.001, pad_type='same', checkpoint_path=...\) loads it"),
        ("mnasnet-b1", 1.3, {}, r"timm's mnasnet_130, but .*_gen_mnasnet_b1\('mnasnet_100', 1.3, "),
        ("mnasnet-b1", None, {"head_size": 64}, r"_gen_mnasnet_b1\('mnasnet_100', 1, .*=64\)"),
        ("mnasnet-a1", None, {"stem_size": 24}, "semnasnet, but .*: write a model"),
        ("mnasnet-small", None, {}, "^timm has no model of this shape.* load the file here with "
         "python -m utils.import_weights"),
    ],
)  # fmt: skip
def test_timm_is_said_to_make_only_what_it_can(name, multiplier, overrides, words, caplog):
    """timm has multipliers of 0.5, 0.75, 1 and 1.4 by name."""
    caplog.set_level(logging.INFO, "absl")
    overrides = {"depth_multiplier": multiplier, "num_classes": 3, **overrides}
    stages, params = mnasnet_models.get_model_params(name, overrides)
    blocks = layer_names.unrolled(stages, params)
    stem = round_filters(params.stem_size, params)
    tensors = layer_names.tensors("timm", blocks, stem, params.head_size, 3)
    state = {t.key: np.zeros(t.shape, np.float32) for t in tensors}
    timm_export.log_how_to_load(state, stages, params)
    assert re.search(words, caplog.messages[-1]), caplog.messages


@pytest.mark.parametrize(
    ("spec", "mean", "std"),
    [
        (None, "123.675/255, 116.28/255, 103.53/255", "58.395/255, 57.12/255, 57.375/255"),
        (
            {"mean_rgb": [127.0] * 3, "stddev_rgb": [128.0] * 3},
            "127/255, 127/255, 127/255",
            "128/255, 128/255, 128/255",
        ),
    ],
)
def test_timm_is_told_how_to_prepare_pictures(spec, mean, std, caplog):
    caplog.set_level(logging.INFO, "absl")
    timm_export.log_preparation(
        {**settings.default_params(), "model_spec": spec, "input_image_size": 160}
    )
    assert caplog.messages == [
        "Prepare pictures in timm with timm.data.create_transform(160, interpolation='bicubic', "
        f"crop_pct=160/192, mean=({mean}), std=({std}))."
    ]


def test_timm_has_no_model_where_identities_differ():
    """The published mnasnet-small lacks an identity that timm's mnasnet_small has."""
    state = golden_weights_torch.state_dict(golden_files.read(SMALL))
    for name, stages in (
        (None, mnasnet_models.MODELS["mnasnet-small"].stages),
        (
            "mnasnet_small",
            ("r1_k3_s11_e1_i8_o8", *mnasnet_models.MODELS["mnasnet-small"].stages[1:]),
        ),
    ):
        decoded = mnasnet_models.MnasNetDecoder().decode(stages)
        model = timm_models.timm_model(state, decoded, GlobalParams())
        assert (model and model.name) == name and (model is None or model.ready_made)
