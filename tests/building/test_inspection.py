"""Tests of looking into a data set."""

import json
import os
import struct

import numpy as np
import picture_files
import pytest
from other_records import KAGGLE, flags_of, write_kaggle
from PIL import Image

from utils import data as data_command
from utils.base.errors import UserError
from utils.building import build_fake, inspection, splits
from utils.building.build_fake import FakeOptions
from utils.config import settings
from utils.reading import dataset_info, examples

import tensorflow.compat.v1 as tf


def write(path, serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in serialized:
            writer.write(example)


def example(seed=0, label=1):
    return examples.example(picture_files.jpeg(seed), label)


@pytest.fixture
def folder(tmp_path):
    """A data set of 12 + 4 images of 3 classes, without anything wrong."""
    target = tmp_path / "set"
    target.mkdir()
    write(target / "train-00000-of-00002", [example(n, n % 3 + 1) for n in range(7)])
    write(target / "train-00001-of-00002", [example(n, n % 3 + 1) for n in range(7, 12)])
    write(target / "validation-00000-of-00001", [example(20 + n, n % 2 + 1) for n in range(4)])
    sizes = {path.name: path.stat().st_size for path in target.iterdir()}
    dataset_info.DatasetInfo(
        name="letters",
        num_train_images=12,
        num_eval_images=4,
        num_label_classes=3,
        label_names=("a", "be", "sea"),
        shards=dict(zip(sorted(sizes), (7, 5, 4), strict=True)),
        shard_bytes=sizes,
        builder="hand",
    ).write(str(target))
    return target


def inspect(folder, *arguments):
    """(exit status, what the JSON file says)."""
    path = folder.parent / "found.json"
    command = ["x", "inspect", f"--data_dir={folder}", f"--json={path}", *arguments]
    status = data_command.main(command)
    return status, json.loads(path.read_text())


def test_what_is_in_it(folder, capsys):
    status, found = inspect(folder)
    assert status == 0
    assert (found["name"], found["builder"], found["num_label_classes"]) == ("letters", "hand", 3)
    assert found["problems"] == found["differences"] == []
    train, validation = found["splits"]["train"], found["splits"]["validation"]
    assert train["classes"] == [
        {"label": 1, "name": "a", "images": 4},
        {"label": 2, "name": "be", "images": 4},
        {"label": 3, "name": "sea", "images": 4},
    ]
    assert [entry["images"] for entry in validation["classes"]] == [2, 2, 0]
    assert (train["files"], train["records"], train["readable"]) == (2, 12, 12)
    assert train["bytes"] == sum(path.stat().st_size for path in folder.glob("train-*"))
    sizes = sorted(len(picture_files.jpeg(n)) for n in range(12))
    assert train["picture_bytes"] == {
        "min": sizes[0],
        "median": round(np.median(sizes)),
        "max": sizes[-1],
    }
    side = picture_files.WIDTH
    assert train["width"] == {"min": side, "median": side, "max": side}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: letters (made by hand)"
    assert ["label", "train", "validation", "name"] in [line.split() for line in lines]
    assert ["3", "4", "0", "sea"] in [line.split() for line in lines]
    assert "Every record is readable" in lines[-1]
    assert "agrees with dataset_info.json" in lines[-1]


def test_a_data_set_without_description(folder, capsys):
    os.remove(folder / "dataset_info.json")
    status, found = inspect(folder)
    assert status == 0
    assert found["name"] is None
    assert [entry["images"] for entry in found["splits"]["train"]["classes"]] == [4, 4, 4]
    assert "without dataset_info.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "shown", "status"),
    [
        ([10**9], [(10**9, 1)], 0),
        ([2**31 - 1, 2**40 + 1], [(examples.GREATEST_LABEL, 2)], 1),
    ],
)
def test_a_wild_label_in_a_data_set_without_description(folder, labels, shown, status):
    os.remove(folder / "dataset_info.json")
    made = [example(20, 2), *(example(21, label) for label in labels)]
    write(folder / "validation-00000-of-00001", made)
    found_status, found = inspect(folder)
    classes = found["splits"]["validation"]["classes"]
    assert [(c["label"], c["images"]) for c in classes] == [(2, 1), *shown]
    assert found_status == status


