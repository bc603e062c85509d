"""State dicts for timm: the tensors, what the file says of its network, which model loads them."""

import json
import shutil

import golden_files
import golden_weights_torch
import numpy as np
import pytest
import yaml
from imported_models import SMALL, SPEC, described, logits, refused, restored_params

import mnasnet_models
from utils import checkpoint_tool, export_weights
from utils.base.errors import UserError
from utils.config import network, settings
from utils.training import checkpoints
from utils.weights import conversion, recognition, weights_file

import tensorflow.compat.v1 as tf


@pytest.mark.parametrize("name", ["timm_semnasnet_075", SMALL])
def test_round_trip_gives_the_same_state_dict(name, imported):
    golden, model_dir = imported(name)
    state = conversion.timm_state_dict(checkpoints.latest(model_dir), restored_params(model_dir))
    expected = golden_weights_torch.state_dict(golden)
    assert list(state) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(state[key], array, err_msg=key)


def test_an_exported_file_says_what_it_is(imported, tmp_path):
    """Not a shape of it tells padding, epsilon, activation and normalization."""
    golden, model_dir = imported("timm_tf_efficientnet_lite0")
    model_dir = shutil.copytree(model_dir, str(tmp_path / "model"))
    params = yaml.safe_load((tmp_path / "model" / "params.yaml").read_text())
    params |= {"batch_norm_epsilon": 2e-3, "input_image_size": 64, "model_name": "lite"}
    (tmp_path / "model" / "params.yaml").write_text(yaml.safe_dump(params))
    # The name is part of the variables' names.
    values = {
        name.replace("tf_efficientnet_lite0", "lite"): value
        for name, value in checkpoint_tool.read(model_dir).items()
    }
    conversion.save_checkpoint(str(tmp_path / "model" / "model.ckpt-0"), values)
    path, back = str(tmp_path / "w.safetensors"), str(tmp_path / "back")
    export_weights.main(["export", f"--model_dir={model_dir}", f"--output={path}"])
    conversion.import_weights(path, back)
    assert described(back) == described(model_dir) and described(back)["padding"] == "same"
    assert restored_params(back)["input_image_size"] == 64
    images = golden_weights_torch.images(golden["image_size"])
    np.testing.assert_array_equal(logits(back, images), logits(model_dir, images))


@pytest.mark.parametrize("use_keras", [True, False])
def test_an_exported_built_in_model_comes_back_as_itself(use_keras, tmp_path):
    """The shapes are those of timm's mnasnet_050, of another padding and epsilon."""
    params = {
        **settings.default_params(),
        "model_name": "mnasnet-b1",
        "depth_multiplier": 0.5,
        "num_label_classes": 3,
        "use_keras": use_keras,
    }
    with tf.Session() as session:
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 32, 32, 3]), "mnasnet-b1", False, network.overrides(params)
        )
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt-5"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    path = str(tmp_path / "w.safetensors")
    export_weights.main(["export", f"--model_dir={tmp_path}", f"--output={path}"])
    conversion.import_weights(path, str(tmp_path / "back"))
    assert described(tmp_path / "back") == network.describe(params)
    conversion.import_weights(path, str(tmp_path / "named"), "timm:mnasnet")
    named = described(tmp_path / "named")
    assert (named["model_name"], named["padding"]) == ("mnasnet_050", "symmetric")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda recorded: "{", "mnasnet_settings is damaged"),
        (lambda recorded: json.dumps({**recorded, "model_name": "a b"}), "'a b'"),
        (
            lambda recorded: json.dumps({**recorded, "model_spec": {**SPEC, "padding": "valid"}}),
            "padding='valid'",
        ),
        (
            lambda recorded: json.dumps({**recorded, "model_spec": {**SPEC, "head_size": 64}}),
            r"small, so nothing is written; .* instead of \[64\]",
        ),
    ],
)
def test_damaged_records_in_a_file_are_refused(change, words, tmp_path):
    params = {**settings.default_params(), "model_name": "small", "model_spec": SPEC}
    ((key, text),) = conversion.metadata(params).items()
    path = str(tmp_path / "w.safetensors")
    state = golden_weights_torch.state_dict(golden_files.read(SMALL))
    weights_file.write_safetensors(path, state, {key: change(json.loads(text))})
    refused(path, words, tmp_path / "model")


def test_a_checkpoint_of_another_network_is_refused(imported, tmp_path):
    params = {**restored_params(imported(SMALL)[1]), "num_label_classes": 3}
    with pytest.raises(UserError, match="mnas_head/dense/kernel"):
        conversion.timm_state_dict(checkpoints.latest(imported(SMALL)[1]), params)


@pytest.mark.parametrize(
    ("model", "overrides", "name"),
    [
        ("mnasnet-a1", {}, "semnasnet_100"),
        ("mnasnet-b1", {"depth_multiplier": 0.5}, "mnasnet_050"),
        ("mnasnet-b1", {"depth_multiplier": 1.3}, None),
        ("mnasnet-b1", {"head_size": 64}, None),
        ("mnasnet-a1", {"activation": "relu6"}, None),
        # It lacks an identity that timm's mnasnet_small has.
        ("mnasnet-small", {}, None),
        ("mnasnet-small", SPEC, "mnasnet_small"),
        (
            "tf",
            {"stages": list(recognition._LITE0_STAGES), "activation": "relu6"},
            "tf_efficientnet_lite0",
        ),
    ],
)
def test_timm_is_said_to_make_only_what_it_can(model, overrides, name, caplog):
    caplog.set_level("INFO", "absl")
    conversion.log_how_to_load(*mnasnet_models.get_model_params(model, overrides))
    words = f"create_model({name!r}, num_classes=1000, bn_eps=0.001, pad_type='same'"
    assert (words if name else "no ready-made model") in caplog.messages[-1]


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
    caplog.set_level("INFO", "absl")
    conversion.log_preparation(
        {**settings.default_params(), "model_spec": spec, "input_image_size": 160}
    )
    assert caplog.messages == [
        "Prepare pictures in timm with timm.data.create_transform(160, interpolation='bicubic', "
        f"crop_pct=160/192, mean=({mean}), std=({std}))."
    ]
