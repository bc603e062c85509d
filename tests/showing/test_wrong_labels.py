"""Whether wrong labels are among the first confident mistakes, after a fine-tuning."""

import csv
import json
import os
import random

import pytest
from main_runs import run_here

from utils import pretrained
from utils import report as command
from utils.building import build_folder, build_photographs
from utils.reading import dataset_info, records

SHARE = 0.05  # of labels that are swapped
SWAPPED = "swapped-"


def write_folders(data_dir, root):
    """Writes the pictures of a data set as folders of classes, 5 % of them in a wrong one."""
    names = dataset_info.load(data_dir).label_names
    rng = random.Random(0)
    for prefix, split in ((records.TRAIN_PREFIX, "train"), (records.EVAL_PREFIX, "validation")):
        pictures = [
            records.unpack(record, path, number)
            for path in records.list_files(data_dir, prefix)
            for number, record in enumerate(records.read_records(path))
        ]
        swapped = set(rng.sample(range(len(pictures)), round(SHARE * len(pictures))))
        for number, (image_bytes, label) in enumerate(pictures):
            others = [name for name in names if name != names[label - 1]]
            folder = root / split / (rng.choice(others) if number in swapped else names[label - 1])
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{SWAPPED if number in swapped else ''}{number}.jpg"
            (folder / name).write_bytes(image_bytes)


def first_tenth(folder):
    """Returns (names of the first tenth of the pictures, all names), the most suspicious first."""
    with open(os.path.join(folder, "predictions.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    rows.sort(key=lambda row: float(row["suspicion"]), reverse=True)
    ordered = [row["picture"] for row in rows]
    with open(os.path.join(folder, "report.json")) as f:
        found = json.load(f)
    shown = [found["pictures"][str(number)]["picture"] for number in found["mistakes"]]
    assert shown[:10] == ordered[:10]
    return ordered[: len(ordered) // 10], ordered


@pytest.mark.slow
def test_swapped_labels_are_found(tmp_path):
    """In the validation pictures and, as the training is short, in those that it learned, too."""
    build_photographs.build(f"{tmp_path}/natural")
    pretrained.prepare(f"{tmp_path}/weights")
    write_folders(f"{tmp_path}/natural", tmp_path / "pictures")
    build_folder.build(build_folder.FolderOptions(f"{tmp_path}/pictures", f"{tmp_path}/data"))
    run_here(
        "--config_file=finetune",
        f"--init_checkpoint={tmp_path}/weights",
        "--freeze_until=none",
        "--freeze_backbone",
        "--train_steps=40",
        "--steps_per_eval=40",
        "--report",
        f"--data_dir={tmp_path}/data",
        f"--model_dir={tmp_path}/model",
    )
    command.main(
        [
            "report",
            f"--model={tmp_path}/model",
            f"--data_dir={tmp_path}/data",
            "--split=train",
            f"--output_dir={tmp_path}/train",
        ]
    )
    for folder, total in ((tmp_path / "model" / "report", 330), (tmp_path / "train", 440)):
        first, everything = first_tenth(folder)
        wrong = {name for name in everything if name.startswith(SWAPPED)}
        assert (len(everything), len(wrong)) == (total, round(SHARE * total))
        assert len(wrong & set(first)) >= 0.8 * len(wrong)