def test_one_split_alone(folder):
    for path in folder.glob("validation-*"):
        path.unlink()
    status, found = inspect(folder)
    assert status == 1
    assert list(found["splits"]) == ["train"]
    assert found["differences"] == [
        "validation has 0 records, not 4.",
        "validation-00000-of-00001 is missing.",
    ]


BAD = {
    "label too large": (lambda: example(0, 4), "label 4 is not in 1..3"),
    "label 0": (lambda: example(0, 0), "label 0 is not in 1..3"),
    "no example": (lambda: b"\xff\xff", "not a tf.train.Example"),
    "no picture": (lambda: examples.example(b"text", 1), "cannot be decoded"),
    "truncated": (lambda: examples.example(picture_files.jpeg()[:-300], 1), "cannot be decoded"),
}


def test_bad_records_are_named_with_file_number_and_offset(folder, capsys):
    made = [example(0), *(make() for make, _ in BAD.values()), example(1)]
    path = folder / "train-00001-of-00002"
    write(path, made)
    status, found = inspect(folder)
    assert status == 1
    assert len(found["problems"]) == len(BAD)
    printed = capsys.readouterr().out
    offset = len(made[0]) + 16
    for number, (problem, (_, words)) in enumerate(
        zip(found["problems"], BAD.values(), strict=True), 1
    ):
        place = (problem["file"], problem["record"], problem["offset"])
        assert place == (path.name, number, offset)
        assert words in problem["reason"]
        with open(path, "rb") as f:
            f.seek(offset)
            assert struct.unpack("<Q", f.read(8))[0] == len(made[number])
        assert f"{path.name}, record {number}, byte {offset}: " in printed
        offset += len(made[number]) + 16
    # The changed file has another size too, which is a difference.
    assert any(path.name in sentence for sentence in found["differences"])


def test_a_cut_file(folder):
    path = folder / "train-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-10])
    status, found = inspect(folder)
    assert status == 1
    (problem,) = found["problems"]
    assert (problem["file"], problem["record"]) == (path.name, 6)
    assert found["splits"]["train"]["readable"] == 11


def test_differences_from_the_description(folder):
    write(folder / "train-00001-of-00002", [example(n, 1) for n in range(3)])
    write(folder / "train-00002-of-00002", [example(0, 2)])
    _, found = inspect(folder)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    told = dataset_info.load(str(folder)).shard_bytes
    name = "train-00001-of-00002"
    assert found["differences"] == [
        "train has 11 records, not 12.",
        f"{name} has 3 records, not 5.",
        f"{name} has {sizes[name]} bytes, not {told[name]}.",
        "train-00002-of-00002 is not listed.",
    ]


def test_many_problems_are_cut_short_on_the_screen_alone(folder, capsys):
    write(folder / "train-00000-of-00002", [example(0, 9)] * 30)
    _, found = inspect(folder)
    assert len(found["problems"]) == 30
    text = capsys.readouterr().out
    assert text.count("label 9 is not in") == 20
    assert "... and 10 more, which --json=FILE lists" in text


def test_labels_beyond_what_the_user_says(folder):
    status, found = inspect(folder, "--num_label_classes=2")
    assert status == 1
    assert {p["reason"].split(":")[0] for p in found["problems"]} == {"label 3 is not in 1..2"}


def test_of_many_classes_only_the_extremes_are_printed(tmp_path, capsys):
    folder = tmp_path / "fake"
    build_fake.build(FakeOptions(str(folder), num_train=90, num_validation=4, num_classes=60))
    capsys.readouterr()
    status, found = inspect(folder)
    assert status == 0
    assert len(found["splits"]["train"]["classes"]) == 60
    text = capsys.readouterr().out
    assert "train: 60 classes with 1 to 2 images, median 2; 0 without images" in text
    assert "validation: 60 classes with 0 to 1 images, median 0; 56 without images" in text
    assert len(text.splitlines()) < 25


