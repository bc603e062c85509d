"""Weights files of PyTorch: what can be read, and what is refused."""

import io
import os
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
