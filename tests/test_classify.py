"""Classifying pictures with every kind of file, in this process."""

import io
import json
import os
import pathlib
import re
import shutil

import numpy as np
import picture_files
import pytest
from exports import saved_model_in
from golden_files import IMAGES
from PIL import Image

from utils import classify, evaluate
from utils.base.errors import UserError
from utils.reading import dataset_info, examples
from utils.showing import figures

import tensorflow.compat.v1 as tf


@pytest.fixture
def said(capsys):
    """Runs a program; returns the lines it prints."""

    def run(program, *arguments, whole=False):
        program.main(["program", *map(str, arguments)])
        text = capsys.readouterr().out
        return text if whole else text.splitlines()

    return run


@pytest.fixture
def refused(capsys, caplog):
    """Classifies pictures that cannot be read; returns the sentence about the first of them."""

    def run(model, *pictures):
        caplog.clear()
        text = mistake(classify, f"--model={model}", *pictures)
        assert text == f"{len(pictures)} of {len(pictures)} pictures could not be read."
        assert capsys.readouterr().out == ""
        return caplog.messages[0]

    return run


def mistake(program, *arguments):
    """The sentence that a program ends with."""
    with pytest.raises(UserError) as error:
        program.main(["program", *map(str, arguments)])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(
    params=[
        "",
        "saved",
        "tiny.tflite",
        "tiny_postquant.tflite",
        "tiny_float16.tflite",
        "tiny_int8.tflite",
    ]
)
def model(request, exported):
    """An export's folder, its SavedModel, and each of its files."""
    if request.param == "saved":
        return saved_model_in(exported)
    return os.path.join(exported, request.param)


def test_every_kind_of_file_classifies(said, model, digits_dir):
    picture = digits_dir + "/pictures/digit-7.jpg"
    lines = said(classify, f"--model={model}", picture, picture)
    assert lines[0] == lines[6] == picture and lines[1:6] == lines[7:] and len(lines) == 12
    shares = [float(line.split("%")[0]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.1
    assert (
        len({line.split("%")[1] for line in lines[1:6]} & set(map("  {}".format, range(10)))) == 5
    )


def test_every_kind_of_file_is_evaluated(said, model, digits_dir):
    (line,) = said(evaluate, f"--model={model}", f"--data_dir={digits_dir}", "--images=20")
    assert re.fullmatch(
        rf"{model}: top-1 [\d.]+ % \(95 % interval [\d.]+ to [\d.]+ %\), top-5 [\d.]+ % on 20 "
        r"images, [\d.]+ ms a picture with decoding \(median, one thread\)",
        line,
    )


def test_the_figures_of_each_class(said, exported, digits_dir):
    arguments = f"--model={exported}/tiny.tflite", f"--data_dir={digits_dir}", "--images=100"
    found = json.loads(said(evaluate, *arguments, "--per_class", "--json", whole=True))
    right = sum(entry["right"] for entry in found["classes"])
    assert right == found["top_1_accuracy"] * 100
    assert sum(entry["images"] for entry in found["classes"]) == found["images"] == 100
    assert sum(entry["predicted"] for entry in found["classes"]) == 100
    assert found["top_1_interval"] == list(figures.wilson_interval(right, 100))
    names = [entry["name"] for entry in found["classes"]]
    assert names == [str(digit) for digit in range(10)]
    wrong = [entry for entry in found["classes"] if entry["confused"]]
    assert wrong and all(e["confused_with"] in set(names) - {e["name"]} for e in wrong)
    lines = said(evaluate, *arguments, "--per_class")
    assert re.split(" {2,}", lines[1]) == [
        "class",
        "images",
        "precision %",
        "recall %",
        "F1 %",
        "most confused with",
    ]
    for line, entry in zip(lines[2:], found["classes"], strict=True):
        name, images, precision, recall, f1, *other = line.split()
        assert (name, int(images)) == (entry["name"], entry["images"])
        for text, key in ((precision, "precision"), (recall, "recall"), (f1, "f1")):
            assert text == ("-" if entry[key] is None else f"{100 * entry[key]:.2f}")
        assert other == (
            [entry["confused_with"], f"({entry['confused']})"] if entry["confused"] else ["-"]
        )
    assert "classes" not in json.loads(said(evaluate, *arguments, "--json", whole=True))


@pytest.mark.parametrize("classes", [5, 6])
def test_top_5_of_five_classes_is_not_told(said, tmp_path, digits_dir, classes):
    path = tmp_path / "few.tflite"
    tflite_file(path, [1, 32, 32, 3], 1e-6, classes)
    serialized = examples.example(picture_of((9, 9), "PNG"), 1)
    with tf.io.TFRecordWriter(str(tmp_path / "validation-00000-of-00001")) as writer:
        writer.write(serialized)
    arguments = f"--model={path}", f"--data_dir={tmp_path}"
    (line,) = said(evaluate, *arguments)
    assert ("top-5" in line) is (classes > 5)
    found = json.loads(said(evaluate, *arguments, "--json", "--per_class", whole=True))
    assert ("top_5_accuracy" in found) is (classes > 5)
    assert found["classes"][1] == {
        "name": "class 1",
        "images": 0,
        "predicted": 0,
        "right": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "confused_with": None,
        "confused": 0,
    }


def picture_of(size, image_format, mode="RGB"):
    data = io.BytesIO()
    Image.new(mode, size, 90).save(data, image_format)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        picture_of((1, 1), "PNG"),
        picture_of((1, 1), "JPEG"),
        picture_of((1, 700), "PNG"),
        picture_of((40, 30), "GIF", "L"),
        picture_of((40, 30), "BMP"),
    ],
)
def test_unusual_pictures(said, model, tmp_path, data):
    (tmp_path / "picture").write_bytes(data)
    assert len(said(classify, f"--model={model}", tmp_path / "picture")) == 6