def test_the_contact_sheet(folder, tmp_path):
    path = tmp_path / "sheet.png"
    status, _ = inspect(folder, f"--contact_sheet={path}")
    assert status == 0
    sheet = Image.open(path)
    assert sheet.format == "PNG"
    # The first picture is where it belongs, in its colours.
    left, side = inspection.GAP, inspection.SIDE
    top = left + (side - side * picture_files.HEIGHT // picture_files.WIDTH) // 2
    shown = np.asarray(sheet.convert("RGB"), int)[top : top + side * 3 // 4, left : left + side]
    expected = Image.fromarray(picture_files.smooth(0)).resize((side, side * 3 // 4))
    assert np.abs(shown - np.asarray(expected, int)).mean() < 6


def test_the_sample_is_spread_over_all_readable_records(folder):
    made = [example(n, n % 3 + 1) for n in range(7, 12)]
    made[2] = examples.example(b"text", 1)
    write(folder / "train-00001-of-00002", made)
    train = splits.scan_splits({**settings.default_params(), "data_dir": str(folder)}, 3)[0]
    expected = [(picture_files.jpeg(n), n % 3 + 1) for n in range(12) if n != 9]
    assert splits.sample(train, 48) == expected
    assert splits.sample(train, 3) == [expected[0], expected[5], expected[10]]
    assert splits.sample(train, 1) == expected[:1]


def test_a_contact_sheet_shows_pictures_with_wrong_labels(folder, tmp_path):
    labels = [0, 2**40 + 1]
    write(folder / "train-00000-of-00002", [example(0, label) for label in labels])
    status, found = inspect(folder, f"--contact_sheet={tmp_path}/sheet.png")
    assert status == 1
    for label, problem in zip(labels, found["problems"], strict=True):
        assert f"label {label} " in problem["reason"]
    assert Image.open(tmp_path / "sheet.png").width > 1000


def test_a_data_set_without_one_readable_record(folder, tmp_path):
    for path in folder.glob("*-of-*"):
        write(path, [examples.example(b"text", 1)] * 2)
    status, found = inspect(folder, f"--contact_sheet={tmp_path}/sheet.png")
    assert status == 1
    assert len(found["problems"]) == 6
    assert Image.open(tmp_path / "sheet.png").width > 1000


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_data_set(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"--data_dir={tmp_path}/{name}"):
        inspection.run(str(tmp_path / name))


def test_a_sheet_that_cannot_be_written(folder, tmp_path):
    with pytest.raises(UserError, match=r"--contact_sheet=.* cannot be written"):
        inspection.run(str(folder), f"{tmp_path}/no/where/sheet.png")


@pytest.mark.parametrize("flag", ["json", "contact_sheet"])
@pytest.mark.parametrize("name", ["no/where/x", "set"])
def test_what_cannot_be_written_is_known_before_the_scan(folder, tmp_path, capsys, flag, name):
    with pytest.raises(UserError, match=f"--{flag}=.*{name}"):
        data_command.main(["x", "inspect", f"--data_dir={folder}", f"--{flag}={tmp_path / name}"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("classes", ["-3", "0", "many"])
def test_impossible_numbers_of_classes(folder, capsys, classes):
    with pytest.raises(SystemExit):
        data_command.main(
            ["x", "inspect", f"--data_dir={folder}", f"--num_label_classes={classes}"]
        )
    assert (
        f"{classes!r} is invalid: it must be a whole number, at least 1" in capsys.readouterr().err
    )


def test_in_a_bucket():
    folder = "ram://test_inspect/fake"
    build_fake.build(FakeOptions(folder, num_train=5, num_validation=2, num_classes=2))
    assert inspection.run(folder, "ram://test_inspect/sheet.png") == 0
    with tf.io.gfile.GFile("ram://test_inspect/sheet.png", "rb") as f:
        assert f.read(4) == b"\x89PNG"


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_records_of_another_program(folder, tmp_path, compression):
    other = tmp_path / "kaggle"
    write_kaggle(folder, other, compression)
    write(other / "train" / "02-192x192-1.tfrec", [b"no example"])
    _, expected = inspect(folder)
    sheet = f"--contact_sheet={tmp_path}/sheet.png"
    status, found = inspect(other, *flags_of(KAGGLE), "--num_label_classes=3", sheet)
    assert status == 1  # because of that record
    assert [(p["file"], p["record"]) for p in found["problems"]] == [("02-192x192-1.tfrec", 0)]
    for name, split in expected["splits"].items():
        assert found["splits"][name]["readable"] == split["readable"]
        assert found["splits"][name]["picture_bytes"] == split["picture_bytes"]
        counts = [(entry["label"], entry["images"]) for entry in split["classes"]]
        other_counts = found["splits"][name]["classes"]
        assert [(entry["label"], entry["images"]) for entry in other_counts] == counts
    assert Image.open(tmp_path / "sheet.png").width > 1000
