"""The command that imports weights: its arguments, and models that others say what they are."""

import logging

import golden_files
import pytest
import yaml
from imported_models import SMALL, SPEC, restored_params, run_import, write

import mnasnet_models
from utils import import_weights
from utils.base.errors import UserError
from utils.config import network


def test_a_users_description_goes_before_what_is_recognized(tmp_path, caplog):
    caplog.set_level(logging.INFO, "absl")
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SPEC, "activation": "relu6"}))
    run_import(path, tmp_path / "a", model_spec=str(tmp_path / "mine.yaml"))
    params = restored_params(str(tmp_path / "a"))
    described = network.describe(params)
    assert params["model_name"] == "mine" and params["num_label_classes"] == 16
    assert (described["padding"], described["activation"]) == ("same", "relu6")
    assert "same padding, the batch-norm epsilon 0.001 and the activation relu6" in caplog.text
    run_import(path, tmp_path / "b", batch_norm_epsilon="0.01")
    described = network.describe(restored_params(str(tmp_path / "b")))
    assert (described["padding"], described["batch_norm_epsilon"]) == ("symmetric", 0.01)
    assert "symmetric padding, the batch-norm epsilon 0.01" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth_multiplier": "0.5"}, "needs --mapping or --model_spec"),
        ({"source": "timm:mnasnet", "model_spec": "SPEC"}, "are both given"),
        ({"depth_multiplier": "0.5", "model_spec": "SPEC"}, "does not fit the specification"),
    ],
)
def test_descriptions_that_cannot_be(arguments, words, tmp_path):
    path = write(tmp_path / "w.safetensors", golden_files.read(SMALL))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPEC))
    if "model_spec" in arguments:
        arguments = {**arguments, "model_spec": str(tmp_path / "mine.yaml")}
    with pytest.raises(UserError, match=words):
        run_import(path, tmp_path / "model", **arguments)


def test_torchvision_has_no_names_for_squeeze_and_excite(tmp_path):
    golden = golden_files.read("torchvision_mnasnet0_5")
    path = write(tmp_path / "w.safetensors", golden)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"stages": list(mnasnet_models.MODELS["mnasnet-a1"].stages)})
    )
    with pytest.raises(UserError, match="does not come from a program whose weights"):
        run_import(path, tmp_path / "model", model_spec=str(tmp_path / "mine.yaml"))


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth cannot be read") as error:
        import_weights.main(
            ["import", f"--weights={tmp_path}/none.pth", f"--model_dir={tmp_path}/m"]
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()
