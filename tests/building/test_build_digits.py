"""Tests of the sample data set."""

import io
import os

import numpy as np
import pytest
from built_data import labelled_pictures
from PIL import Image
from sklearn import datasets

from utils import data as data_command
from utils.building import build_digits
from utils.reading import dataset_info, examples, records

import tensorflow.compat.v1 as tf


@pytest.fixture(scope="module")
def splits(digits_dir):
    """{split: list of (encoded picture, label)}."""
    return labelled_pictures(digits_dir)


def test_description_agrees_with_the_files(digits_dir, splits):
    info = dataset_info.load(digits_dir)
    assert info.num_train_images == len(splits["train"])
    assert info.num_eval_images == len(splits["validation"])
    assert info.num_label_classes == 10
    assert info.label_names == tuple("0123456789")
    counts = {
        os.path.basename(path): len(list(records.read_records(path)))
        for split in splits
        for path in records.list_files(digits_dir, f"{split}-")
    }
    assert info.shards == counts
    assert len([name for name in counts if name.startswith("train-")]) == 4
    assert "mnasnet-data" in info.builder


def test_every_digit_is_there_once_and_in_one_split(splits):
    assert len(splits["train"]) + len(splits["validation"]) == 1797
    labels = np.array([label for split in splits.values() for _, label in split])
    expected = np.bincount(datasets.load_digits().target)
    np.testing.assert_array_equal(np.bincount(labels)[1:], expected)
    pictures = [{image for image, _ in split} for split in splits.values()]
    assert len(pictures[0] | pictures[1]) == 1797
    assert not pictures[0] & pictures[1]


def test_each_class_is_in_both_splits_in_proportion(splits):
    train, held_out = (
        np.bincount([label for _, label in split], minlength=11)[1:] for split in splits.values()
    )
    np.testing.assert_allclose(held_out / (train + held_out), 0.2, atol=0.01)


def test_every_shard_has_every_class(digits_dir):
    for path in records.list_files(digits_dir, "train-"):
        labels = {
            tf.train.Example.FromString(record)
            .features.feature[examples.LABEL_KEY]
            .int64_list.value[0]
            for record in records.read_records(path)
        }
        assert labels == set(range(1, 11))


def test_pictures_are_upright_digits_of_their_label(splits):
    digits = datasets.load_digits()
    by_label = {label: digits.images[digits.target == label - 1] for label in range(1, 11)}
    for image_bytes, label in splits["validation"][:40]:
        picture = Image.open(io.BytesIO(image_bytes))
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        assert picture.size == (build_digits.SIDE, build_digits.SIDE)
        # The digit's own box, shrunk to 8 x 8, is one of the originals of its class.
        margin = (build_digits.SIDE - build_digits.DIGIT_SIDE) // 2
        far = margin + build_digits.DIGIT_SIDE
        box = picture.convert("L").crop((margin, margin, far, far))
        small = 255 - np.asarray(box.resize((8, 8), Image.Resampling.BOX), np.float32)
        distances = {
            candidate: np.abs(originals * (255 / 16) - small).mean((1, 2)).min()
            for candidate, originals in by_label.items()
        }
        assert min(distances, key=distances.get) == label


def test_nothing_half_written_is_left(digits_dir):
    assert not [name for _, _, names in os.walk(digits_dir) for name in names if ".tmp" in name]


def test_pictures_to_try_a_model_on_are_held_out(digits_dir, splits):
    folder = os.path.join(digits_dir, "pictures")
    names = sorted(os.listdir(folder))
    assert names == [f"digit-{digit}.jpg" for digit in range(10)]
    held_out = dict(splits["validation"])
    for digit, name in enumerate(names):
        with open(os.path.join(folder, name), "rb") as f:
            assert held_out[f.read()] == digit + 1


def test_building_again_gives_the_same_files_and_a_built_folder_is_left_alone(digits_dir, tmp_path):
    again = str(tmp_path / "again")
    data_command.main(["mnasnet-data", "sample", f"--output_dir={again}"])
    for folder, _, names in os.walk(digits_dir):
        for name in names:
            path = os.path.join(folder, name)
            twin = os.path.join(again, os.path.relpath(path, digits_dir))
            with open(path, "rb") as f, open(twin, "rb") as g:
                assert f.read() == g.read(), name
    marked = os.path.join(again, "validation-00000-of-00001")
    with open(marked, "r+b") as f:  # of the same size: else it would be repaired
        f.write(b"mine")
    build_digits.build(again)
    with open(marked, "rb") as f:
        assert f.read(4) == b"mine"


def test_an_interrupted_build_is_built_whole(digits_dir, tmp_path):
    # What a killed build leaves: a file half written.
    (tmp_path / "train-00000-of-00004.tmp-12345678").write_bytes(b"half")
    build_digits.build(str(tmp_path))
    names = sorted(os.listdir(digits_dir))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with open(os.path.join(digits_dir, "train-00000-of-00004"), "rb") as f:
        assert (tmp_path / "train-00000-of-00004").read_bytes() == f.read()


@pytest.mark.parametrize("arguments", [[], ["other"], ["sample"]])
def test_command_line_mistakes(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        data_command.main(["mnasnet-data", *arguments])
    assert stop.value.code == 2
    assert "usage: mnasnet-data" in capsys.readouterr().err
