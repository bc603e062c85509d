"""Tests of the natural pictures: disjoint regions, the photographs themselves, the files."""

import io
import os

import numpy as np
import pytest
from built_data import labelled_pictures
from PIL import Image

from utils import data as data_command
from utils.base.errors import UserError
from utils.building import build_photographs
from utils.reading import dataset_info, records

LABELS = [photograph.label for photograph in build_photographs.PHOTOGRAPHS]


@pytest.fixture(scope="module")
def natural_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("data") / "natural")
    data_command.main(["mnasnet-data", "natural", f"--output_dir={path}"])
    return path


@pytest.fixture(scope="module")
def splits(natural_dir):
    """{split: list of (encoded picture, label)}."""
    return labelled_pictures(natural_dir)


# Regions.


def covered(size, boxes):
    """How often each pixel of a picture of (width, height) is in a box."""
    counts = np.zeros(size[::-1], int)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        counts[top:bottom, left:right] += 1
    return counts


@pytest.mark.parametrize("size", [(512, 512), (451, 300), (1000, 872), (31, 77)])
def test_cells_cover_a_picture_once(size):
    training, validation = build_photographs.cells(size)
    assert (len(training), len(validation)) == (20, 5)
    assert (covered(size, [*training, *validation]) == 1).all()


def test_validation_cells_are_in_each_row_and_column_and_do_not_touch():
    _, validation = build_photographs.cells((50, 50))
    columns, rows = zip(*((box[0] // 10, box[1] // 10) for box in validation), strict=True)
    assert sorted(columns) == sorted(rows) == list(range(5))
    for i in range(5):
        for j in range(i):
            assert max(abs(columns[i] - columns[j]), abs(rows[i] - rows[j])) > 1


@pytest.mark.parametrize("photograph", build_photographs.PHOTOGRAPHS, ids=LABELS)
def test_crops_of_training_and_validation_do_not_overlap(photograph):
    size = build_photographs.read(photograph).size
    training, validation = build_photographs.cells(size)
    rng = np.random.RandomState(3)
    crops = [build_photographs.crops(regions, 20, rng) for regions in (training, validation)]
    seen = [covered(size, boxes) > 0 for boxes in crops]
    assert seen[0].any() and seen[1].any()
    assert not (seen[0] & seen[1]).any()
    sides = [right - left for left, _, right, _ in crops[0]]
    assert all(bottom - top == right - left for left, top, right, bottom in crops[0] + crops[1])
    # Scales and positions vary.
    assert max(sides) > 1.25 * min(sides)
    assert len(set(crops[0])) > 300


# The files.


def test_description_agrees_with_the_files(natural_dir, splits):
    info = dataset_info.load(natural_dir)
    assert (info.num_train_images, info.num_eval_images) == (440, 330)
    assert info.num_train_images == len(splits["train"])
    assert info.num_eval_images == len(splits["validation"])
    assert info.num_label_classes == len(LABELS) == 11
    assert list(info.label_names) == LABELS
    with open(os.path.join(natural_dir, "labels.txt")) as f:
        assert f.read().splitlines() == LABELS
    counts = {
        os.path.basename(path): len(list(records.read_records(path)))
        for split in splits
        for path in records.list_files(natural_dir, f"{split}-")
    }
    assert info.shards == counts
    assert "mnasnet-data natural" in info.builder


def test_each_class_has_as_many_pictures_and_none_is_in_both_splits(splits):
    for split, each in (("train", 40), ("validation", 30)):
        labels = [label for _, label in splits[split]]
        assert np.bincount(labels)[1:].tolist() == [each] * 11
    train, held_out = ({image for image, _ in split} for split in splits.values())
    assert not train & held_out


def test_shards_are_shuffled(splits):
    labels = [label for _, label in splits["train"]]
    assert len(set(labels[:30])) > 5


def test_pictures_are_crops_of_the_photograph_of_their_label(splits):
    colours = {}
    for label, photograph in enumerate(build_photographs.PHOTOGRAPHS, start=1):
        pixels = np.asarray(build_photographs.read(photograph), float).reshape(-1, 3)
        colours[label] = pixels.mean(0)
    for split in splits.values():
        means = {label: [] for label in colours}
        for image_bytes, label in split:
            picture = Image.open(io.BytesIO(image_bytes))
            assert picture.format == "JPEG" and picture.mode == "RGB"
            assert picture.size == (build_photographs.SIDE, build_photographs.SIDE)
            means[label].append(np.asarray(picture, float).mean((0, 1)))
        # Together the crops of a class have about the colour of their photograph.
        for label, colour in colours.items():
            np.testing.assert_allclose(np.mean(means[label], 0), colour, atol=40)


def test_pictures_to_try_a_model_on_are_held_out(natural_dir, splits):
    held_out = dict(splits["validation"])
    folder = os.path.join(natural_dir, "pictures")
    assert sorted(os.listdir(folder)) == sorted(f"{label}.jpg" for label in LABELS)
    for number, label in enumerate(LABELS, start=1):
        with open(os.path.join(folder, f"{label}.jpg"), "rb") as f:
            assert held_out[f.read()] == number


def test_building_again_gives_the_same_files_and_a_built_folder_is_left_alone(
    natural_dir, tmp_path
):
    again = str(tmp_path / "again")
    build_photographs.build(again)
    for folder, _, names in os.walk(natural_dir):
        for name in names:
            path = os.path.join(folder, name)
            twin = os.path.join(again, os.path.relpath(path, natural_dir))
            with open(path, "rb") as f, open(twin, "rb") as g:
                assert f.read() == g.read(), name
    marked = os.path.join(again, "validation-00000-of-00001")
    with open(marked, "r+b") as f:  # of the same size: else it would be repaired
        f.write(b"mine")
    build_photographs.build(again)
    with open(marked, "rb") as f:
        assert f.read(4) == b"mine"


# Mistakes.


def test_a_missing_package_is_named():
    missing = build_photographs.Photograph("x", "no_such_package", "data/x.png", "")
    with pytest.raises(UserError, match=r"data/x\.png of the package no_such_package.*pip"):
        build_photographs.read(missing)


def test_another_picture_under_the_same_name_is_refused():
    first, second = build_photographs.PHOTOGRAPHS[:2]
    swapped = build_photographs.Photograph("x", first.package, first.path, second.sha256)
    with pytest.raises(UserError, match=r"astronaut\.png is not the picture"):
        build_photographs.read(swapped)
