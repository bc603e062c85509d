"""Tests of recognizing the records of other programs, and of the flags that read them."""

import pytest
from other_records import KAGGLE, TFDS, write_kaggle, write_tfds
from record_files import example_of, good, picture, write
from shades import write_shards

from utils.base.errors import UserError
from utils.reading import records


def flags_in(sentence):
    """{name: value} of the flags that a sentence names."""
    words = [word.rstrip(".,") for word in sentence.split() if word.startswith("--")]
    pairs = [word.removeprefix("--").partition("=") for word in words]
    return {name: value.strip("'") for name, equals, value in pairs if equals}


@pytest.fixture
def shades(tmp_path):
    """A data set of five classes as it is published here."""
    folder = tmp_path / "shades"
    folder.mkdir()
    for prefix in ("train-", "validation-"):
        write_shards(folder, prefix, [1, 2, 3, 4, 5], 2)
    return folder


@pytest.mark.parametrize(
    ("write_other", "expected", "whose"),
    [(write_tfds, TFDS, "TensorFlow Datasets"), (write_kaggle, KAGGLE, "another program")],
)
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_the_flags_for_other_records(shades, tmp_path, write_other, expected, whose, compression):
    data_dir = write_other(shades, tmp_path / "other", compression)
    with pytest.raises(UserError) as error:
        records.list_files(data_dir, "train-")
    assert whose in str(error.value)
    told = flags_in(str(error.value))
    assert told.pop("data_dir") == data_dir
    assert told == {name: str(value) for name, value in expected.items()}


def named(name, number):
    return example_of(image=[picture()], **{name: [number]})


@pytest.mark.parametrize(
    ("names", "made", "expected"),
    [
        (
            [
                "flowers_train_00000-of-00002.tfrecord",
                "flowers_train_00001-of-00002.tfrecord",
                "flowers_validation_00000-of-00001.tfrecord",
            ],
            example_of(image__encoded=[picture()], image__class__label=[0]),
            {
                "train_files": "flowers_train_*.tfrecord",
                "first_label": "0",
                "eval_files": "flowers_validation_00000-of-00001.tfrecord",
            },
        ),
        (
            ["train.tfrecords", "test.tfrecords"],
            named("target", 3),
            {
                "train_files": "train.tfrecords",
                "eval_files": "test.tfrecords",
                "record_keys": "image=image,label=target",
            },
        ),
        (
            ["train-00000-of-00001", "val-00000-of-00001"],
            example_of(image__encoded=[picture()], image__class__label=[1]),
            {"train_files": "train-00000-of-00001", "eval_files": "val-00000-of-00001"},
        ),
        (
            ["a.tfrecord"],
            example_of(pixels=[b"no picture"], height=[8], width=[8]),
            {
                "train_files": "PATTERN",
                "eval_files": "PATTERN",
                "record_keys": "image=NAME,label=NAME",
            },
        ),
    ],
)
def test_files_of_other_names(tmp_path, names, made, expected):
    for name in names:
        write(tmp_path / name, [made])
    with pytest.raises(UserError) as error:
        records.list_files(str(tmp_path), "validation-")
    told = flags_in(str(error.value))
    assert told.pop("data_dir") == str(tmp_path)
    assert told == expected


def test_records_for_detection_are_refused(tmp_path):
    boxes = example_of(
        image__encoded=[picture()],
        image__object__bbox__xmin=[0.1],
        image__object__class__label=[1, 2],
    )
    write(tmp_path / "train.record", [boxes])
    assert "object detection" in records.advice_on(str(tmp_path))
    path = write(tmp_path / "train-00000-of-00001", [boxes])
    with pytest.raises(UserError, match=r"record 0: .*image/object/class/label"):
        records.check_first_records([path], 10)


def test_the_folder_below_is_named(shades, tmp_path):
    assert flags_in(records.advice_on(str(tmp_path))) == {"data_dir": str(shades)}


def test_a_folder_without_records_gets_no_advice(tmp_path):
    (tmp_path / "train.txt").write_text("text")
    (tmp_path / "folder.tfrecord").mkdir()
    assert records.advice_on(str(tmp_path)) is None
    assert records.advice_on(str(tmp_path / "nowhere")) is None


def test_what_is_no_record_is_not_believed(tmp_path):
    (tmp_path / "train.tfrecord").write_bytes(b"\xff" * 100)
    write(tmp_path / "val.tfrecord", good(1))
    told = flags_in(records.advice_on(str(tmp_path)))
    assert told == {"train_files": "train.tfrecord", "eval_files": "val.tfrecord"}
