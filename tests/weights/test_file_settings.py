"""What an exported weights file says of its network, and what a damaged one may say."""

import json
import shutil

import golden_files
import golden_weights_torch
import numpy as np
import pytest
import yaml
from imported_models import SMALL, SPEC, logits, restored_params, write

import mnasnet_models
from utils import checkpoint_tool, export_weights
from utils.base.errors import UserError
from utils.config import network, settings
from utils.weights import (
    conversion,
    file_settings,
    model_folder,
    weights_file,
)

import tensorflow.compat.v1 as tf


def test_an_exported_file_says_what_it_is(imported, tmp_path):
    """Not a shape of it tells padding, epsilon, activation and normalization."""
    golden, model_dir = imported("timm_tf_efficientnet_lite0")
    model_dir = shutil.copytree(model_dir, str(tmp_path / "model"))
    params = yaml.safe_load((tmp_path / "model" / "params.yaml").read_text())
    params["batch_norm_epsilon"] = 2e-3
    params["input_image_size"] = 64
    params["model_name"] = "lite"
    (tmp_path / "model" / "params.yaml").write_text(yaml.safe_dump(params))
    # The name is part of the variables' names.
    values = {
        name.replace("tf_efficientnet_lite0", "lite"): value
        for name, value in checkpoint_tool.read(model_dir).items()
    }
    model_folder.save_checkpoint(str(tmp_path / "model" / "model.ckpt-0"), values)
    path = str(tmp_path / "w.safetensors")
    export_weights.main(["export", f"--model_dir={model_dir}", f"--output={path}"])
    back = str(tmp_path / "back")
    conversion.import_state_dict(path, back)
    now, then = restored_params(back), restored_params(model_dir)
    assert network.describe(now) == network.describe(then)
    assert now["input_image_size"] == 64 and now["model_spec"]["padding"] == "same"
    images = golden_weights_torch.images(golden["image_size"])
    np.testing.assert_array_equal(logits(back, images), logits(model_dir, images))


def test_an_exported_built_in_model_comes_back_as_itself(tmp_path):
    """The shapes are those of timm's mnasnet_050, of another padding and epsilon."""
    params = {**settings.default_params(), "model_name": "mnasnet-b1", "depth_multiplier": 0.5,
              "num_label_classes": 3}  # fmt: skip
    with tf.Session() as session:
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 32, 32, 3]), "mnasnet-b1", False, network.overrides(params)
        )
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt-5"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    path, back = str(tmp_path / "w.safetensors"), str(tmp_path / "back")
    export_weights.main(["export", f"--model_dir={tmp_path}", f"--output={path}"])
    conversion.import_state_dict(path, back)
    assert network.describe(restored_params(back)) == network.describe(params)
    assert restored_params(back)["depth_multiplier"] == 0.5
    named = str(tmp_path / "named")
    conversion.import_state_dict(path, named, "timm:mnasnet")
    assert network.describe(restored_params(named))["padding"] == "symmetric"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda recorded: "{", "is damaged"),
        (lambda recorded: "[]", "is damaged"),
        (lambda recorded: json.dumps({**recorded, "model_name": "a b"}), "cannot name variables"),
        (lambda recorded: json.dumps({**recorded, "model_spec": "x.yaml"}), "no model specific"),
        (lambda recorded: json.dumps({**recorded, "model_spec": {"stages": ["r"]}}), "malformed"),
        (
            lambda recorded: json.dumps({**recorded, "model_spec": {**SPEC, "padding": "valid"}}),
            "padding='valid'",
        ),
        (
            lambda recorded: json.dumps(
                {**recorded, "model_spec": {**SPEC, "stages": ["r100000000_k3_s11_e1_i8_o8"]}}
            ),
            "'r100000000' .* at most 100",
        ),
        (
            lambda recorded: json.dumps({**recorded, "input_image_size": 10**400}),
            "input_image_size=.* it must be at most",
        ),
        (lambda recorded: "[" * 100_000, "is damaged"),
        (
            lambda recorded: json.dumps({**recorded, "model_spec": {**SPEC, "head_size": 64}}),
            r"does not fit the specification of .*conv_head.weight \[1280, 144, 1, 1\]",
        ),
    ],
)
def test_damaged_records_in_a_file_are_refused(change, words, tmp_path):
    golden = golden_files.read(SMALL)
    params = {**settings.default_params(), "model_name": "small", "model_spec": SPEC}
    ((key, text),) = file_settings.metadata(params).items()
    path = str(tmp_path / "w.safetensors")
    metadata = {key: change(json.loads(text))}
    weights_file.write_safetensors(path, golden_weights_torch.state_dict(golden), metadata)
    with pytest.raises(UserError, match=words):
        conversion.import_state_dict(path, str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_depth_multiplier_that_no_machine_holds_is_refused(tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL))
    with pytest.raises(UserError, match="depth_multiplier 1e\\+308 is too large"):
        conversion.import_state_dict(
            path, str(tmp_path / "model"), model_name="m", model_spec=SPEC, depth_multiplier=1e308
        )
    assert not (tmp_path / "model").exists()
