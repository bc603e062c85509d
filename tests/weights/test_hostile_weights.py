"""Weights files from strangers: each ends in a sentence or a result, within bounds."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from torch_files import Call, tensor, zip_file

from utils.base.errors import UserError
from utils.weights import weights_file

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Name of a file -> how the listing and the import of it end."""
    process = subprocess.run(
        [sys.executable, "tests/hostile_weights.py", str(tmp_path_factory.mktemp("hostile"))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


def test_no_weights_file_does_harm(ends):
    """Tracebacks, crashes, hangs, memory over 4 GB, code that runs and half models are harm."""
    harm = {
        name: found
        for name, found in ends.items()
        if not all(end == "taken" or re.fullmatch("refused: .+", end) for end in found)
        or found[1] == "taken"
    }
    assert len(ends) > 100 and not harm


def read(tmp_path, content, name="w.pth"):
    (tmp_path / name).write_bytes(content)
    return weights_file.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zip: 100 dimensions", "100 dimensions"),
        ("safetensors: 100 dimensions", "100 dimensions"),
        ("zip: two thousand views of one storage", "2097152000 bytes"),
        ("archive: members that overlap", "2097152000 bytes"),
        ("legacy: a storage of terabytes", "more data than it has|damaged"),
        ("safetensors: overlapping", "offset"),
        ("zip: tensors without number", "more than 10000 tensors"),
        ("zip: a name of a line feed", "name of a tensor"),
        ("zip: STACK_GLOBAL", "os.system"),
        ("legacy: an entry that calls", "os.system"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(name, words, ends):
    for end in ends[name]:
        assert re.search(words, end) and end.startswith("refused: w.")
        assert re.search(r"save|download", end)


def test_a_file_larger_than_any_network_is_not_read(tmp_path):
    with open(tmp_path / "w.pth", "wb") as f:
        f.truncate((1 << 30) + 1)  # without a byte on the disk
    with pytest.raises(UserError, match=r"w\.pth has 1073741825 bytes"):
        weights_file.read(str(tmp_path / "w.pth"))


# What is not hostile.

SIX = np.arange(6, dtype="<f4")


def test_layers_may_share_a_tensor(tmp_path):
    state = read(
        tmp_path,
        zip_file({name: tensor("0", (2, 3), (3, 1)) for name in "abc"}, {"0": SIX.tobytes()}),
    )
    for name in "abc":
        np.testing.assert_array_equal(state[name], SIX.reshape(2, 3))


def test_strides_of_what_has_no_second_element_do_not_matter(tmp_path):
    tree = {
        "one": tensor("0", (1, 6), (1 << 62, 1)),
        "none": tensor("0", (0, 2), (1 << 62, 1 << 62), offset=6),
        "scalar": tensor("0", (), (), offset=5),
    }
    state = read(tmp_path, zip_file(tree, {"0": SIX.tobytes()}))
    np.testing.assert_array_equal(state["one"], SIX.reshape(1, 6))
    assert state["none"].shape == (0, 2) and state["scalar"] == 5


def test_dictionaries_that_python_2_wrote(tmp_path):
    """It gave an OrderedDict its entries as an argument."""
    tree = Call("collections", "OrderedDict", [["a", tensor("0", (6,), (1,))]])
    state = read(tmp_path, zip_file(tree, {"0": SIX.tobytes()}))
    np.testing.assert_array_equal(state["a"], SIX)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_whatever_else_a_checkpoint_holds_is_passed_over(protocol, tmp_path):
    beside = {
        "epoch": 3, "loss": 0.5, "best": None, "done": True, "history": [1, [2.5, "x"], (3, -4, 5)],
        "huge": 1 << 70, "negative": -(1 << 40), "long": "ä" * 300, 7: {}, "": (),
        "options": {"betas": (0.9, 0.999), "names": ["a"] * 2000},
    }  # fmt: skip
    tree = {"extra": beside, "state_dict": {"a": tensor("0", (6,), (1,))}}
    content = zip_file(tree, {"0": SIX.tobytes()}, protocol=protocol)
    np.testing.assert_array_equal(read(tmp_path, content)["a"], SIX)
