"""Tests of data sets from folders of pictures."""

import collections
import itertools
import json
import logging
import pathlib
import subprocess
import sys

import numpy as np
import picture_files
import pytest
from built_data import content, features

import imagenet_input
import preprocessing
from utils import data as data_command
from utils.base.errors import UserError
from utils.building import build_folder
from utils.building.build_folder import FolderOptions
from utils.reading import dataset_info, records

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]
KINDS = picture_files.kinds()


def fill(root, counts, first=0):
    """Writes plain JPEGs: {folder: number of pictures}."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            first += 1
            (root / folder / f"{number:04d}.jpg").write_bytes(picture_files.jpeg(first))
    return root


def build(source, target, **options):
    build_folder.build(FolderOptions(str(source), str(target), **options))
    return dataset_info.load(str(target))


def test_two_splits(tmp_path):
    source = fill(
        tmp_path / "in",
        {"train/cat": 5, "train/a dog": 7, "validation/cat": 2, "validation/a dog": 3},
    )
    info = build(source, tmp_path / "out")
    assert (info.name, info.num_train_images, info.num_eval_images) == ("in", 12, 5)
    assert info.label_names == ("a dog", "cat")
    assert info.features == tuple(
        key for key in info.features if key in features(tmp_path / "out", "train")[0]
    )
    for split in ("train", "validation"):
        made = features(tmp_path / "out", split)
        assert set(made[0]) == set(info.features)
        found = collections.Counter()
        for example in made:
            name = info.label_names[example["image/class/label"] - 1]
            assert example["image/class/text"].decode() == name
            path = source / split / name / example["image/filename"].decode()
            assert path.read_bytes() == example["image/encoded"]
            found[path] += 1
        assert set(found.values()) == {1}
        assert set(found) == set((source / split).glob("*/*.jpg"))


@pytest.mark.parametrize(
    ("train", "evaluation", "others"),
    [
        ("train", "valid", []),
        ("train", "test", []),
        ("Training Set", "test_set", []),
        ("train", "val", ["test/a", "test/c"]),
        ("train_2017", "val2017", []),
        ("seg_train/seg_train", "seg_test/seg_test", ["seg_pred/seg_pred", "__MACOSX/seg_train"]),
        ("train/images", "dev", ["train_masks/a"]),
        ("X-ray.TRAIN", "x-ray.eval", ["x-ray"]),
        ("TrainData", "testdata", ["TrainData/.Trash-1000", "TrainData2/a", "TrainData2/b"]),
    ],
)
def test_splits_as_people_name_them(tmp_path, caplog, train, evaluation, others):
    counts = {f"{train}/a": 2, f"{train}/b": 3, f"{evaluation}/b": 1}
    source = fill(tmp_path / "in", counts | dict.fromkeys(others, 2))
    with caplog.at_level(logging.INFO, "absl"):
        info = build(source, tmp_path / "out")
    assert info.label_names == ("a", "b")
    found = {split: features(tmp_path / "out", split) for split in ("train", "validation")}
    labels = {k: sorted(e["image/class/label"] for e in found[k]) for k in found}
    assert labels == {"train": [1, 1, 2, 2, 2], "validation": [2]}
    (line,) = (text for text in caplog.messages if text.startswith("Training: "))
    assert f"Training: {train} (2 classes, 5 pictures)" in line
    assert f"evaluation: {evaluation} (1 classes, 1 pictures, none of a)" in line
    tops = {path.split("/")[0] for path in others if "MACOSX" not in path}
    for top in tops - {train.split("/")[0]}:
        assert top in line.split("left out: ")[1]


def test_classes_named_like_splits(tmp_path, caplog):
    source = fill(tmp_path / "in", {"test_tube/1": 4, "steam_train": 4, "train": 4, "beaker": 4})
    with caplog.at_level(logging.INFO, "absl"):
        info = build(source, tmp_path / "out")
    assert info.label_names == ("beaker", "steam_train", "test_tube", "train")
    assert "Training: in (4 classes, 12 pictures); evaluation: 0.1 of each class" in caplog.text


def test_a_second_copy_of_the_classes_is_left_out(tmp_path, caplog):
    """As in the zip file cell_images.zip: cell_images/cell_images."""
    source = fill(tmp_path / "in", {"a": 3, "b": 3, "in/a": 3, "in/b": 3})
    info = build(source, tmp_path / "out")
    assert info.label_names == ("a", "b")
    assert info.num_train_images + info.num_eval_images == 6
    assert "in is left out" in caplog.text


def test_folders_in_class_folders_are_noted(tmp_path, caplog):
    names = [f"{style}/{name}" for style in ("photo", "drawing") for name in "ab"]
    info = build(fill(tmp_path / "in", dict.fromkeys(names, 3)), tmp_path / "out")
    assert info.label_names == ("drawing", "photo")
    assert "2 class folders hold folders, such as drawing" in caplog.text


def test_names_in_two_forms_of_unicode_are_one_class(tmp_path):
    """macOS writes an accent apart from its letter, and other systems keep that."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    counts = {f"train/{composed}": 2, f"train/{apart}": 3, "train/tea": 1, f"val/{apart}": 1}
    info = build(fill(tmp_path / "in", counts), tmp_path / "out")
    assert info.label_names == (composed, "tea")
    (held_out,) = features(tmp_path / "out", "validation")
    assert held_out["image/class/label"] == 1
    labels = [e["image/class/label"] for e in features(tmp_path / "out", "train")]
    assert sorted(labels) == [1] * 5 + [2]


