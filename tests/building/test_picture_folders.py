"""Tests of listing and reading folders of pictures."""

import logging
import os

import picture_files
import pytest

from utils.base.errors import UserError
from utils.building import picture_folders
from utils.building.shards import Item
from utils.reading import pictures, records
from utils.reading.pictures import Unreadable

import tensorflow.compat.v1 as tf


def write(root, *paths, data=b"x"):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def paths(root, name):
    return [found.path for found in picture_folders.walk_all(str(root), [name])[0]]


def test_files_at_any_depth_without_hidden_ones_and_texts(tmp_path):
    write(
        tmp_path,
        "a/2.jpg",
        "a/deep/er/1.png",
        "a/no ending",
        "a/ünï/ß.jpg",
        "a/.hidden.jpg",
        "a/.git/x.jpg",
        "a/notes.txt",
        "a/B.XML",
        "a/Thumbs.db",
        "a/x.heic",
        "b/other.jpg",
    )
    assert paths(tmp_path, "a") == [
        "2.jpg",
        "deep/er/1.png",
        "no ending",
        "x.heic",
        "ünï/ß.jpg",
    ]
    assert picture_folders.folders(str(tmp_path)) == ["a", "b"]
    assert picture_folders.folders(str(tmp_path / "a")) == ["deep", "ünï"]


def test_the_log_counts_what_is_skipped(tmp_path, caplog):
    """Files of other kinds, and what systems leave in, next to and above the folders."""
    write(
        tmp_path,
        "a/1.jpg",
        "a/1.xml",
        "b/c.md/2.xml",
        "b/c.md/notes.TXT",
        "b/._1.jpg",
        ".DS_Store",
        "b/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "b/c.md/@eaDir/2.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "__MACOSX/a/1.jpg",
        "b/lost+found/3.jpg",
        "b/.ipynb_checkpoints/1.jpg",
    )
    assert picture_folders.folders(str(tmp_path)) == ["a", "b"]
    assert picture_folders.folders(str(tmp_path / "b")) == ["c.md"]
    with caplog.at_level(logging.INFO, "absl"):
        found = picture_folders.walk_all(str(tmp_path), ["a", "b/c.md"])
    assert [[file.path for file in files] for files in found] == [["1.jpg"], []]
    counts = ".txt 1, .xml 2, @eaDir 2, __MACOSX 1, hidden 3, lost+found 1"
    assert f"Skipped 10 files that are not pictures: {counts}." in caplog.text


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("train", "train", set()),
        ("Seg_TrainSet-2", "train", {"seg"}),
        ("TRAINING", "train", set()),
        ("val2017", "validation", set()),
        ("images.val", "validation", set()),
        ("Validation data", "validation", set()),
        ("Dev", "validation", set()),
        ("dataset_test", "test", set()),
        ("test_tube", "test", {"tube"}),
        ("testing1", "test", set()),
        ("train_test", None, set()),
        ("trains", None, {"trains"}),
        ("valley", None, {"valley"}),
        ("contest", None, {"contest"}),
        ("été", None, {"été"}),
    ],
)
def test_splits_that_names_tell(name, split, rest):
    assert records.split_of(name) == (split, rest)


def test_a_change_shows_in_the_stamp(tmp_path):
    write(tmp_path, "a/1.jpg", "a/2.jpg")
    before = picture_folders.walk_all(str(tmp_path), ["a"])
    assert before == picture_folders.walk_all(str(tmp_path), ["a"])
    write(tmp_path, "a/1.jpg", data=b"longer")
    after = picture_folders.walk_all(str(tmp_path), ["a"])
    assert before[0][0] != after[0][0]
    assert before[0][1] == after[0][1]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path, "elsewhere/1.jpg")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    assert paths(tmp_path, "a") == ["linked/1.jpg", "nowhere.jpg"]
    with pytest.raises(Unreadable, match="No such file"):
        picture_folders.read(str(tmp_path / "a" / "nowhere.jpg"))


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / "a").mkdir()
    with open(os.path.join(tmp_path, "a", name), "wb") as f:
        f.write(picture_files.jpeg())
    pictures.require_pillow()
    assert paths(tmp_path, "a") == [name]
    made = picture_folders.PictureMaker(str(tmp_path), ["one"])(Item(f"a/{name}", 1))
    features = tf.train.Example.FromString(made.example).features.feature
    assert features["image/filename"].bytes_list.value[0] == b"caf\xe9.jpg"


def test_in_a_bucket():
    root = "ram://test_sources/root"
    for path in ("a/1.jpg", "a/deep/2.png", "a/.hidden", "a/notes.txt", "b.c/3"):
        tf.io.gfile.makedirs(os.path.dirname(f"{root}/{path}"))
        with tf.io.gfile.GFile(f"{root}/{path}", "wb") as f:
            f.write(b"123")
    assert picture_folders.is_dir(root)
    assert picture_folders.folders(root) == ["a", "b.c"]
    assert [[f.path for f in found] for found in picture_folders.walk_all(root, ["a", "b.c"])] == [
        ["1.jpg", "deep/2.png"],
        ["3"],
    ]
    assert picture_folders.read(f"{root}/a/1.jpg") == b"123"
    with pytest.raises(Unreadable):
        picture_folders.read(f"{root}/a/2.jpg")


def test_features_of_a_record(tmp_path):
    write(tmp_path, "cat/tom.jpg", data=picture_files.jpeg())
    pictures.require_pillow()
    maker = picture_folders.PictureMaker(str(tmp_path), ["ant", "cat"], synsets=["n1", "n2"])
    made = maker(Item("cat/tom.jpg", 2))
    found = tf.train.Example.FromString(made.example).features.feature
    values = {key: (f.bytes_list.value or f.int64_list.value)[0] for key, f in found.items()}
    assert values == {
        "image/encoded": picture_files.jpeg(),
        "image/format": b"JPEG",
        "image/height": picture_files.HEIGHT,
        "image/width": picture_files.WIDTH,
        "image/filename": b"tom.jpg",
        "image/class/label": 2,
        "image/class/text": b"cat",
        "image/class/synset": b"n2",
    }
    assert set(values) == {*picture_folders.FEATURES, "image/class/synset"}
    assert made.changed is None


@pytest.mark.parametrize(
    ("source", "target", "possible"),
    [
        ("in", "out", True),
        ("in", "in2", True),
        ("in/a", "in", True),
        ("in", "in", False),
        ("in", "in/out", False),
        ("in/", "in/out/", False),
        ("in", "other/../in/x", False),
        ("gs://b/in", "gs://b/out", True),
        ("gs://b/in", "gs://b/in/x", False),
        ("gs://b/in", "in/x", True),
    ],
)
def test_output_apart_from_input(tmp_path, monkeypatch, source, target, possible):
    monkeypatch.chdir(tmp_path)
    if possible:
        picture_folders.check_apart(source, target)
    else:
        with pytest.raises(UserError, match=f"--output_dir={target}"):
            picture_folders.check_apart(source, target)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="--input_dir="):
        picture_folders.need_dir(str(tmp_path / "nowhere"), "input_dir")
    with pytest.raises(UserError, match="nowhere cannot be read: No such file"):
        picture_folders.folders(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="cannot be read"):
        picture_folders.read(str(tmp_path))


def test_samples_are_written_next_to_a_data_set(tmp_path):
    picture_folders.write_samples(str(tmp_path), {"a.jpg": b"1", "b.jpg": b"2"})
    written = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert written == {"a.jpg": b"1", "b.jpg": b"2"}
