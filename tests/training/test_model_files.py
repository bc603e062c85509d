"""Tests of the settings that a run takes from its model_dir: params.yaml, names of variables."""

import os

import golden_files
import pytest
from resolved_settings import STAGES, record, resolve, write_yaml
from saved_checkpoints import data_file, save, save_names, truncate

from utils.base.errors import UserError
from utils.config import network
from utils.training import configuration, model_files


def test_recorded_params_come_back(tmp_path):
    params = record(tmp_path, depth_multiplier=0.5, dropout_rate=0.0, tf_random_seed=3)
    assert model_files.stored_params(params["model_dir"]) == params
    assert model_files.stored_params(str(tmp_path)) is None


def test_settings_of_another_version_are_left_out(tmp_path):
    params = record(tmp_path)
    write_yaml(tmp_path / "model" / "params.yaml", {**params, "export_normalized_input": True})
    assert model_files.stored_params(params["model_dir"]) == params


def test_resuming_takes_the_network_and_nothing_else(tmp_path):
    carried = {
        "model_name": "mnasnet-small",
        "depth_multiplier": 0.5,
        "num_label_classes": 7,
        "input_image_size": 64,
        "resize_method": "bilinear",
        "use_keras": False,
    }
    record(tmp_path, **carried, train_steps=5)
    params = resolve(tmp_path)
    assert {name: params[name] for name in carried} == carried
    assert params["train_steps"] == 437898
    assert resolve(tmp_path, input_image_size=96)["input_image_size"] == 96


def test_resuming_reads_the_records_of_the_same_folder_as_before(tmp_path):
    given = {"record_keys": "image=image,label=class", "first_label": 0, "eval_files": "val/*"}
    record(tmp_path, **given)
    params = resolve(tmp_path, first_label=1)
    assert {name: params[name] for name in given} == {**given, "first_label": 1}
    elsewhere = resolve(tmp_path, data_dir=str(tmp_path / "other"))
    assert {elsewhere[name] for name in ("record_keys", "eval_files")} == {None}
    assert elsewhere["first_label"] == 1


def test_resuming_with_a_model_of_ones_own(tmp_path):
    path = write_yaml(tmp_path / "mine.yaml", {"stages": STAGES})
    record(tmp_path, model_spec=path)
    params = resolve(tmp_path)
    assert params["model_name"] == "mine"
    assert params["model_spec"] == network.read_file(path)[1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_label_classes": 8}, ["num_classes 7 -> 8", "--init_checkpoint=", "=NEW"]),
        ({"num_label_classes": 8, "depth_multiplier": 1.0}, ["choose another folder"]),
        ({"num_label_classes": 8, "model_name": "mnasnet-b1"}, ["choose another folder"]),
        ({"use_keras": False}, ["use_keras True -> False"]),
    ],
)
def test_another_network_in_the_same_folder_is_refused(tmp_path, given, words):
    params = record(tmp_path, depth_multiplier=0.5, num_label_classes=7)
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **given)
    for word in [*words, params["model_dir"]]:
        assert word in str(error.value)


def test_a_default_given_again_is_no_other_network(tmp_path):
    record(tmp_path)
    assert resolve(tmp_path, use_keras=True, batch_norm_epsilon=1e-3)["use_keras"] is True


def test_another_network_is_fine_before_the_first_checkpoint(tmp_path):
    params = resolve(tmp_path)
    os.makedirs(params["model_dir"])
    model_files.record_params(params)
    assert resolve(tmp_path, model_name="mnasnet-small")["model_name"] == "mnasnet-small"


NETWORK = "model_name: mnasnet-a1\nnum_label_classes: 7\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "train_steps: 5\n",
        "[1]\n",
        NETWORK[:15],  # cut short
        "model_name: a b\nnum_label_classes: 7\n",
        "model_name: mnasnet-z\nnum_label_classes: 7\n",
        NETWORK + "depth_multiplier: [1]\n",
        NETWORK + "model_spec: {stages: 3}\n",
        NETWORK + "model_spec: x.yaml\n",
        NETWORK + NETWORK,
    ],
)
def test_a_damaged_params_file_is_named(tmp_path, content):
    (tmp_path / "model").mkdir()
    path = write_yaml(tmp_path / "model" / "params.yaml", content)
    with pytest.raises(UserError, match=f"restore {path} from a copy") as error:
        resolve(tmp_path)
    assert "\n" not in str(error.value)


# What the names of variables tell.


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "model").mkdir()
    return str(tmp_path / "model")


MODELS = [("mnasnet-a1", "keras"), ("mnasnet-a1", "layers"), ("mnasnet-d1", "layers")]


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
    assert configuration.told_by(names_of(model, kind, averaged)) == expected


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["mnasnet-a1/mnas_stem/conv2d/kernel", "global_step"], {"use_keras": False}),
        (["resnet/conv2d/kernel", "mnas_stem/kernel_size"], {}),
    ],
)
def test_other_names_tell_less(names, told):
    assert configuration.told_by(names) == told


def test_what_the_names_tell_is_said_and_what_follows_anyway_is_not(tmp_path, model_dir, caplog):
    caplog.set_level("INFO", "absl")
    save_names(model_dir, 5, names_of("mnasnet-a1", "layers", averaged=False))
    params = resolve(tmp_path)
    assert (params["use_keras"], params["moving_average_decay"]) == (False, 0)
    (message,) = caplog.messages
    assert message.endswith("made with --use_keras=False, --moving_average_decay=0.0.")
    assert model_dir in message
    for given in ({"use_keras": True}, {"moving_average_decay": 0.99}):
        params = resolve(tmp_path, **given)
        assert {name: params[name] for name in given} == given
    caplog.clear()
    save_names(model_dir, 5, names_of("mnasnet-d1", "layers", averaged=True))
    assert resolve(tmp_path, model_name="mnasnet-d1")["use_keras"] is None
    assert caplog.messages == []


def test_a_damaged_checkpoint_is_passed_over(tmp_path, model_dir):
    save_names(model_dir, 5, names_of("mnasnet-a1", "layers", averaged=False))
    damaged = save_names(model_dir, 6, ["x"])
    truncate(data_file(damaged).with_name("model.ckpt-6.index"))
    assert resolve(tmp_path)["use_keras"] is False


@pytest.mark.parametrize("checkpoint", ["best", "{}"])
def test_the_exported_checkpoint_tells(tmp_path, model_dir, checkpoint):
    os.mkdir(f"{model_dir}/archive")
    path = save_names(f"{model_dir}/archive", 5, names_of("mnasnet-a1", "layers", averaged=True))
    save(model_dir, 6)
    given = {"mode": "export_only", "export_dir": "x"}
    assert resolve(tmp_path, **given)["use_keras"] is None
    params = resolve(tmp_path, **given, export_checkpoint=checkpoint.format(path))
    assert params["use_keras"] is False
