"""Listing and comparing checkpoints, through the command line's own main()."""

import numpy as np
import pytest

from utils import checkpoint_tool
from utils.base.errors import UserError
from utils.weights import conversion, weights_file


@pytest.fixture
def values():
    return {
        "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/bias": np.zeros([3], np.float32),
        "global_step": np.asarray(12, np.int64),
    }


def save(tmp_path, name, values):
    path = str(tmp_path / name)
    conversion.save_checkpoint(path, values)
    return path


def run(capsys, *arguments):
    status = checkpoint_tool.main(["checkpoint_tool", *arguments])
    return status, capsys.readouterr().out


def test_list(values, tmp_path, capsys):
    status, out = run(capsys, "list", save(tmp_path, "model.ckpt-12", values))
    assert status == 0
    kernel, total = out.splitlines()[1], out.splitlines()[-1]
    assert kernel.split() == ["a/kernel", "float32", "[2,", "3]", "mean", "2.5", "std", "1.708"]
    assert "global_step" in out and "= 12" in out
    assert total == "3 tensors, 10 numbers, 0.0 MB"


def test_equal_checkpoints_agree(values, tmp_path, capsys):
    first, second = save(tmp_path, "a", values), save(tmp_path, "b", values)
    status, out = run(capsys, "compare", first, second + ".index")
    assert (status, out) == (0, "a and b.index agree in 3 names, shapes and values.\n")


def test_every_kind_of_difference_is_named(values, tmp_path, capsys):
    other = {
        "a/kernel": values["a/kernel"] + np.float32(0.5),
        "a/bias": np.zeros([4], np.float32),
        "b": np.zeros([1], np.float32),
    }
    first, second = save(tmp_path, "a", values), save(tmp_path, "b", other)
    status, out = run(capsys, "compare", first, second)
    assert status == 1
    assert out.splitlines() == [
        "only in the first (1):",
        "  global_step []",
        "only in the second (1):",
        "  b [1]",
        "other shape or type (1):",
        "  a/bias: float32 [3] and float32 [4]",
        "other values (1):",
        "  a/kernel: 0.0909 relative",
    ]


def test_tolerance_and_nan(values):
    near = {**values, "a/kernel": values["a/kernel"] * np.float32(1.001)}
    broken = {**values, "a/kernel": values["a/kernel"] * np.float32("nan")}
    assert checkpoint_tool.compare(values, near, 1e-2) == {}
    assert list(checkpoint_tool.compare(values, near, 1e-4)) == ["other values"]
    assert list(checkpoint_tool.compare(values, broken, 1e-2)) == ["other values"]
    assert checkpoint_tool.compare(broken, broken) == {}


def test_weights_files_can_be_compared_too(values, tmp_path):
    path = str(tmp_path / "w.safetensors")
    weights_file.write_safetensors(path, {"a/kernel": values["a/kernel"]})
    assert list(checkpoint_tool.compare(values, checkpoint_tool.read(path))) == [
        "only in the first"
    ]


def test_damaged_and_missing_checkpoints(values, tmp_path):
    path = save(tmp_path, "a", values)
    with open(path + ".data-00000-of-00001", "r+b") as f:
        f.truncate(8)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint_tool.read(path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint_tool.read(str(tmp_path / "none"))


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf"])
def test_a_tolerance_that_tolerates_nothing_or_everything_is_refused(tolerance, values, tmp_path):
    path = save(tmp_path, "a", values)
    arguments = ["checkpoint_tool", "compare", path, path, f"--tolerance={tolerance}"]
    with pytest.raises(UserError, match=r"tolerance=.* is invalid"):
        checkpoint_tool.main(arguments)
