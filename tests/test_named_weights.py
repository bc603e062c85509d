"""Weights by name in the program and in the command that prepares ImageNet weights."""

import golden_files
import golden_weights_torch
import hub_server
import hub_weights
import pytest
import yaml
from main_runs import log_of, refusal
from torch_files import pth_file

from utils import checkpoint_tool, pretrained
from utils.base.errors import UserError
from utils.running import loop
from utils.training import configuration
from utils.weights import conversion

SMALL = "timm/mnasnet_small.lamb_in1k"
A1 = "timm/semnasnet_100.rmsp_in1k"


@pytest.fixture(autouse=True)
def anew():
    """Forgets what other tests imported, as a new process does."""
    conversion._imported_folder.cache_clear()


def test_fine_tuning_by_name_in_one_command(hub, digits_dir, tmp_path, monkeypatch, caplog):
    hub.commit(SMALL, hub_weights.repository("mnasnet_small", crop_pct=0.9))
    model_dir = tmp_path / "model"
    flags = {
        "init_checkpoint": f"hf://{SMALL}", "data_dir": digits_dir, "model_dir": str(model_dir),
        "input_image_size": 32, "train_batch_size": 4, "train_steps": 1, "mode": "train",
        "freeze_backbone": True, "add_summaries": False,
    }  # fmt: skip
    log = log_of(caplog, *(f"--{name}={value}" for name, value in flags.items()))
    assert f"Fine-tuning from hf://{SMALL}" in log and "100.0 % of the backbone" in log
    params = yaml.safe_load((model_dir / "params.yaml").read_text())
    assert params["init_checkpoint"] == f"hf://{SMALL}"
    assert params["model_name"] == "mnasnet_small" and params["num_label_classes"] == 10
    assert params["eval_crop_share"] == 0.9 and params["input_image_size"] == 32
    # A run that resumes asks neither the hub nor the cache.
    conversion._imported_folder.cache_clear()
    hub_server.use("http://127.0.0.1:9", tmp_path / "other", monkeypatch)
    params = configuration.resolve(flags, conversion.initial_weights)
    assert params["model_name"] == "mnasnet_small" and params["eval_crop_share"] == 0.9
    assert loop.prepare(params)["init_checkpoint"] is None


def test_fine_tuning_from_a_file_without_classifier(digits_dir, tmp_path, caplog):
    state = golden_weights_torch.state_dict(golden_files.read("timm_mnasnet_small"))
    backbone = {f"net.{key}": v for key, v in state.items() if not key.startswith("classifier")}
    (tmp_path / "last.ckpt").write_bytes(pth_file(backbone))
    log = log_of(
        caplog, f"--init_checkpoint={tmp_path}/last.ckpt", f"--data_dir={digits_dir}",
        f"--model_dir={tmp_path}/model", "--input_image_size=32", "--train_batch_size=4",
        "--train_steps=1", "--mode=train", "--freeze_backbone", "--add_summaries=False",
    )  # fmt: skip
    assert "last.ckpt has no classifier" in log and "100.0 % of the backbone" in log
    held = checkpoint_tool.read(str(tmp_path / "model"))
    (kernel,) = (name for name in held if name.endswith("/dense/kernel"))
    assert kernel.startswith("mnasnet_small/") and held[kernel].shape == (1280, 10)


def test_initial_weights_that_cannot_be_fetched(hub, digits_dir, tmp_path):
    sentence = refusal(
        f"--init_checkpoint=hf://{SMALL}", f"--data_dir={digits_dir}", f"--model_dir={tmp_path}/m"
    )
    assert "check the name" in sentence and not (tmp_path / "m").exists()


def test_a_folder_of_initial_weights_stays_a_pattern_free_path(digits_dir, tmp_path):
    assert "stands for other characters" in refusal(
        f"--init_checkpoint={tmp_path}/*", f"--data_dir={digits_dir}", f"--model_dir={tmp_path}/m"
    )


def test_mnasnet_comes_from_the_hub_where_it_can_be_reached(hub, tmp_path, caplog):
    hub.commit(A1, hub_weights.repository("semnasnet_100", 1000))
    folders = (str(tmp_path / "a1"), str(tmp_path / "lite0"))
    with caplog.at_level("INFO", "absl"):
        pretrained.prepare_mnasnet(*folders)
    assert f"MnasNet-A1 of hf://{A1} is used, published top-1 75.45 %" in caplog.text
    assert (tmp_path / "a1" / "checkpoint").exists() and not (tmp_path / "lite0").exists()
    asked = len(hub.requests)
    pretrained.prepare_mnasnet(*folders)  # a second time does nothing
    assert len(hub.requests) == asked


def test_a_relative_stands_in_where_it_cannot(hub, tmp_path, caplog, monkeypatch):
    hub.fails_with = 503
    prepared = []
    monkeypatch.setattr(pretrained, "prepare", prepared.append)  # other tests run it
    with caplog.at_level("INFO", "absl"):
        pretrained.prepare_mnasnet(str(tmp_path / "a1"), "lite0")
    assert "stands in for MnasNet-A1: hf://timm/" in caplog.text
    assert prepared == ["lite0"] and not (tmp_path / "a1").exists()


def test_a_file_that_is_wrong_is_no_reason_to_take_another(hub, tmp_path):
    files = hub_weights.repository("semnasnet_100")
    hub.commit(A1, {**files, "config.json": hub_weights.config("resnet50", 1000)})
    with pytest.raises(UserError, match="another family"):
        pretrained.prepare_mnasnet(str(tmp_path / "a1"), str(tmp_path / "lite0"))


def test_the_list_of_known_weights(capsys):
    pretrained.main(["pretrained", "--list"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "network", "multiplier", "top-1", "%", "source", "licence"]
    assert len(rows) == 9 and rows[0].split()[1:5] == ["mnasnet-a1", "1.0", "75.45", f"hf://{A1}"]


def test_a_command_without_a_folder_prints_its_usage(capsys):
    with pytest.raises(SystemExit) as exit_:
        pretrained.main(["pretrained"])
    assert exit_.value.code == 2 and "--model_dir or --list" in capsys.readouterr().err