def write_chelsea(path, orientation, kind="PNG", upright=False):
    """Writes the bundled cat as a camera that is held in another way stores it."""
    pixels = np.asarray(Image.open(IMAGES / "chelsea.jpg"))
    if upright:
        path.write_bytes(picture_files.save(pixels, kind, quality=95))
        return
    stored = picture_files.STORED[orientation](pixels)
    exif = picture_files.exif(orientation).tobytes()
    path.write_bytes(picture_files.save(stored, kind, quality=95, exif=exif))


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("JPEG", 1)])
def test_pictures_are_turned_upright(said, exported, tmp_path, kind, tolerance):
    """The bundled picture in all 8 orientations; a lossy format changes with the direction."""
    paths = [tmp_path / f"{orientation}" for orientation in range(9)]
    write_chelsea(paths[0], 1, kind, upright=True)
    for orientation in range(1, 9):
        write_chelsea(paths[orientation], orientation, kind)
    for model in (exported, exported + "/tiny.tflite"):
        found = json.loads(said(classify, f"--model={model}", "--json", *paths, whole=True))
        upright, *others = [
            {c["name"]: c["probability"] for c in picture["classes"]}
            for picture in found["pictures"]
        ]
        assert len(others) == 8
        for other in others:
            # A lossy format may swap classes that are as probable, or leave the last one out.
            assert tolerance or list(other) == list(upright)
            least = min(other.values())
            for name, probability in upright.items():
                assert abs(other.get(name, least) - probability) <= tolerance / 200


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "AVIF", "HEIF"])
def test_formats_that_tensorflow_lacks(said, exported, tmp_path, digits_dir, kind):
    digit = digits_dir + "/pictures/digit-7.jpg"
    path = tmp_path / "other"
    path.write_bytes(picture_files.save(Image.open(digit), kind, quality=95))
    found = said(classify, f"--model={exported}/tiny.tflite", digit, path)
    shares = [[float(line.split("%")[0]) for line in found[n : n + 5]] for n in (1, 7)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.5)


def test_a_bad_file_does_not_stop_the_others(exported, tmp_path, digits_dir, capsys, caplog):
    good = [f"{digits_dir}/pictures/digit-{n}.jpg" for n in (1, 2, 7)]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    pictures = [good[0], bad, good[1], "/none.jpg", good[2]]
    text = mistake(classify, f"--model={exported}/tiny.tflite", *pictures)
    assert text == "2 of 5 pictures could not be read."
    assert capsys.readouterr().out.splitlines()[::6] == good
    assert [message.split(":")[0] for message in caplog.messages] == [
        str(bad),
        "/none.jpg does not exist",
    ]


