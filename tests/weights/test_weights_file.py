"""Weights files of PyTorch: what can be read, and what is refused."""

import argparse
import collections
import http
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from torch_files import Call, Global, entry, legacy_file, safetensors_file, tensor, zip_file

from utils.base.errors import UserError
from utils.weights import weights_file

SIX = np.arange(6, dtype="<f4")
DATA = {"0": SIX.tobytes()}
TREE = {
    "conv_stem.weight": tensor("0", (2, 3), (3, 1)),
    "b": Call("torch._utils", "_rebuild_parameter", tensor("0", (3, 2), (1, 3)), True, {}),
    "c": tensor("0", (2,), (1,), offset=4),
}
COUNTER = tensor("0", (), ())


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_and_read(content, name="w.pth"):
        (tmp_path / name).write_bytes(content)
        return weights_file.read(name)

    return write_and_read


def test_safetensors_agree_with_the_library(tmp_path, read):
    state = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(5, np.float16),
        "counter": np.asarray(3, np.int64),
        "empty": np.zeros([0, 4], np.float32),
    }
    for key, array in read(safetensors.numpy.save(state), "w.safetensors").items():
        np.testing.assert_array_equal(array, state[key])
    path = str(tmp_path / "ours.safetensors")
    weights_file.write_safetensors(path, {"t": state["a"].T})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["t"], state["a"].T)


def test_bfloat16(read):
    numbers = bytes.fromhex("803f40c0")
    file = safetensors_file(entry(dtype="BF16", data_offsets=[0, 4]), numbers)
    np.testing.assert_array_equal(read(file, "w.safetensors")["a"], [1, -3])
    file = zip_file({"a": tensor("0", (2,), (1,), count=2, kind="BFloat16Storage")}, {"0": numbers})
    np.testing.assert_array_equal(read(file)["a"], [1, -3])


class AttributeDict(dict):
    """Settings as trainings keep them, of a class that the reader does not have."""


def below(prefix, tree=TREE):
    return {prefix + key: value for key, value in tree.items()}


# What Lightning writes: classes of its own and of others all around the state dict.
LIGHTNING = {
    "epoch": 3,
    "state_dict": {**below("model."), "criterion.weight": TREE["c"], "accuracy.total": COUNTER},
    "callbacks": {Global("lightning.callbacks", "EarlyStopping"): {"best": np.float64(0.5)}},
    "optimizer_states": [{"state": {0: {"step": COUNTER}}, "param_groups": [{"lr": 0.1}]}],
    "hyper_parameters": AttributeDict(
        device=Call("torch", "device", "cpu"),
        options=argparse.Namespace(root=pathlib.Path("x")),
        kind=http.HTTPStatus.OK,
        seen={1, 2},
        counts=collections.Counter("ab"),
    ),
}
OTHER = {"conv_stem.weight": TREE["c"]}


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
        zip_file({"step": COUNTER, "model": {"state_dict": below("_orig_mod.encoder.")}}, DATA),
        zip_file({"anything": below("net.backbone."), "accuracy": 0.5}, DATA),
        zip_file(Call("collections", "OrderedDict", [[k, v] for k, v in TREE.items()]), DATA),
    ],
)
def test_pth_in_both_layouts_and_all_wrappers(content, read):
    state = read(content, "w.ckpt")
    assert list(state) == ["conv_stem.weight", "b", "c"]
    np.testing.assert_array_equal(state["conv_stem.weight"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(state["b"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(state["c"], [4, 5])


def test_layers_that_all_names_begin_with_stay(read):
    """torchvision's networks without classifier: the prefix is not what all names share."""
    keys = ["layers.0.weight", "layers.8.0.layers.0.weight"]
    tree = {f"backbone.{key}": TREE["c"] for key in keys}
    assert list(read(zip_file(tree, DATA), "w.pth.tar")) == keys


def test_strides_of_what_has_no_second_element_do_not_matter(read):
    tree = {
        "one": tensor("0", (1, 6), (1 << 62, 1)),
        "none": tensor("0", (0, 2), (1 << 62, 1 << 62), offset=6),
    }
    state = read(zip_file(tree, DATA))
    np.testing.assert_array_equal(state["one"], SIX.reshape(1, 6))
    assert state["none"].shape == (0, 2)


@pytest.mark.parametrize("make", [zip_file, legacy_file])
@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (Call("os", "system", "touch EXECUTED"), "objects of os.system: save"),
        ({"model": Call("timm.models", "EfficientNet")}, "objects of timm.models.EfficientNet"),
        ({"x.conv_stem.weight": TREE["c"], "y.conv_stem.weight": TREE["c"]}, "several networks"),
        ({"a": tensor("0", (7,), (1,))}, "outside"),
        ({"a": tensor("0", (1 << 40,), (0,))}, "outside"),
        ({"a": tensor("0", (2,), (1,), offset=-1)}, "outside"),
        ({"a": tensor("0", (1,) * 100, (1,) * 100)}, "outside"),
        ({"a": tensor("0", (2,), (1,), count=1 << 40)}, "more data than it has"),
        ({"a": tensor("1", (2,), (1,))}, "damaged"),
    ],
)
def test_pickles_that_are_no_state_dict_are_refused_and_not_run(tree, words, make, read):
    data = {} if "objects" in words else DATA
    with pytest.raises(UserError, match=words) as error:
        read(make(tree, data))
    assert str(error.value).startswith("w.pth ") and "\n" not in str(error.value)
    assert not os.path.exists("EXECUTED")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b""),
        ("w.pth", b"<html>not found</html>"),
        ("w.pth", zip_file(TREE, DATA)[:-40]),
        ("w.pth", zip_file(TREE, {"0": bytes(20)})),
        ("w.pth", zip_file(TREE, {"0": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)),
        ("w.pth", legacy_file(TREE, DATA)[:-1]),
        ("w.safetensors", b"<html>not found</html>"),
        ("w.safetensors", safetensors_file(entry(), b"1234")),
        ("w.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        ("w.safetensors", safetensors_file(entry(shape=[1 << 62, 4]), bytes(8))),
        ("w.safetensors", safetensors_file(entry(dtype="F8_E4M3", shape=[8]), bytes(8))),
    ],
)
def test_damaged_files_and_bombs(name, content, read):
    with pytest.raises(UserError, match=f"^{name} is no weights file, or a damaged one") as error:
        read(content, name)
    assert "\n" not in str(error.value)


def test_files_that_are_too_large_or_of_no_known_kind(tmp_path, read):
    with open(tmp_path / "w.pt", "wb") as f:
        f.truncate((1 << 30) + 1)  # without a byte on the disk
    (tmp_path / "d.pth").mkdir()
    for name, words in (
        ("w.pt", "has 1073741825 bytes"),
        ("w.h5", ".safetensors, .pth"),
        ("d.pth", "is a folder"),
        ("none.pth", "none.pth"),
    ):
        with pytest.raises(UserError, match=words):
            weights_file.read(name)
    with pytest.raises(UserError, match="no tensors"):
        read(safetensors_file({}), "w.safetensors")
