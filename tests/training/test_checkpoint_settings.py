"""Tests of what a checkpoint's variable names tell of the settings that made it."""

import golden_files
import pytest
from resolved_settings import record, resolve
from saved_checkpoints import data_file, save, save_names, truncate

from utils.training import checkpoint_settings

MODELS = [
    ("mnasnet-a1", "keras"), ("mnasnet-a1", "layers"), ("mnasnet-b1", "keras"),
    ("mnasnet-d1", "layers"), ("mnasnet-small", "keras"),
]  # fmt: skip


def names_of(model, kind, averaged):
    """The names in a training's checkpoint of the published program."""
    weights = [row[0] for row in golden_files.read(f"variables_{model}_{kind}")["variables"]]
    trained = [name for name in weights if "/moving_" not in name]
    slots = [f"{name}/{slot}" for name in trained for slot in ("RMSProp", "RMSProp_1")]
    averages = [f"{name}/ExponentialMovingAverage" for name in weights] if averaged else []
    return ["global_step", *weights, *slots, *averages]


@pytest.mark.parametrize(("model", "kind"), MODELS)
@pytest.mark.parametrize("averaged", [True, False])
def test_names_tell_layers_and_averages(model, kind, averaged):
    expected = {"use_keras": kind == "keras"} | ({} if averaged else {"moving_average_decay": 0.0})
    assert checkpoint_settings.told_by(names_of(model, kind, averaged)) == expected


def test_weights_without_slots_tell_nothing_of_averages():
    weights = ["mnasnet-a1/mnas_stem/conv2d/kernel", "global_step"]
    assert checkpoint_settings.told_by(weights) == {"use_keras": False}


@pytest.mark.parametrize("names", [[], ["x"], ["resnet/conv2d/kernel", "mnas_stem/kernel_size"]])
def test_other_names_tell_nothing(names):
    assert checkpoint_settings.told_by(names) == {}


# In a run.


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "model").mkdir()
    return str(tmp_path / "model")


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_what_follows_anyway_is_not_said(tmp_path, model_dir, model, kind, caplog):
    save_names(model_dir, 5, names_of(model, kind, averaged=True))
    with caplog.at_level("INFO", "absl"):
        params = resolve(tmp_path, model_name=model)
    is_told = (model, kind) == ("mnasnet-a1", "layers")
    assert params["use_keras"] is (False if is_told else None)
    assert params["moving_average_decay"] == 0.9999
    assert ("tell that it was made with --use_keras=False." in caplog.text) == is_told


def test_layers_and_averages_in_one_line(tmp_path, model_dir, caplog):
    save_names(model_dir, 5, names_of("mnasnet-a1", "layers", averaged=False))
    with caplog.at_level("INFO", "absl"):
        params = resolve(tmp_path)
    assert (params["use_keras"], params["moving_average_decay"]) == (False, 0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("made with --use_keras=False, --moving_average_decay=0.0.")
    assert model_dir in message


@pytest.mark.parametrize("given", [{"use_keras": True}, {"moving_average_decay": 0.99}])
def test_what_the_user_gives_stays(tmp_path, model_dir, given):
    save_names(model_dir, 5, names_of("mnasnet-a1", "layers", averaged=False))
    params = resolve(tmp_path, **given)
    assert {name: params[name] for name in given} == given


def test_a_damaged_checkpoint_is_passed_over(tmp_path, model_dir):
    save_names(model_dir, 5, names_of("mnasnet-a1", "layers", averaged=False))
    damaged = save_names(model_dir, 6, ["x"])
    truncate(data_file(damaged).with_name("model.ckpt-6.index"))
    assert resolve(tmp_path)["use_keras"] is False


def test_the_exported_checkpoint_tells(tmp_path, model_dir):
    save_names(model_dir, 5, names_of("mnasnet-d1", "layers", averaged=True))
    (tmp_path / "other").mkdir()
    path = save_names(str(tmp_path / "other"), 5, names_of("mnasnet-a1", "layers", averaged=True))
    given = {"mode": "export_only", "export_dir": "x"}
    assert resolve(tmp_path, **given, export_checkpoint=path)["use_keras"] is False
    save(model_dir, 6)
    assert resolve(tmp_path, **given)["use_keras"] is None


def test_the_best_checkpoint_tells(tmp_path, model_dir):
    (tmp_path / "model" / "archive").mkdir()
    save_names(f"{model_dir}/archive", 5, names_of("mnasnet-a1", "layers", averaged=True))
    given = {"mode": "export_only", "export_dir": "x", "export_checkpoint": "best"}
    assert resolve(tmp_path, **given)["use_keras"] is False


def test_recorded_averages_need_no_flag_either(tmp_path):
    params = record(tmp_path, use_keras=False, moving_average_decay=0.0)
    save_names(params["model_dir"], 5, names_of("mnasnet-a1", "layers", averaged=False))
    assert resolve(tmp_path)["moving_average_decay"] == 0
