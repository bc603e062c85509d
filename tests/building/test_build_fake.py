"""Tests of random pictures: their distribution, and that they can be fed and learned."""

import collections
import colorsys
import io
import random

import numpy as np
import pytest
from built_data import content, features
from PIL import Image

import imagenet_input
from utils import data as data_command
from utils.base.errors import UserError
from utils.building import build_fake
from utils.building.build_fake import FakeOptions
from utils.reading import dataset_info, pictures

import tensorflow.compat.v1 as tf


@pytest.fixture(autouse=True, scope="module")
def pillow():
    pictures.require_pillow()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake") / "out"
    build_fake.build(FakeOptions(str(folder), num_train=120, num_validation=30, num_classes=6))
    return folder


def test_sizes_are_distributed_like_imagenets():
    rng = random.Random(0)
    sizes = [build_fake.size(rng) for _ in range(20000)]
    width, height = np.mean(sizes, axis=0)
    assert width == pytest.approx(400, rel=0.05)
    assert height == pytest.approx(350, rel=0.05)
    common = collections.Counter(sizes).most_common(2)
    assert [size for size, _ in common] == [(500, 375), (375, 500)]
    assert common[0][1] > 0.3 * len(sizes)
    longer = np.max(sizes, axis=1)
    assert longer.max() > 2000
    assert np.min(sizes) >= 32
    assert 0.001 < (longer > 1000).mean() < 0.02
    assert 0.15 < np.mean([w < h for w, h in sizes]) < 0.35


def test_the_commonest_size_takes_about_as_many_bytes_as_imagenets():
    image = build_fake.image(random.Random(0), 500, 375, 1, 5)
    assert 58_000 < len(pictures.encode(image, build_fake.QUALITY, 2)) < 72_000


@pytest.mark.parametrize("size", [(2600, 1300), (32, 50)])
def test_pictures_of_any_size_are_noisy(size):
    image = build_fake.image(random.Random(0), *size, 1, 5)
    assert image.size == size
    assert np.asarray(image).std() > 5


def test_pictures_have_the_size_that_their_records_tell(built):
    for made in features(built, "validation"):
        picture = Image.open(io.BytesIO(made["image/encoded"]))
        assert picture.size == (made["image/width"], made["image/height"])
        assert (picture.format, picture.mode) == ("JPEG", "RGB")


def test_description_and_labels(built):
    info = dataset_info.load(str(built))
    assert (info.num_train_images, info.num_eval_images, info.num_label_classes) == (120, 30, 6)
    assert info.label_names == tuple(f"class_00{number}" for number in range(6))
    for split, count in (("train", 20), ("validation", 5)):
        labels = collections.Counter(made["image/class/label"] for made in features(built, split))
        assert labels == dict.fromkeys(range(1, 7), count)


def test_classes_can_be_told_by_their_hue(built):
    right = 0
    for made in features(built, "validation"):
        picture = Image.open(io.BytesIO(made["image/encoded"]))
        mean = np.asarray(picture).reshape(-1, 3).mean(0)
        hue = colorsys.rgb_to_hsv(*mean)[0] * 6
        right += round(hue) % 6 == made["image/class/label"] - 1
    assert right > 24


def test_the_same_arguments_give_the_same_bytes(built, tmp_path):
    arguments = ["--num_train=120", "--num_validation=30", "--num_classes=6", "--num_threads=1"]
    data_command.main(["x", "fake", f"--output_dir={tmp_path}/out", *arguments])
    assert content(tmp_path / "out") == content(built)
    build_fake.build(FakeOptions(str(tmp_path / "seed"), 120, 30, 6, seed=1))
    other = content(tmp_path / "seed")
    assert other["train-00000-of-00001"] != content(built)["train-00000-of-00001"]


def test_more_images_than_fit_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(build_fake, "IMAGES_A_SHARD", 16)
    build_fake.build(FakeOptions(str(tmp_path), num_train=40, num_validation=8, num_classes=2))
    shards = dataset_info.load(str(tmp_path)).shards
    assert shards == {
        "train-00000-of-00003": 13,
        "train-00001-of-00003": 13,
        "train-00002-of-00003": 14,
        "validation-00000-of-00001": 8,
    }


def test_what_is_built_is_fed(built):
    feed = imagenet_input.ImageNetInput(
        True, False, False, str(built), image_size=32, num_classes=6, seed=1
    )
    dataset = feed.input_fn({"batch_size": 60})
    with tf.Session() as session:
        images, labels = session.run(tf.data.make_one_shot_iterator(dataset).get_next())
    assert images.shape == (60, 32, 32, 3)
    assert set(labels) == set(range(6))


def test_another_data_set_in_the_output(built):
    with pytest.raises(UserError, match="holds another data set"):
        build_fake.build(FakeOptions(str(built), num_train=121, num_validation=30, num_classes=6))


def test_one_class_is_too_few(tmp_path):
    with pytest.raises(UserError, match="--num_classes=1 is invalid: it must be at least 2"):
        build_fake.build(FakeOptions(str(tmp_path), num_classes=1))


@pytest.mark.parametrize("argument", ["--num_train=0", "--num_classes=-3", "--num_validation=x"])
def test_impossible_arguments(tmp_path, capsys, argument):
    with pytest.raises(SystemExit) as stop:
        data_command.main(["x", "fake", f"--output_dir={tmp_path}", argument])
    assert stop.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err
