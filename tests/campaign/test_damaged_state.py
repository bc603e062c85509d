"""Damaged files of the program's own: each mode goes ahead or refuses, and loses no checkpoint."""

import pytest

import mnasnet_main
from utils.training import checkpoints

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["train_and_eval", "export_only"])
@pytest.mark.parametrize(
    "damage", ["", "[]", '{"global_step": null, "files": null}', "cut in half", "binary"]
)
@pytest.mark.parametrize(
    "file",
    [
        "model/checkpoint",
        "model/evaluations.json",
        "model/archive/best.json",
        "model/params.yaml",
        "model/labels.txt",
        "model/export/export_report.json",
        "data/dataset_info.json",
        "data/labels.txt",
    ],
)
def test_a_damaged_file(file, damage, mode, base, answer):
    path = base.folder / file
    if not path.exists():
        pytest.skip("this data set has no such file")
    content = path.read_bytes()
    others = {"cut in half": content[: len(content) // 2], "binary": bytes(range(256))}
    path.write_bytes(others.get(damage, damage.encode()))
    model = base.folder / "model"
    answer(mnasnet_main.main, *base.flags(mode=mode, train_steps=6, export_dir=model / "export"))
    kept = [str(path).removesuffix(".index") for path in model.glob("model.ckpt-*.index")]
    complete = [checkpoints.step_of(path) for path in kept if checkpoints.is_complete(path)]
    assert max(complete) >= 4
