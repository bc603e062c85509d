"""Tests of the settings of fine-tuning: defaults, the initial network, freezing."""

import pytest
from resolved_settings import record, resolve, write_checkpoint, write_yaml

from utils.config import network, settings
from utils.training import configuration

FINE_TUNING = settings.fine_tuning_defaults()


def test_fine_tuning_has_defaults_of_its_own_and_training_keeps_the_recipe(tmp_path):
    assert set(FINE_TUNING) == {"base_learning_rate", "warmup_epochs", "batch_norm_momentum"}
    plain = resolve(tmp_path)
    tuned = resolve(tmp_path, init_checkpoint=str(tmp_path / "other"))
    for name, value in FINE_TUNING.items():
        assert plain[name] == settings.SETTINGS[name].default != value
        assert tuned[name] == value
    assert tuned["base_learning_rate"] < plain["base_learning_rate"]
    assert tuned["warmup_epochs"] < plain["warmup_epochs"]
    others = set(plain) - set(FINE_TUNING) - {"init_checkpoint"}
    assert {name: plain[name] for name in others} == {name: tuned[name] for name in others}


def test_what_is_said_wins_over_the_defaults_of_fine_tuning(tmp_path):
    path = write_yaml(tmp_path / "file.yaml", {"init_checkpoint": "x", "warmup_epochs": 5.0})
    params = resolve(
        tmp_path,
        config_file=path,
        params_override="base_learning_rate=0.016",
        batch_norm_momentum=0.99,
    )
    assert [params[name] for name in ("base_learning_rate", "warmup_epochs")] == [0.016, 5.0]
    assert params["batch_norm_momentum"] == 0.99


def test_the_values_of_fine_tuning_are_one_line(tmp_path, caplog):
    with caplog.at_level("INFO", "absl"):
        configuration.log_summary(resolve(tmp_path, init_checkpoint="w", warmup_epochs=3.0))
    (line,) = [m for m in caplog.messages if "Fine-tuning" in m]
    for name, value in FINE_TUNING.items():
        assert (f"{name}={value:g}" in line) == (name != "warmup_epochs")
    assert "warmup_epochs=3 (given)" in line
    caplog.clear()
    with caplog.at_level("INFO", "absl"):
        configuration.log_summary(resolve(tmp_path))
    assert not [m for m in caplog.messages if "Fine-tuning" in m or "Frozen" in m]


def test_an_initial_checkpoint_that_is_not_read_again_is_said_so(tmp_path, caplog):
    record(tmp_path)
    with caplog.at_level("INFO", "absl"):
        configuration.log_summary(resolve(tmp_path, init_checkpoint="w"))
    assert not [m for m in caplog.messages if "Fine-tuning" in m]
    (line,) = [m for m in caplog.messages if "init_checkpoint" in m]
    assert line.startswith("--init_checkpoint=w is not read again")


RELATIVE = {
    "stages": ["r1_k3_s22_e3_i8_o8", "r1_k3_s11_e3_i8_o8"],
    "activation": "relu6",
    "padding": "symmetric",
    "batch_norm_epsilon": 1e-5,
    "head_size": 64,
    "stem_size": 8,
    "mean_rgb": [127.0, 127.0, 127.0],
    "stddev_rgb": [128.0, 128.0, 128.0],
}


@pytest.mark.parametrize(
    "named", ["{}/", "{}/model.ckpt-1", "{}/archive", "{}/archive/model.ckpt-1"]
)
def test_the_network_comes_with_the_initial_weights_all_but_the_classes(tmp_path, named):
    origin = tmp_path / "origin"
    (origin / "archive").mkdir(parents=True)
    recorded = {
        "model_name": "theirs",
        "model_spec": RELATIVE,
        "num_label_classes": 1000,
        "depth_multiplier": 0.5,
        "input_image_size": 192,
        "resize_method": "bilinear",
        "use_keras": False,
        "train_steps": 7,
        "base_learning_rate": 3.0,
    }
    write_yaml(origin / "params.yaml", recorded)
    params = resolve(
        tmp_path, init_checkpoint=named.format(origin), num_label_classes=3, input_image_size=64
    )
    expected = network.describe({**settings.default_params(), **recorded})
    assert network.describe(params) == {**expected, "num_classes": 3}
    assert params["resize_method"] == "bilinear" and params["input_image_size"] == 64
    # Settings of the other training do not travel.
    assert params["train_steps"] == settings.SETTINGS["train_steps"].default
    assert params["base_learning_rate"] == FINE_TUNING["base_learning_rate"]


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_saved_nothing_leaves_no_network_for_the_next_fine_tuning(tmp_path, saved):
    (tmp_path / "origin").mkdir()
    (tmp_path / "model").mkdir()
    write_yaml(
        tmp_path / "origin" / "params.yaml",
        {"model_name": "mnasnet-small", "num_label_classes": 10},
    )
    write_yaml(
        tmp_path / "model" / "params.yaml", {"model_name": "mnasnet-b1", "num_label_classes": 3}
    )
    if saved:
        write_checkpoint(str(tmp_path / "model"))
    params = resolve(tmp_path, init_checkpoint=str(tmp_path / "origin"), num_label_classes=3)
    assert params["model_name"] == ("mnasnet-b1" if saved else "mnasnet-small")


@pytest.mark.parametrize(
    ("given", "frozen"),
    [
        ({}, None),
        ({"freeze_until": "block_1"}, "block_1"),
        ({"freeze_until": "none"}, None),
        ({"freeze_backbone": True}, "backbone"),
        ({"freeze_backbone": True, "freeze_until": "none"}, "backbone"),
        ({"freeze_backbone": False, "freeze_until": "block_0"}, "block_0"),
    ],
)
def test_what_is_frozen(tmp_path, given, frozen):
    path = write_yaml(tmp_path / "net.yaml", {"name": "net", **RELATIVE})
    assert network.frozen(resolve(tmp_path, model_spec=path, **given)) == frozen
