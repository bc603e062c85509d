"""Tests of `utils.training.model_files`: the settings that a model_dir keeps."""

import os

import pytest
from resolved_settings import STAGES, record, resolve, write_yaml

from utils.base.errors import UserError
from utils.config import model_spec
from utils.training import model_files


def test_recorded_params_come_back(tmp_path):
    params = record(tmp_path, depth_multiplier=0.5, dropout_rate=0.0, tf_random_seed=3)
    assert model_files.stored_params(params["model_dir"]) == params


def test_no_stored_params(tmp_path):
    assert model_files.stored_params(str(tmp_path)) is None


def test_resuming_takes_the_network_and_nothing_else(tmp_path):
    record(
        tmp_path, model_name="mnasnet-small", depth_multiplier=0.5, num_label_classes=7,
        input_image_size=64, resize_method="bilinear", train_steps=5, use_keras=False,
    )  # fmt: skip
    params = resolve(tmp_path)
    assert params["model_name"] == "mnasnet-small"
    assert params["depth_multiplier"] == 0.5
    assert params["num_label_classes"] == 7
    assert params["input_image_size"] == 64
    assert params["resize_method"] == "bilinear"
    assert params["use_keras"] is False
    assert params["train_steps"] == 437898


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
    assert params["model_spec"] == model_spec.load(path)[1]


def test_another_size_is_a_choice(tmp_path):
    record(tmp_path, input_image_size=64)
    params = resolve(tmp_path, input_image_size=96, dropout_rate=0.1, resize_method="bilinear")
    assert params["input_image_size"] == 96
    assert params["resize_method"] == "bilinear"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_label_classes": 8}, ["num_classes", "7", "8"]),
        ({"depth_multiplier": 1.0}, ["depth_multiplier", "0.5", "1.0"]),
        ({"use_keras": False}, ["use_keras"]),
        ({"model_name": "mnasnet-small"}, ["mnasnet-a1", "mnasnet-small"]),
        ({"batch_norm_epsilon": 1e-5}, ["batch_norm_epsilon"]),
    ],
)
def test_another_network_in_the_same_folder_is_refused(tmp_path, given, words):
    params = record(tmp_path, depth_multiplier=0.5, num_label_classes=7)
    with pytest.raises(UserError) as error:
        resolve(tmp_path, **given)
    for word in [*words, params["model_dir"]]:
        assert word in str(error.value)


def test_other_classes_alone_have_a_remedy(tmp_path):
    model_dir = record(tmp_path, num_label_classes=7)["model_dir"]
    with pytest.raises(UserError, match=f"--init_checkpoint={model_dir} --model_dir=NEW"):
        resolve(tmp_path, num_label_classes=11)
    with pytest.raises(UserError, match="choose another folder or the old settings"):
        resolve(tmp_path, num_label_classes=11, depth_multiplier=0.5)
    with pytest.raises(UserError, match="choose another folder or the old settings"):
        resolve(tmp_path, num_label_classes=11, model_name="mnasnet-b1")


def test_another_network_is_fine_before_the_first_checkpoint(tmp_path):
    params = resolve(tmp_path)
    os.makedirs(params["model_dir"])
    model_files.record_params(params)
    assert resolve(tmp_path, model_name="mnasnet-small")["model_name"] == "mnasnet-small"


def test_a_default_given_again_is_no_other_network(tmp_path):
    record(tmp_path)
    assert resolve(tmp_path, use_keras=True, batch_norm_epsilon=1e-3)["use_keras"] is True


NETWORK = "model_name: mnasnet-a1\nnum_label_classes: 7\n"


@pytest.mark.parametrize(
    "content",
    [
        "train_steps: 5\n", "[1]\n", "a: b: c\n", NETWORK + "depth_multiplier: [1]\n",
        NETWORK + "depth_multiplier: 1.0e+9\n", NETWORK + "model_spec: {stages: 3}\n",
        NETWORK + NETWORK,
    ],
)  # fmt: skip
def test_a_foreign_params_file_is_named(tmp_path, content):
    (tmp_path / "model").mkdir()
    path = write_yaml(tmp_path / "model" / "params.yaml", content)
    with pytest.raises(UserError) as error:
        resolve(tmp_path)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_name", None), ("model_name", "mnasnet-z"), ("model_name", [1]),
        ("model_name", "a b"), ("num_label_classes", None), ("num_label_classes", "many"),
        ("num_label_classes", -1), ("depth_multiplier", {}), ("depth_divisor", 1.5),
        ("use_keras", "x"), ("input_image_size", [64]),
        pytest.param("input_image_size", 10**400, id="huge"),
        ("resize_method", "nearest"), ("model_spec", "x.yaml"), ("model_spec", {}),
        ("model_spec", {"stages": 3}), ("base_learning_rate", "fast"), ("train_steps", True),
    ],
)  # fmt: skip
def test_a_recorded_setting_of_another_kind_is_named(tmp_path, name, value):
    params = record(tmp_path)
    path = write_yaml(tmp_path / "model" / "params.yaml", {**params, name: value})
    with pytest.raises(UserError) as error:
        resolve(tmp_path)
    text = str(error.value)
    assert path in text and "restore it from a copy, or remove it" in text and "\n" not in text
    assert any(
        word in text for word in (name, "the model has no stages", "too many digits", str(value))
    )


@pytest.mark.parametrize("share", [0, 0.2, 0.4])
def test_recorded_settings_that_are_cut_short_are_named(tmp_path, share):
    record(tmp_path)
    path = tmp_path / "model" / "params.yaml"
    path.write_text(path.read_text()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=str(path)) as error:
        resolve(tmp_path)
    assert "\n" not in str(error.value)
