"""Checkpoints of other TF1 programs, imported by a mapping of names."""

import numpy as np
import pytest
import yaml
from imported_models import SMALL, restored_params

from utils import checkpoint_tool, import_weights
from utils.base.errors import UserError
from utils.training import averages, model_files
from utils.weights import model_folder


@pytest.fixture
def other_program(imported, tmp_path):
    """(checkpoint, mapping, folder, a gamma): a network of ours under names of another program."""
    _, model_dir = imported(SMALL)
    values = checkpoint_tool.read(model_dir)
    weights = {n: v for n, v in values.items() if "RMSProp" not in n and "Average" not in n}
    names = {n.replace("mnas", "layer").replace("/", ":"): n for n in weights if n != "global_step"}
    theirs = {their: weights[our] for their, our in names.items()}
    # An average that differs from its variable, and a slot that has no place.
    key = next(n for n in names if n.endswith("gamma"))
    theirs[key + "/ExponentialMovingAverage"] = theirs[key] + 1
    theirs[key + "/Momentum"] = theirs[key]
    theirs["global_step"] = np.asarray(77, np.int64)
    model_folder.save_checkpoint(str(tmp_path / "theirs.ckpt"), theirs)
    spec = model_files.stored_params(model_dir)["model_spec"]
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


def test_checkpoint_of_another_program(other_program, imported):
    checkpoint, names, tmp_path, key = other_program
    model_dir = _import_other(checkpoint, names, tmp_path)
    ours = names[key]
    held = checkpoint_tool.read(model_dir)
    differences = checkpoint_tool.compare(checkpoint_tool.read(imported(SMALL)[1]), held)
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
        (lambda names, key: names.update({key: "nowhere"}), "has no variable nowhere"),
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
        (lambda value: np.full_like(value, np.nan), "NaN or numbers that are infinite"),
        (lambda value: np.full_like(value, -np.inf), "NaN or numbers that are infinite"),
        (lambda value: np.full(value.shape, 1e300), "infinite in float32"),
        (lambda value: np.ones(value.shape, np.int8), "int8"),
        (lambda value: value[:-1], "instead of"),
    ],
)
def test_numbers_of_another_program_that_are_no_weights(change, words, suffix, other_program):
    checkpoint, names, tmp_path, key = other_program
    values = checkpoint_tool.read(checkpoint)
    values[key + suffix] = change(values[key])
    model_folder.save_checkpoint(checkpoint, values)
    with pytest.raises(UserError, match=words) as error:
        _import_other(checkpoint, names, tmp_path)
    assert names[key] + suffix in str(error.value)
    assert not (tmp_path / "from_tf1").exists()
