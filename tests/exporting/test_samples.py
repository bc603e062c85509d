"""The images that an export is measured and calibrated with."""

import io

import exports
import numpy as np
import picture_files
import pytest
from exports import settings_of
from other_records import KAGGLE, write_kaggle
from PIL import Image

import preprocessing
from utils.base.errors import UserError
from utils.exporting import samples
from utils.reading import examples, records

import tensorflow.compat.v1 as tf


def test_calibration_images_are_of_all_classes(digits_dir, tmp_path):
    found = [
        records.unpack(record, path, 0)[1]
        for path in records.list_files(digits_dir, "train-")
        for record in records.read_records(path)
    ]
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        for label in sorted(found):
            picture = io.BytesIO()
            Image.new("RGB", (40, 40), (20 * label,) * 3).save(picture, "PNG")
            writer.write(examples.example(picture.getvalue(), label))
    params = settings_of("none", "none", data_dir=str(tmp_path))
    images = samples.calibration_images(params)
    assert len(images) == samples.NUM_CALIBRATION_IMAGES
    shades = np.bincount([round(float(image.mean()) / 20) for image in images], minlength=11)[1:]
    expected = np.bincount(found, minlength=11)[1:] / len(found) * len(images)
    np.testing.assert_allclose(shades, expected, atol=1.5)


def write_records(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_calibration_turns_pictures_and_evaluation_takes_them_as_stored(tmp_path, orientation):
    """As training takes them; their EXIF data reach the data sets of other builders alone."""
    upright = picture_files.smooth()
    stored = picture_files.STORED[orientation](upright)
    marked = picture_files.save(stored, "PNG", exif=picture_files.exif(orientation))
    for prefix in ("train", "validation"):
        write_records(tmp_path / f"{prefix}-00000-of-00001", [examples.example(marked, 1)])
    params = settings_of("none", "none", data_dir=str(tmp_path), num_eval_images=1)
    expected = fed({"upright": upright, "stored": stored}, exports.SIZE, "bilinear")
    (calibrated,) = samples.calibration_images(params)
    np.testing.assert_array_equal(calibrated, expected["upright"])
    ((evaluated, _),) = samples.evaluation_images(params)
    np.testing.assert_array_equal(evaluated, expected["stored"])


@pytest.mark.parametrize(
    "name", ["png RGBA", "png RGB 12 bits", "gif with a hole", "bmp of alpha 0"]
)
def test_calibration_shows_a_picture_as_classify_does(tmp_path, name):
    kind = picture_files.kinds()[name]
    write_records(tmp_path / "train-00000-of-00001", [examples.example(kind.data, 1)])
    params = settings_of("none", "none", data_dir=str(tmp_path))
    (calibrated,) = samples.calibration_images(params)
    expected = fed({"shown": kind.pixels}, exports.SIZE, "bilinear")["shown"]
    np.testing.assert_allclose(calibrated, expected, atol=1.5)


def fed(pictures_by_name, size, resize_method):
    """What evaluation feeds of pixels uint8 [H, W, 3], by name."""
    pixels = tf.placeholder(tf.uint8, [None, None, 3])
    image = preprocessing.preprocess_image(
        tf.io.encode_png(pixels), image_size=size, resize_method=resize_method
    )
    with tf.Session() as session:
        return {name: session.run(image, {pixels: p}) for name, p in pictures_by_name.items()}


@pytest.mark.parametrize("prefix", ["train", "validation"])
@pytest.mark.parametrize(
    ("label", "position", "words"), [(1, 2, "the picture cannot be decoded"), (11, 1, "label 11")]
)
def test_images_that_cannot_be_read(tmp_path, pictures, prefix, label, position, words):
    serialized = [examples.example(picture, 1) for picture in pictures]
    serialized[position] = examples.example(pictures[0] if label == 11 else b"no picture", label)
    write_records(tmp_path / f"{prefix}-00000-of-00001", serialized)
    params = settings_of("none", "none", data_dir=str(tmp_path), quantize="int8")
    read = samples.calibration_images if prefix == "train" else samples.evaluation_images
    with pytest.raises(UserError) as error:
        list(read(params))
    assert f"{prefix}-00000-of-00001, record {position}: {words}" in str(error.value)


def test_training_files_without_a_record(tmp_path):
    write_records(tmp_path / "train-00000-of-00001", [])
    params = settings_of("none", "none", data_dir=str(tmp_path), quantize="int8")
    with pytest.raises(UserError, match=r"train-\* of --data_dir=.* are empty"):
        samples.calibration_images(params)


def test_stretched_images_show_the_whole_picture(tmp_path):
    """A gray picture twice as wide as high, with black and white at its sides."""
    pixels = np.full((60, 120, 3), 127, np.uint8)
    pixels[:, :19], pixels[:, 100:] = 0, 255
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    with tf.io.TFRecordWriter(str(tmp_path / "validation-00000-of-00001")) as writer:
        for label in (3, 7):
            writer.write(examples.example(picture.getvalue(), label))
    params = settings_of("none", "none", data_dir=str(tmp_path))
    found = list(samples.stretched_images(params))
    assert [label for _, label in found] == [2, 6]
    image = found[0][0]
    assert image.shape == (32, 32, 3) and image.dtype == np.float32
    # Column 5 shows the picture at 5 * 120 / 32 = 18.75, three quarters of the way from black to
    # gray, rounded to a whole number; column 26 at 97.5.
    row = [0] * 5 + [95] + [127] * 21 + [255] * 5
    np.testing.assert_array_equal(image, np.tile(np.reshape(row, (1, 32, 1)), (32, 1, 3)))
    cropped = next(samples.evaluation_images(params))[0]
    assert cropped.min() == cropped.max() == 127
    one = {**params, "export_eval_images": 1}
    assert len(list(samples.stretched_images(one))) == 1


def test_calibration_images_of_records_of_another_program(digits_dir, tmp_path):
    data_dir = write_kaggle(digits_dir, tmp_path / "kaggle", "GZIP")
    expected = samples.calibration_images(settings_of("none", "none", data_dir=digits_dir))
    found = samples.calibration_images(settings_of("none", "none", data_dir=data_dir, **KAGGLE))
    np.testing.assert_array_equal(found, expected)
