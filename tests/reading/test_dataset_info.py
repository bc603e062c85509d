"""Tests of dataset_info.json."""

import dataclasses
import json

import pytest
from other_records import TFDS, write_tfds

from utils.base.errors import UserError
from utils.reading import dataset_info, examples, records
from utils.reading.dataset_info import DatasetInfo
from utils.training import model_files

import tensorflow.compat.v1 as tf

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
        {**GOOD, "shards": 3},
        {**GOOD, "shards": {"train-00000-of-00001": "3"}},
        {**GOOD, "shard_bytes": ["train-00000-of-00001"]},
        {**GOOD, "shard_bytes": {"train-00000-of-00001": -1}},
        {**GOOD, "label_names": [1, 2, 3]},
        {**GOOD, "name": 3},
        {**GOOD, "builder": None},
    ],
)
def test_what_is_no_description_is_named(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        dataset_info.load(str(tmp_path))
    assert path in str(error.value)


# The files.


@pytest.fixture
def files(tmp_path):
    """Two training files of 3 and 4 records, and their description."""
    shards, shard_bytes = {}, {}
    for number, count in enumerate((3, 4)):
        name = f"train-{number:05d}-of-00002"
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for _ in range(count):
                writer.write(examples.example(b"x", 1))
        shards[name], shard_bytes[name] = count, (tmp_path / name).stat().st_size
    return tmp_path, DatasetInfo("x", 7, 0, 3, shards=shards, shard_bytes=shard_bytes)


def check(folder, info):
    paths = records.list_files(str(folder), "train-")
    dataset_info.check_files(info, "train-", paths, info.num_train_images)


def test_files_that_agree(files):
    folder, info = files
    check(folder, info)
    check(folder, dataclasses.replace(info, shard_bytes={}))
    check(folder, dataclasses.replace(info, shards={}, shard_bytes={}))


def remove(folder):
    (folder / "train-00001-of-00002").unlink()


def add(folder):
    (folder / "train-00002-of-00003").write_bytes((folder / "train-00001-of-00002").read_bytes())


def cut(folder):
    path = folder / "train-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [(remove, "lacks train-00001-of-00002"), (add, "has train-00002-of-00003"), (cut, "bytes but")],
)
def test_files_that_do_not_agree(files, change, expected):
    folder, info = files
    change(folder)
    with pytest.raises(UserError, match=expected):
        check(folder, info)


@pytest.mark.parametrize(
    ("change", "damaged"),
    [(remove, ["train-00001-of-00002"]), (add, []), (cut, ["train-00000-of-00002"])],
)
def test_damaged_files(files, change, damaged):
    folder, info = files
    assert dataset_info.damaged_files(info, str(folder)) == []
    change(folder)
    assert dataset_info.damaged_files(info, str(folder)) == damaged


def test_of_files_without_known_sizes_only_missing_ones_are_damaged(files):
    folder, info = files
    info = dataclasses.replace(info, shard_bytes={})
    cut(folder)
    assert dataset_info.damaged_files(info, str(folder)) == []
    remove(folder)
    assert dataset_info.damaged_files(info, str(folder)) == ["train-00001-of-00002"]


@pytest.mark.parametrize("known", [{}, {"shards": {}, "shard_bytes": {}}])
def test_counts_that_do_not_agree(files, known):
    folder, info = files
    with pytest.raises(UserError, match="says 8 images for train-\\* but the files hold 7"):
        check(folder, dataclasses.replace(info, num_train_images=8, **known))


def test_label_names_are_those_of_the_models_classes(tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    model.mkdir()
    INFO.write(str(data))
    params = {"data_dir": str(data), "model_dir": str(model), "num_label_classes": 2}
    assert model_files.label_names(params) == ["Boskoop", "Grävensteiner"]
    # Other data, as for calibration, do not name them.
    params["num_label_classes"] = 3
    assert model_files.label_names(params) == []
    (model / "labels.txt").write_text("a\nb\nc\n")
    assert model_files.label_names(params) == ["a", "b", "c"]


# Of TensorFlow Datasets.


def test_what_tensorflow_datasets_says_is_read(digits_dir, tmp_path):
    folder = write_tfds(digits_dir, tmp_path / "tfds")
    info = dataset_info.load(folder)
    assert (info.num_train_images, info.num_eval_images, info.num_label_classes) == (1437, 360, 10)
    assert info.label_names[3] == "3"
    assert info.shards["digits-train.tfrecord-00001-of-00004"] == 359
    for file_prefix, count in (("train-", 1437), ("validation-", 360)):
        paths = records.list_files(folder, file_prefix, TFDS)
        dataset_info.check_files(info, file_prefix, paths, count, TFDS)
    first = {**TFDS, "train_files": "digits-train.tfrecord-00000-*", "data_dir": folder}
    assert dataset_info.of_run(first).num_train_images == 360
    assert dataset_info.of_run(first).num_eval_images == 360
    (tmp_path / "tfds" / "label.labels.txt").unlink()
    assert dataset_info.load(folder) is None
