"""Weights files of PyTorch: what can be read, and what is refused."""

import argparse
import collections
import http
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from torch_files import (
    Call,
    Data,
    Global,
    entry,
    legacy_file,
    pickled,
    safetensors_file,
    tensor,
    zip_file,
)

from utils.base.errors import UserError
from utils.weights import (
    weights_file,
)

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
DATA = {"0": SIX.tobytes()}
TREE = {
    "conv_stem.weight": tensor("0", (2, 3), (3, 1)),
    "b": Call("torch._utils", "_rebuild_parameter", tensor("0", (3, 2), (1, 3)), True, {}),
    "c": tensor("0", (2,), (1,), offset=4),
}
OTHER = {"conv_stem.weight": TREE["c"]}
COUNTER = tensor("0", (), ())


class AttributeDict(dict):
    """Settings as trainings keep them, of a class that the reader does not have."""


def below(prefix, tree=TREE):
    return {prefix + key: value for key, value in tree.items()}


# What Lightning writes: classes of its own and of others all around the state dict.
LIGHTNING = {
    "epoch": 3,
    "pytorch-lightning_version": "2.1.0",
    "state_dict": {**below("model."), "criterion.weight": TREE["c"], "accuracy.total": COUNTER},
    "callbacks": {Global("lightning.callbacks", "EarlyStopping"): {"best": np.float64(0.5)}},
    "optimizer_states": [{"state": {0: {"step": COUNTER}}, "param_groups": [{"lr": 0.1}]}],
    "hyper_parameters": AttributeDict(
        device=Call("torch", "device", "cpu"), options=argparse.Namespace(root=pathlib.Path("x")),
        kind=http.HTTPStatus.OK, seen={1, 2}, counts=collections.Counter("ab"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        zip_file(TREE, DATA),
        legacy_file({"epoch": 3, "net": below("module."), "optimizer": {"state": {}}}, DATA),
        zip_file(LIGHTNING, DATA),
        legacy_file(LIGHTNING, DATA),
        # Averaged weights, with the counter of torch.optim.swa_utils.AveragedModel, go first.
        zip_file({"model": OTHER, "model_ema": {"n_averaged": COUNTER, **below("module.")}}, DATA),
        zip_file({**below("model.", OTHER), **below("ema_model.module.")}, DATA),
        zip_file(below("module._orig_mod.encoder."), DATA),
        zip_file({"step": COUNTER, "model": {"model_state_dict": below("_orig_mod.")}}, DATA),
        zip_file({"anything": below("net.backbone."), "accuracy": 0.5}, DATA),
    ],
)
@pytest.mark.parametrize("ending", [".pth.tar", ".ckpt"])
def test_pth_in_both_layouts_and_all_wrappers(content, ending, tmp_path):
    (tmp_path / f"w{ending}").write_bytes(content)
    state = weights_file.read(str(tmp_path / f"w{ending}"))
    assert list(state) == ["conv_stem.weight", "b", "c"]
    np.testing.assert_array_equal(state["conv_stem.weight"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(state["b"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(state["c"], [4, 5])


def test_layers_that_all_names_begin_with_stay(tmp_path):
    """torchvision's networks without classifier: the prefix is not what all names share."""
    keys = ["layers.0.weight", "layers.8.0.layers.0.weight"]
    tree = {f"backbone.{key}": TREE["c"] for key in keys}
    (tmp_path / "w.pth").write_bytes(zip_file(tree, DATA))
    assert list(weights_file.read(str(tmp_path / "w.pth"))) == keys


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (Call("os", "system", "touch EXECUTED"), "the class os.system"),
        ({"a": Call("builtins", "eval", "open('EXECUTED', 'w')")}, "no dictionary of tensors"),
        ({"model": Call("timm.models", "EfficientNet")}, "the class timm.models.EfficientNet"),
        ({"a": TREE["c"], "b": Call("torch._utils", "_rebuild_qtensor")}, "'b' is made by torch"),
        (Call("torch", "FloatStorage"), "damaged"),
        ({"a": 3}, "no dictionary of tensors"),
        ({"g": {"a": TREE["c"]}, "d": {"a": TREE["c"]}}, "several dictionaries of tensors"),
        ({"a.conv_stem.weight": TREE["c"], "b.conv_stem.weight": TREE["c"]}, "several networks"),
        ([tensor("0", (6,), (1,))], "no dictionary"),
        ({"a": tensor("0", (7,), (1,))}, "outside its own data"),
        ({"a": tensor("0", (2,), (6,))}, "outside its own data"),
        ({"a": tensor("0", (1 << 40,), (0,))}, "outside its own data"),
        ({"a": tensor("0", (2,), (1,), offset=-1)}, "not a plain one"),
        ({"a": tensor("0", (2,), (1,), count=99)}, "cut off"),
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


@pytest.mark.parametrize("made", [Data("0", 6), TREE["c"], Global("torch", "FloatStorage")])
def test_a_pickle_cannot_change_what_it_uses(made, tmp_path):
    """BUILD sets an object's state: of a storage it would move its bounds."""
    state = pickled({"size": 1 << 40, "offset": 1 << 40, "kind": "<f8"})[2:-1]
    program = pickled(made)[:-1] + state + pickle.BUILD + pickle.STOP
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    (tmp_path / "w.pth").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="damaged"):
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