def test_json_holds_every_picture(exported, tmp_path, digits_dir, capsys):
    model, good = f"{exported}/tiny.tflite", f"{tmp_path}/" + os.fsdecode(b"not-utf8-\xe9.jpg")
    shutil.copy(f"{digits_dir}/pictures/digit-7.jpg", good)
    text = mistake(classify, f"--model={model}", "--json", good, "/none.jpg")
    assert text == "1 of 2 pictures could not be read."
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == model
    first, second = found["pictures"]
    assert first["path"] == good and len(first["classes"]) == 5
    assert all(c["name"] == str(c["index"]) for c in first["classes"])
    shares = [c["probability"] for c in first["classes"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.0001
    assert second == {"path": "/none.jpg", "error": "/none.jpg does not exist: check the path."}


# Wrong input.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"\xff\xd8\xff but no JPEG",
        picture_of((40, 30), "JPEG")[:100],
        picture_of((40, 30), "PNG")[:40],
    ],
)
def test_what_is_no_picture(refused, model, tmp_path, data):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    text = refused(model, path)
    assert text.startswith(f"{path}: the picture cannot be decoded (")


def test_a_picture_of_gigantic_size(refused, model, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(picture_files.GIGANTIC["jpeg"])
    text = refused(model, path)
    assert (
        text.startswith(f"{path}: the picture cannot be decoded (") and "900000000 pixels" in text
    )


def test_missing_files(refused, exported, tmp_path, digits_dir):
    model = exported + "/tiny.tflite"
    assert refused(model, "/none.jpg") == "/none.jpg does not exist: check the path."
    assert str(tmp_path) in refused(model, tmp_path)
    for program, more in ((classify, "a.jpg"), (evaluate, f"--data_dir={digits_dir}")):
        text = mistake(program, "--model=/none.tflite", more)
        assert text.startswith("--model=/none.tflite does not exist")
        assert f"--model={tmp_path} is not" in mistake(program, f"--model={tmp_path}", more)


def test_folders_that_tensorflow_takes_for_patterns(exported, tmp_path):
    model = exported + "/tiny.tflite"
    assert mistake(evaluate, f"--model={model}", "--data_dir=").startswith("--data_dir is missing")
    text = mistake(evaluate, f"--model={model}", "--data_dir=my [data]")
    assert text.startswith("--data_dir=my [data] has the character '['")
    folder = tmp_path / "export [1]"
    shutil.copytree(exported, folder)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x")
    text = mistake(classify, f"--model={folder}", picture)
    assert text.startswith(f"--model={folder}/") and "has the character '['" in text


def corruptions(content):
    """Names and contents of files that are no .tflite classifier."""
    yield "empty", b""
    yield "text", b"no model at all, but long enough to be taken for one"
    yield "identifier", content[:4] + b"XXXX" + content[8:]
    for share in (0.01, 0.5, 0.9):
        yield f"cut at {share}", content[: int(share * len(content))]
    rng = np.random.RandomState(0)
    yield "noise", content[:8] + rng.bytes(len(content) - 8)


def test_a_corrupt_tflite_file(exported, tmp_path, digits_dir):
    content = pathlib.Path(exported, "tiny_int8.tflite").read_bytes()
    for name, data in corruptions(content):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(data)
        text = mistake(classify, f"--model={path}", digits_dir + "/pictures/digit-1.jpg")
        words = "is not a .tflite classifier of square RGB pictures: export it again."
        assert text == f"{path} {words}"


def test_a_corrupt_saved_model(exported, tmp_path, digits_dir):
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    text = mistake(classify, f"--model={tmp_path}", digits_dir + "/pictures/digit-1.jpg")
    assert text.startswith(f"--model={tmp_path} is not a SavedModel of this program")


def test_labels_that_do_not_fit(exported, tmp_path, digits_dir):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    model, picture = f"--model={exported}/tiny.tflite", digits_dir + "/pictures/digit-1.jpg"
    text = mistake(classify, model, f"--labels={tmp_path}/labels.txt", picture)
    assert text.startswith("2 label names do not fit the model's 10 classes")
    assert "/none.txt does not exist" in mistake(classify, model, "--labels=/none.txt", picture)


@pytest.mark.parametrize(
    ("data", "label", "words"),
    [
        (b"no picture", 1, "record 0: the picture cannot be decoded"),
        (picture_files.GIGANTIC["jpeg"], 1, "record 0: the picture has 30000 x 30000 pixels"),
        (picture_of((9, 9), "PNG"), 11, "record 0: label 11 is not in 1..10"),
        (None, 1, "hold no record"),
    ],
)
def test_data_that_cannot_be_evaluated(exported, tmp_path, data, label, words):
    with tf.io.TFRecordWriter(str(tmp_path / "validation-00000-of-00001")) as writer:
        if data is not None:
            writer.write(examples.example(data, label))
    arguments = (f"--model={exported}/tiny.tflite", f"--data_dir={tmp_path}")
    assert words in mistake(evaluate, *arguments)
    assert "--images=0 is invalid: it must be at least 1." in mistake(
        evaluate, *arguments, "--images=0"
    )


def tflite_file(path, shape, weight, classes=10):
    """Writes a .tflite file of one layer, all of whose weights are one number."""
    with tf.Graph().as_default(), tf.Session() as session:
        values = tf.placeholder(tf.float32, shape)
        weights = tf.constant(weight, tf.float32, [int(np.prod(shape)), classes])
        result = tf.matmul(tf.reshape(values, [1, -1]), weights)
        content = tf.lite.TFLiteConverter.from_session(session, [values], [result]).convert()
    path.write_bytes(content)


@pytest.mark.parametrize("shape", [[1, 28, 28, 1], [1, 32, 48, 3], [1, 10]])
def test_a_tflite_file_of_something_else(tmp_path, shape):
    tflite_file(tmp_path / "other.tflite", shape, 1)
    text = mistake(classify, f"--model={tmp_path}/other.tflite", "a.jpg")
    assert "is not a .tflite classifier of square RGB pictures" in text


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_tflite_file_of_others_that_gives_no_numbers(tmp_path, digits_dir, weight, caplog):
    path = tmp_path / "nan.tflite"
    tflite_file(path, [1, 32, 32, 3], weight)
    for program, more in (
        (classify, digits_dir + "/pictures/digit-1.jpg"),
        (evaluate, f"--data_dir={digits_dir}"),
    ):
        text = mistake(program, f"--model={path}", more)
        assert text.startswith(f"--model={path} gives infinite numbers or NaN")
    assert f"{path} has no metadata of this program" in caplog.text


def test_copied_files_keep_names_and_resizing(said, exported, tmp_path, digits_dir):
    picture = digits_dir + "/pictures/digit-7.jpg"
    shutil.copytree(saved_model_in(exported), tmp_path / "a")
    shutil.copy(exported + "/tiny.tflite", tmp_path / "B.TFLITE")
    for name in ("a", "B.TFLITE"):
        expected = said(classify, f"--model={exported}", picture)
        assert said(classify, f"--model={tmp_path / name}", picture) == expected


def test_a_broken_report(refused, exported, tmp_path):
    (tmp_path / "export_report.json").write_text("{}")
    shutil.copy(exported + "/tiny.tflite", tmp_path)
    assert "is not a report of this program" in mistake(classify, f"--model={tmp_path}", "a.jpg")
    text = refused(f"{tmp_path}/tiny.tflite", "/none.jpg")
    assert text == "/none.jpg does not exist: check the path."


def test_data_of_other_classes(exported, tmp_path):
    dataset_info.DatasetInfo("other", 0, 1, 12).write(str(tmp_path))
    (tmp_path / "validation-0").write_bytes(b"")
    for name in ("", "/tiny.tflite"):
        text = mistake(evaluate, f"--model={exported}{name}", f"--data_dir={tmp_path}")
        assert "has 12 classes and the model 10" in text