@pytest.mark.parametrize(("rare", "noted"), [(6, False), (5, True)])
def test_classes_of_very_unequal_size_are_noted(tmp_path, caplog, rare, noted):
    counts = {"train/common": 60, "train/rare": rare, "val/rare": 1}
    build(fill(tmp_path / "in", counts), tmp_path / "out")
    assert ("5 ('rare') to 60 ('common')" in caplog.text) == noted


def test_pictures_next_to_the_folders_are_counted(tmp_path, caplog):
    source = fill(tmp_path / "in", {"train/a": 2, "train/b": 2, "val/a": 1, "train/c/d": 2})
    for name in ("train/1.jpg", "train/2.jpg", "3.png", "train/labels.txt", "train/.hidden.jpg"):
        (source / name).write_bytes(picture_files.jpeg())
    with caplog.at_level(logging.INFO, "absl"):
        info = build(source, tmp_path / "out")
    assert info.num_train_images == 6
    assert f"{source}/train: 2 files next to the class folders are left out." in caplog.text
    assert f"{source}: 1 files next to the class folders are left out." in caplog.text
    assert caplog.text.count("next to") == 2


def test_split_by_share(tmp_path):
    source = fill(tmp_path / "in", {"a": 100, "b": 60, "c": 2})
    info = build(source, tmp_path / "out", validation_share=0.25)
    made = {split: features(tmp_path / "out", split) for split in ("train", "validation")}
    total = info.num_train_images + info.num_eval_images
    assert total == 162
    assert len({e["image/encoded"] for split in made.values() for e in split}) == total
    held_out = collections.Counter(e["image/class/text"] for e in made["validation"])
    assert held_out == {b"a": 25, b"b": 15, b"c": 1}


def test_more_pictures_leave_nearly_all_others_in_their_split(tmp_path):
    source = fill(tmp_path / "in", {"a": 100, "b": 100})
    build(source, tmp_path / "before", validation_share=0.3)
    for name in ("a", "b"):
        for number in range(100, 120):
            (source / name / f"{number:04d}.jpg").write_bytes(picture_files.jpeg(number + 1000))
    build(source, tmp_path / "after", validation_share=0.3)
    before, after = (
        {e["image/encoded"] for e in features(tmp_path / folder, "validation")}
        for folder in ("before", "after")
    )
    assert len(before) == 60
    assert len(before & after) > 50


