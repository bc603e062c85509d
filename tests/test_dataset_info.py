"""Tests of dataset_info.json."""

import json

import pytest

from utils import dataset_info
from utils.dataset_info import DatasetInfo
from utils.errors import UserError

INFO = DatasetInfo(
    name="Äpfel",
    num_train_images=100,
    num_eval_images=20,
    num_label_classes=2,
    label_names=("Boskoop", "Grävensteiner"),
    shards={"train-00000-of-00001": 100, "validation-00000-of-00001": 20},
    builder="test 1.0",
)


def write(folder, content):
    path = folder / "dataset_info.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_round_trip(tmp_path):
    INFO.write(str(tmp_path))
    assert dataset_info.load(str(tmp_path)) == INFO
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8") == "Boskoop\nGrävensteiner\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset_info.json", "labels.txt"]


def test_no_labels_file_without_names(tmp_path):
    DatasetInfo("x", 1, 2, 3).write(str(tmp_path))
    assert not (tmp_path / "labels.txt").exists()
    assert dataset_info.load(str(tmp_path)).label_names == ()


def test_features_are_those_of_the_records():
    assert INFO.features == ("image/encoded", "image/class/label")


@pytest.mark.parametrize("data_dir", [None, "", "null"])
def test_no_folder_no_description(data_dir):
    assert dataset_info.load(data_dir) is None


def test_folder_without_description(tmp_path):
    assert dataset_info.load(str(tmp_path)) is None
    assert dataset_info.load(str(tmp_path / "nowhere")) is None


def test_more_keys_than_known_do_no_harm(tmp_path):
    INFO.write(str(tmp_path))
    content = json.loads((tmp_path / "dataset_info.json").read_text())
    write(tmp_path, {**content, "future": 1})
    assert dataset_info.load(str(tmp_path)) == INFO


GOOD = {"name": "x", "num_train_images": 1, "num_eval_images": 2, "num_label_classes": 3}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        {"name": "x"},
        {**GOOD, "num_train_images": "many"},
        {**GOOD, "num_train_images": None},
        {**GOOD, "num_eval_images": -1},
        {**GOOD, "num_label_classes": 2.5},
        {**GOOD, "label_names": None},
        {**GOOD, "label_names": ["one"]},
    ],
)
def test_what_is_no_description_is_named(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        dataset_info.load(str(tmp_path))
    assert path in str(error.value)
