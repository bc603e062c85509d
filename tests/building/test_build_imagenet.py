"""Tests of the ImageNet builder, on folders laid out like ImageNet."""

import logging

import picture_files
import pytest
from built_data import content, features

import imagenet_input
from utils import data as data_command
from utils.base import files
from utils.base.errors import UserError
from utils.building import build_imagenet
from utils.building.build_imagenet import ImagenetOptions
from utils.config import settings
from utils.reading import dataset_info

import tensorflow.compat.v1 as tf

KINDS = picture_files.kinds()
# In no sorted order; the first three of ImageNet's, sorted, are tench, goldfish, great white shark.
SYNSETS = ("n01443537", "n01484850", "n01440764")
TRAIN_COUNT, VALIDATION_COUNT = 12, 9


@pytest.fixture
def imagenet(tmp_path):
    """(folder, file of validation labels): three synsets, with the known kinds of bad files."""
    root = tmp_path / "imagenet"
    for synset in SYNSETS:
        folder = root / "train" / synset
        folder.mkdir(parents=True)
        for number in range(TRAIN_COUNT):
            (folder / f"{synset}_{number}.JPEG").write_bytes(picture_files.jpeg(number))
    (root / "train" / SYNSETS[0] / f"{SYNSETS[0]}_3.JPEG").write_bytes(KINDS["png"].data)
    (root / "train" / SYNSETS[1] / f"{SYNSETS[1]}_5.JPEG").write_bytes(KINDS["jpeg CMYK"].data)
    turned = KINDS["jpeg EXIF 6"].data
    (root / "train" / SYNSETS[2] / f"{SYNSETS[2]}_7.JPEG").write_bytes(turned)
    (root / "validation").mkdir()
    labels = [SYNSETS[number * 2 % 3] for number in range(VALIDATION_COUNT)]
    for number in range(VALIDATION_COUNT):
        path = root / "validation" / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        path.write_bytes(picture_files.jpeg(100 + number))
    file = tmp_path / "labels of validation.txt"
    file.write_text("".join(f"{label}\n" for label in labels))
    return root, file


def build(root, target, labels=None, **options):
    labels = None if labels is None else str(labels)
    options = {"train_shards": 4, "validation_shards": 2, **options}
    build_imagenet.build(ImagenetOptions(str(root), str(target), labels, **options))
    return dataset_info.load(str(target))


def test_description(imagenet, tmp_path):
    root, labels = imagenet
    info = build(root, tmp_path / "out", labels)
    assert info.name == "ImageNet (ILSVRC2012)"
    assert (info.num_train_images, info.num_eval_images) == (36, 9)
    assert info.label_names == (
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    )
    assert sorted(info.shards) == [
        *(f"train-{n:05d}-of-00004" for n in range(4)),
        *(f"validation-{n:05d}-of-00002" for n in range(2)),
    ]
    assert set(info.features) == set(features(tmp_path / "out", "train")[0])


def test_labels_are_in_sorted_synset_order_and_bytes_are_kept(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "out", labels)
    changed = []
    names = []
    for example in features(tmp_path / "out", "train"):
        name = example["image/filename"].decode()
        synset = name.split("_")[0]
        names.append(name)
        assert example["image/class/synset"].decode() == synset
        assert example["image/class/label"] == sorted(SYNSETS).index(synset) + 1
        if (root / "train" / synset / name).read_bytes() != example["image/encoded"]:
            changed.append(name)
            assert example["image/encoded"].startswith(b"\xff\xd8\xff")
    # Only what is not what its name says; a picture with EXIF data stays as it is.
    assert sorted(changed) == [f"{SYNSETS[0]}_3.JPEG", f"{SYNSETS[1]}_5.JPEG"]
    assert len(set(names)) == 36
    assert names != sorted(names)