def test_files_are_shuffled_and_so_is_evaluation(tmp_path):
    source = fill(tmp_path / "in", {"a": 60, "b": 60})
    build(source, tmp_path / "out", validation_share=0.5, train_shards=3)
    for split in ("train", "validation"):
        labels = [e["image/class/label"] for e in features(tmp_path / "out", split)]
        changes = sum(a != b for a, b in itertools.pairwise(labels))
        assert changes > 12
    build(source, tmp_path / "other", validation_share=0.5, train_shards=3, seed=1)
    first, second = (content(tmp_path / f)["train-00000-of-00003"] for f in ("out", "other"))
    assert first != second


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """(source, built): pictures of every kind, each in a class of its own and in both splits."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, kind in KINDS.items():
        for split in ("train", "validation"):
            target = folder / "in" / split / name.replace(":", "-")
            target.mkdir(parents=True)
            (target / "picture").write_bytes(kind.data)
    build(folder / "in", folder / "out")
    return folder / "in", folder / "out"


def test_every_kind_of_picture_is_fed_as_it_looks(every_kind):
    """What training's input makes of the built files, compared with the pictures' pixels."""
    _, out = every_kind
    info = dataset_info.load(str(out))
    feed = imagenet_input.ImageNetInput(False, False, False, str(out), image_size=32)
    dataset = feed.input_fn({"batch_size": len(KINDS)})
    with tf.Session() as session:
        images, labels = session.run(tf.data.make_one_shot_iterator(dataset).get_next())
    assert sorted(labels) == list(range(len(KINDS)))
    by_name = {info.label_names[label]: image for label, image in zip(labels, images, strict=True)}
    expected = fed({name: kind.pixels for name, kind in KINDS.items()})
    for name in KINDS:
        off = np.abs(by_name[name.replace(":", "-")] - expected[name])
        # Resizing picks single pixels of a dithered picture, where JPEG is off by more.
        assert off.mean() < (20 if "1 bit" in name else 4), name


def fed(pictures_by_name):
    """What evaluation feeds of pixels uint8 [H, W, 3], by name."""
    pixels = tf.placeholder(tf.uint8, [None, None, 3])
    encoded = tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False)
    image = preprocessing.preprocess_image(encoded, image_size=32)
    with tf.Session() as session:
        return {name: session.run(image, {pixels: p}) for name, p in pictures_by_name.items()}


def test_the_log_says_what_was_encoded_anew(tmp_path, caplog):
    source = fill(tmp_path / "in", {"a": 3, "b": 3})
    (source / "a" / "x.png").write_bytes(KINDS["png"].data)
    (source / "b" / "named wrongly.jpg").write_bytes(KINDS["png RGBA"].data)
    (source / "b" / "turned.jpg").write_bytes(KINDS["jpeg EXIF 6"].data)
    with caplog.at_level(logging.INFO, "absl"):
        build(source, tmp_path / "out")
    assert "3 pictures were encoded anew: EXIF rotation 1, PNG 2." in caplog.text


BAD = {
    "truncated.jpg": picture_files.jpeg()[:-400],
    "text.jpg": b"not a picture",
    "empty.jpg": b"",
    "picture.tga": picture_files.save(picture_files.smooth(), "TGA"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_unreadable_picture_in_a_hundred_is_listed(tmp_path, caplog, name):
    source = fill(tmp_path / "in", {"a": 50, "b": 49})
    (source / "a" / name).write_bytes(BAD[name])
    with caplog.at_level(logging.INFO, "absl"):
        info = build(source, tmp_path / "out")
    assert info.num_train_images + info.num_eval_images == 99
    (line,) = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    path, reason = line.split("\t")
    assert path == f"a/{name}"
    assert f"Unreadable: a/{name}: {reason}." in caplog.text
    assert "1 of 100 pictures are unreadable" in caplog.text


def test_more_than_one_in_a_hundred_is_an_error(tmp_path):
    source = fill(tmp_path / "in", {"a": 49, "b": 49})
    (source / "a" / "x.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        build(source, tmp_path / "out")
    assert "1 of 99 pictures (1.0%)" in str(error.value)
    assert "a/x.jpg (the file is empty)" in str(error.value)
    with pytest.raises(UserError, match="has no files train-"):
        records.list_files(str(tmp_path / "out"), "train-")
    # A repaired picture: what was finished is kept, and the result is that of a clean build.
    (source / "a" / "x.jpg").write_bytes(picture_files.jpeg(999))
    build(source, tmp_path / "out")
    build(source, tmp_path / "clean")
    assert content(tmp_path / "out") == content(tmp_path / "clean")


@pytest.mark.parametrize(
    ("folders", "options", "words"),
    [
        ({}, {}, ["too few folders", "(0)"]),
        ({"a": 3}, {}, ["too few folders", "(1)"]),
        ({"a": 3, "b": 0}, {}, ["class folder", "/b has no pictures"]),
        ({"a": 3, "b": 1}, {}, ["'b' has one picture"]),
        ({"train/a": 3, "train/b": 3}, {}, ["has train,", "/in/train --validation_share"]),
        ({"train/x/a": 3, "train/x/b": 3, "test": 9}, {}, ["/in/train/x --validation_share"]),
        ({"validation/a": 3}, {}, ["has validation,"]),
        ({"all/x/a": 3, "all/x/b": 3, "no pictures": 0}, {}, ["use --input_dir=", "/in/all/x."]),
        ({"all/train/a": 3, "all/test/a": 3}, {}, ["use --input_dir=", "/in/all."]),
        ({"a/train": 3, "a/test": 3, "b/train": 3, "b/test": 3}, {}, ["/in/a", "train/a"]),
        ({"a_train": 3, "a_test": 3, "b_train": 3, "b_test": 3}, {}, ["a_train and b_train"]),
        (
            {"train/a": 3, "train/b": 3, "validation/a": 1, "validation/c": 1},
            {},
            ["'c' for validation"],
        ),
        ({"train/a": 3, "train/b": 3, "val/a": 0}, {}, ["val/a has no pictures"]),
        (
            {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1},
            {"validation_share": 0.2},
            ["--validation_share"],
        ),
        (
            {"train_grey/a": 2, "train_grey/b": 2, "test/a": 2, "test/b": 2},
            {},
            ["train_grey and test", "/in/train_grey --validation_share"],
        ),
        ({"cat": 2, "dog": 2, "test": 2}, {}, ["has test,"]),
        ({"bus": 2, "train/a": 2, "train/b": 2}, {}, ["has train,"]),
        ({"train": 2, "test1": 2}, {}, ["has train and test1,"]),
        (
            {f"{split}/{name}": 2 for split in ("train", "val", "validation") for name in "ab"},
            {},
            ["has both val and validation: move one of them away"],
        ),
        ({"a": 3, "two\nlines": 3}, {}, ["labels.txt", "two\\nlines"]),
    ],
)
def test_inputs_of_another_layout(tmp_path, folders, options, words):
    (tmp_path / "in").mkdir()
    fill(tmp_path / "in", folders)
    with pytest.raises(UserError) as error:
        build(tmp_path / "in", tmp_path / "out", **options)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def test_folders_of_pictures_may_have_any_name(tmp_path):
    source = fill(tmp_path / "my [pictures] *?", {"a [b]": 2, "c*": 2, "d?": 2})
    info = build(source, tmp_path / "out")
    assert info.label_names == ("a [b]", "c*", "d?")
    assert info.num_train_images + info.num_eval_images == 6


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="--input_dir="):
        build(tmp_path / "nowhere", tmp_path / "out")


def test_an_output_in_the_input(tmp_path):
    source = fill(tmp_path / "in", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="choose a folder outside"):
        build(source, source / "out")


def test_another_data_set_in_the_output(tmp_path, digits_dir):
    source = fill(tmp_path / "in", {"a": 2, "b": 2})
    with pytest.raises(UserError, match=r"holds another data set .*digits"):
        build(source, digits_dir)


def test_a_second_run_ends_at_once(tmp_path, caplog):
    source = fill(tmp_path / "in", {"a": 4, "b": 4})
    build(source, tmp_path / "out")
    before = content(tmp_path / "out")
    (source / "a" / "0000.jpg").write_bytes(b"nobody reads this")
    with caplog.at_level(logging.INFO, "absl"):
        build(source, tmp_path / "out")
    assert (
        "out is there already: 6 images for training, 2 for evaluation, 2 classes." in caplog.text
    )
    assert content(tmp_path / "out") == before


def test_by_the_command_line(tmp_path):
    source = fill(tmp_path / "in", {"a": 9, "b": 9})
    arguments = [
        "--train_shards=2",
        "--validation_shards=1",
        "--name=letters",
        "--seed=3",
        "--max_bad_share=0.5",
        "--num_threads=2",
        "--validation_share=0.3",
    ]
    data_command.main(
        ["x", "folder", f"--input_dir={source}", f"--output_dir={tmp_path}/out", *arguments]
    )
    info = dataset_info.load(str(tmp_path / "out"))
    assert info.name == "letters"
    assert info.builder.startswith("mnasnet-data folder ")
    assert info.builder.endswith(
        " --validation_share=0.3 --train_shards=2 --validation_shards=1 --seed=3"
    )
    assert len(info.shards) == 3


@pytest.mark.parametrize(
    "argument",
    [
        "--validation_share=0",
        "--validation_share=1",
        "--validation_share=x",
        "--train_shards=0",
        "--max_bad_share=1.5",
        "--num_threads=-1",
        "--seed=x",
    ],
)
def test_impossible_arguments(tmp_path, capsys, argument):
    with pytest.raises(SystemExit) as stop:
        data_command.main(
            ["x", "folder", f"--input_dir={tmp_path}", f"--output_dir={tmp_path}", argument]
        )
    assert stop.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_built_data_set_trains_and_evaluates(tmp_path):
    """The whole way: pictures with bad ones among them, built, inspected, trained, evaluated."""
    source = tmp_path / "in"
    for number in range(120):
        kind = list(KINDS.values())[number % len(KINDS)]
        path = source / f"class {number % 2}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kind.data)
    (source / "class 0" / "bad.jpg").write_bytes(BAD["truncated.jpg"])
    out, model = tmp_path / "out", tmp_path / "model"
    data_command.main(["x", "folder", f"--input_dir={source}", f"--output_dir={out}"])
    assert data_command.main(["x", "inspect", f"--data_dir={out}"]) == 0
    command = [
        sys.executable,
        "mnasnet_main.py",
        f"--data_dir={out}",
        f"--model_dir={model}",
        "--model_name=mnasnet-small",
        "--input_image_size=32",
        "--train_steps=2",
        "--train_batch_size=16",
        "--steps_per_eval=2",
        "--use_tpu=False",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (evaluation,) = json.loads((model / "evaluations.json").read_text())
    assert evaluation["images"] == dataset_info.load(str(out)).num_eval_images


def test_pictures_are_checked_by_the_whole_of_their_bytes(tmp_path):
    """A picture that lacks only its end is found, though its header is sound."""
    source = fill(tmp_path / "in", {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    (source / "train" / "a" / "cut.jpg").write_bytes(picture_files.jpeg()[:-3])
    build(source, tmp_path / "out", max_bad_share=0.5)
    listed = (tmp_path / "out" / "unreadable.txt").read_text()
    assert listed == "train/a/cut.jpg\tthe file is truncated\n"
