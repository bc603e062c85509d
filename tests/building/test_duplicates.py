"""Tests of finding pictures that a data set has twice: planted ones are found, and no others."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from utils import data as data_command
from utils.building import build_fake, duplicates
from utils.reading import examples

import tensorflow.compat.v1 as tf


def jpeg(picture, quality=90):
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return data.getvalue()


def scene(seed, side=120):
    """A picture of soft blobs, as different from another as photographs are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8))
    return small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)


def recompressed(picture):
    return jpeg(picture, 40)


def smaller(picture):
    return jpeg(picture.resize((picture.width // 2, picture.height // 2)))


def grey(picture):
    return jpeg(picture.convert("L"))


def brighter(picture):
    return jpeg(picture.point(lambda value: min(255, value * 1.05)))


def as_png(picture):
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def write(folder, split, pictures):
    """Writes (encoded picture, label) pairs as the one file of a split."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{split}-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image_bytes, label in pictures:
            writer.write(examples.example(image_bytes, label))


def inspect(folder, *arguments):
    """(exit status, what the JSON file says of duplicates)."""
    path = folder.parent / "found.json"
    command = ["x", "inspect", f"--data_dir={folder}", f"--json={path}", *arguments]
    status = data_command.main(command)
    return status, json.loads(path.read_text()).get("duplicates")


def places(group):
    return [(entry["split"], entry["record"]) for entry in group["records"]]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


def test_planted_duplicates_are_found_and_nothing_else(folder, capsys):
    train = [(jpeg(scene(seed)), seed % 3 + 1) for seed in range(60)]
    validation = [(jpeg(scene(seed)), seed % 3 + 1) for seed in range(100, 120)]
    changes = [recompressed, smaller, grey, as_png, brighter]
    for number, change in enumerate(changes):  # across the splits
        validation[number] = (change(scene(number)), number % 3 + 1)
    validation[10] = train[20]
    train[30] = train[31]  # within a split
    train[40] = (train[43][0], train[43][1] % 3 + 1)
    train[50] = (recompressed(scene(15)), 2)
    write(folder, "train", train)
    write(folder, "validation", validation)
    status, found = inspect(folder)
    assert status == 1 and found["near_checked"]
    summary = {(g["kind"], g["across_splits"], *places(g)) for g in found["groups"]}
    assert summary == {
        *(("near", True, ("train", n), ("validation", n)) for n in range(len(changes))),
        ("same", True, ("train", 20), ("validation", 10)),
        ("same", False, ("train", 30), ("train", 31)),
        ("same", False, ("train", 40), ("train", 43)),
        ("near", False, ("train", 15), ("train", 50)),
    }
    assert [places(g)[0][1] for g in found["groups"] if g["across_classes"]] == [40, 15]
    # What makes numbers a lie comes first.
    across = [group["across_splits"] for group in found["groups"]]
    assert across == sorted(across, reverse=True)
    text = capsys.readouterr().out
    assert "The same picture in both splits (1):\n" in text
    assert (
        "  train-00000-of-00001, record 20 (3); validation-00000-of-00001, record 10 (3)\n" in text
    )
    assert "Nearly the same picture in both splits (5):\n" in text
    assert "record 43 (2) - in two classes\n" in text


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([("train", 0, 1), ("train", 0, 1)], 0),  # twice in a split: no number lies
        ([("train", 0, 1), ("train", 0, 2)], 1),  # one of the labels is wrong
        ([("train", 0, 1), ("validation", 0, 1)], 1),
    ],
)
def test_the_exit_status_says_whether_it_matters(folder, pairs, status):
    made = {"train": [(jpeg(scene(8)), 1)], "validation": [(jpeg(scene(9)), 1)]}
    for split, seed, label in pairs:
        made[split].append((jpeg(scene(seed)), label))
    for split, pictures in made.items():
        write(folder, split, pictures)
    found_status, found = inspect(folder)
    assert found_status == status
    assert [group["kind"] for group in found["groups"]] == ["same"]
    assert inspect(folder, "--no_duplicates") == (0, None)


def test_copies_and_near_copies_of_one_picture(folder):
    original, changed = jpeg(scene(6)), recompressed(scene(6))
    write(folder, "train", [(original, 1), (original, 1), (changed, 1), (jpeg(scene(2)), 1)])
    write(folder, "validation", [(original, 1), (jpeg(scene(3)), 1)])
    _, found = inspect(folder)
    assert [(group["kind"], places(group)) for group in found["groups"]] == [
        ("same", [("train", 0), ("train", 1), ("validation", 0)]),
        ("near", [("train", 0), ("train", 2), ("validation", 0)]),
    ]


def test_records_are_named_behind_bad_ones(folder):
    write(folder, "train", [(b"text", 1), (jpeg(scene(1)), 1), (b"", 1), (jpeg(scene(2)), 1)])
    write(folder, "validation", [(jpeg(scene(2)), 1), (jpeg(scene(1)), 1)])
    _, found = inspect(folder)
    assert [places(group) for group in found["groups"]] == [
        [("train", 1), ("validation", 1)],
        [("train", 3), ("validation", 0)],
    ]


def test_pictures_of_one_colour_are_not_alike(folder):
    """Their hashes would be made of noise, or all be the same."""
    flat = [(jpeg(Image.new("RGB", (90, 90), (level, 99, 9))), 1) for level in range(0, 200, 10)]
    write(folder, "train", flat)
    build_fake.build(build_fake.FakeOptions(str(folder / "fake"), num_train=40, num_validation=20))
    for name in (folder, folder / "fake"):
        assert inspect(name)[1]["groups"] == []


def test_the_sample_data_has_no_picture_twice(digits_dir, tmp_path):
    path = tmp_path / "found.json"
    assert data_command.main(["x", "inspect", f"--data_dir={digits_dir}", f"--json={path}"]) == 0
    assert json.loads(path.read_text())["duplicates"] == {"near_checked": True, "groups": []}


def test_without_the_library_equal_pictures_are_found(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imagehash", None)  # an import of it fails
    write(folder, "train", [(jpeg(scene(1)), 1), (jpeg(scene(2)), 1)])
    write(folder, "validation", [(jpeg(scene(1)), 1), (recompressed(scene(2)), 1)])
    status, found = inspect(folder)
    assert status == 1 and not found["near_checked"]
    assert [(group["kind"], places(group)) for group in found["groups"]] == [
        ("same", [("train", 0), ("validation", 0)])
    ]
    assert "Nearly the same pictures were not looked for: pip install ImageHash." in (
        capsys.readouterr().out
    )


def test_a_data_set_without_one_readable_record(folder):
    write(folder, "train", [(b"text", 1)] * 2)
    assert inspect(folder)[1]["groups"] == []


def pairs_of(hashes, small):
    return {
        (min(pair), max(pair))
        for found in duplicates.near_pairs(hashes, small)
        for pair in zip(*(side.tolist() for side in found), strict=True)
    }


def test_near_pairs_are_those_within_three_bits_and_no_others():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, 64), np.uint8)
    for number in range(150):  # a partner that differs in 0 to 14 bits
        bits[150 + number] = bits[number]
        bits[150 + number, rng.choice(64, number % 15, replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    small = rng.integers(0, 256, (1, 256), np.uint8).repeat(300, axis=0)
    found = pairs_of(hashes, small)
    assert {(a, b) for a, b in np.argwhere(distances <= 3).tolist() if a < b} <= found
    assert all(distances[pair] <= 6 for pair in found)
    # Where the pictures differ, hashes do not matter.
    assert pairs_of(hashes, rng.integers(0, 256, (300, 256), np.uint8)) == set()


def test_many_hashes_that_share_bits_do_not_take_for_ever(monkeypatch):
    """Half of them are in one bucket of a band, as pages of text may be."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (20_000, 64), np.uint8)
    bits[:10_000, ::4] = 1
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    compared = 0
    original = duplicates._differing_bits

    def counted(one, other):
        nonlocal compared
        compared += len(one)
        return original(one, other)

    monkeypatch.setattr(duplicates, "_differing_bits", counted)
    assert pairs_of(hashes, rng.integers(0, 256, (20_000, 256), np.uint8)) == set()
    assert compared < 10_000 * 200 * 1.2  # each with each: 50 million