def test_validation_is_in_the_order_of_the_label_file(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "out", labels)
    made = features(tmp_path / "out", "validation")
    assert [e["image/filename"].decode() for e in made] == sorted(
        path.name for path in (root / "validation").iterdir()
    )
    assert [e["image/class/synset"].decode() for e in made] == labels.read_text().split()


def test_a_label_file_may_begin_with_a_byte_order_mark(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "plain", labels)
    labels.write_text(labels.read_text(), encoding="utf-8-sig")
    build(root, tmp_path / "marked", labels)
    assert content(tmp_path / "marked") == content(tmp_path / "plain")


def test_validation_in_folders_gives_the_same_bytes(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "flat", labels)
    pictures = sorted((root / "validation").iterdir())
    for path, synset in zip(pictures, labels.read_text().split(), strict=True):
        (root / "validation" / synset).mkdir(exist_ok=True)
        path.rename(root / "validation" / synset / path.name)
    (root / "validation").rename(root / "val")
    build(root, tmp_path / "folders")
    assert content(tmp_path / "flat") == content(tmp_path / "folders")
    with pytest.raises(UserError, match="--validation_labels is for pictures without folders"):
        build(root, tmp_path / "both", labels)


@pytest.mark.parametrize(
    "row", ["{name},{synset} 1 2 3 4 {synset} 5 6 7 8", "val/{name}.JPEG {synset}"]
)
def test_labels_by_file_name_may_be_in_any_order(imagenet, tmp_path, row):
    """Kaggle's table, and lists of pictures and synsets."""
    root, labels = imagenet
    build(root, tmp_path / "in order", labels)
    names = sorted(path.stem for path in (root / "validation").iterdir())
    rows = [
        row.format(name=name, synset=synset)
        for name, synset in zip(names, labels.read_text().split(), strict=True)
    ]
    header = ["ImageId,PredictionString"] if "," in row else []
    labels.write_text("\n".join(header + rows[::-1]))
    build(root, tmp_path / "by name", labels)
    assert content(tmp_path / "by name") == content(tmp_path / "in order")


def test_folders_of_splits_may_have_the_names_of_the_archives(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "plain", labels)
    (root / "train").rename(root / "ILSVRC2012_img_train")
    (root / "validation").rename(root / "ILSVRC2012_img_val")
    build(root, tmp_path / "archives", labels)
    assert content(tmp_path / "archives") == content(tmp_path / "plain")


def test_the_seed_orders_training_alone(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "a", labels)
    build(root, tmp_path / "b", labels, seed=1)
    orders = [
        [e["image/filename"] for e in features(tmp_path / folder, "train")] for folder in "ab"
    ]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    for name in ("validation-00000-of-00002", "validation-00001-of-00002"):
        assert content(tmp_path / "a")[name] == content(tmp_path / "b")[name]


def test_the_log_says_what_is_not_as_in_imagenet(imagenet, tmp_path, caplog):
    root, labels = imagenet
    with caplog.at_level(logging.INFO, "absl"):
        build(root, tmp_path / "out", labels)
    for words in (
        "3 synsets, where ImageNet has 1000: labels are 1..3.",
        "36 pictures for training, where ImageNet has 1281167.",
        "2 pictures were encoded anew: CMYK 1, PNG 1.",
    ):
        assert words in caplog.text


def test_validation_pictures_of_other_synsets_are_left_out(imagenet, tmp_path, caplog):
    root, labels = imagenet
    lines = labels.read_text().replace(SYNSETS[0], "n02085620")
    labels.write_text(lines)
    with caplog.at_level(logging.INFO, "absl"):
        info = build(root, tmp_path / "out", labels)
    assert info.num_eval_images == 6
    assert "3 pictures of synsets that are not in train are left out" in caplog.text


def test_the_label_map_of_all_of_imagenet():
    lines = files.read_text(dataset_info.IMAGENET_FILE).splitlines()
    synsets = [line.split("\t")[0] for line in lines]
    assert len(synsets) == settings.IMAGENET_CLASSES
    assert synsets == sorted(synsets)
    assert build_imagenet._label_names(synsets)[:1] == ["tench, Tinca tinca"]
    assert build_imagenet._label_names(["n99999999"]) == ["n99999999"]


def test_what_is_built_is_fed(imagenet, tmp_path):
    root, labels = imagenet
    build(root, tmp_path / "out", labels)
    feed = imagenet_input.ImageNetInput(
        False, False, False, str(tmp_path / "out"), image_size=32, num_classes=3
    )
    dataset = feed.input_fn({"batch_size": VALIDATION_COUNT})
    with tf.Session() as session:
        _, found = session.run(tf.data.make_one_shot_iterator(dataset).get_next())
    order = sorted(SYNSETS)
    assert found.tolist() == [order.index(synset) for synset in labels.read_text().split()]


def spoil(imagenet, how):
    root, labels = imagenet
    if how == "no train":
        (root / "train").rename(root / "pictures")
    elif how == "tar files":
        (root / "train").rename(root / "elsewhere")
        (root / "train").mkdir()
        (root / "train" / "n01440764.tar").write_bytes(b"")
    elif how == "other folders":
        (root / "train" / "cats").mkdir()
    elif how == "empty synset":
        (root / "train" / "n02085620").mkdir()
    elif how == "no validation":
        (root / "validation").rename(root / "test")
    elif how == "two validations":
        (root / "val").mkdir()
    elif how == "no labels":
        return root, None
    elif how == "too few labels":
        labels.write_text("n01440764\n")
    elif how == "numbers":
        labels.write_text("490\n361\n")
    elif how == "names and numbers":
        labels.write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    elif how == "too few rows":
        labels.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n")
    elif how == "words":
        labels.write_text("n01440764\nn1 cat\n")
    elif how == "no such labels":
        return root, "nowhere.txt"
    elif how == "unknown labels":
        labels.write_text("n02085620\n" * VALIDATION_COUNT)
    return root, labels


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no train", ["--input_dir=", "no folder train", "ILSVRC/Data/CLS-LOC"]),
        ("tar files", ["fewer than 2 folders of synsets", "unpack"]),
        ("other folders", ["/train/cats", "mnasnet-data folder"]),
        ("empty synset", ["n02085620 has no pictures", "n02085620.tar"]),
        ("no validation", ["no folder validation"]),
        ("two validations", ["has both val and validation"]),
        ("no labels", ["--validation_labels", "validation_synset_labels.txt"]),
        ("too few labels", ["1 synsets for 9 pictures"]),
        ("numbers", ["'490' is not a synset", "development kit", "validation_synset_labels.txt"]),
        (
            "names and numbers",
            ["'ILSVRC2012_val_00000001.JPEG 65'", "validation_synset_labels.txt"],
        ),
        ("words", ["'n1 cat'"]),
        ("too few rows", ["labels of validation.txt", "ILSVRC2012_val_00000002"]),
        ("no such labels", ["nowhere.txt does not exist"]),
        ("unknown labels", ["no pictures of the synsets in train"]),
    ],
)
def test_inputs_of_another_layout(imagenet, tmp_path, how, words):
    root, labels = spoil(imagenet, how)
    with pytest.raises(UserError) as error:
        build(root, tmp_path / "out", labels)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def test_by_the_command_line(imagenet, tmp_path, capsys):
    root, labels = imagenet
    arguments = [f"--input_dir={root}", f"--output_dir={tmp_path}/out"]
    data_command.main(["x", "imagenet", *arguments, f"--validation_labels={labels}"])
    info = dataset_info.load(str(tmp_path / "out"))
    # There are fewer pictures than the 1024 and 128 files of ImageNet.
    assert len(info.shards) == 36 + 9
    assert info.builder.startswith("mnasnet-data imagenet ")
    with pytest.raises(SystemExit):
        data_command.main(["x", "imagenet", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default: 1024" in text
    assert "default: 128" in text
