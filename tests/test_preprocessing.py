"""Tests of preprocessing: golden pixels, the random crops and flips, formats, normalization."""

import io

import golden_files
import numpy as np
import pytest
from PIL import Image

import preprocessing
from preprocessing import Augmentation

import tensorflow.compat.v1 as tf

# No crop of a square has these: the sampler gives up and returns the whole picture.
IMPOSSIBLE = Augmentation(aspect_ratio_range=(9.0, 10.0), area_range=(0.9, 1.0), max_attempts=3)


def encoded(array, image_format="PNG"):
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format)
    return buffer.getvalue()


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def run(tensor, feed=None):
    with tf.Session() as session:
        return session.run(tensor, feed)


def by_hand_centre(image, size):
    """The evaluation crop of an array."""
    height, width = image.shape[:2]
    side = int(size / (size + 32) * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return image[top : top + side, left : left + side]


def resized(image, size, kernel=tf.image.resize_bicubic):
    return run(kernel(image[None].astype(np.float32), [size, size]))[0]


# Evaluation.


@pytest.mark.parametrize("resize_method", ["bicubic", "bilinear"])
def test_golden_pixels(resize_method):
    golden = golden_files.read(f"pixels_{resize_method}_224")
    size = golden["image_size"]
    image_bytes = tf.placeholder(tf.string, [])
    image = preprocessing.preprocess_image(
        image_bytes, is_training=False, image_size=size, resize_method=resize_method
    )
    assert image.dtype == tf.float32
    assert image.shape.as_list() == [size, size, 3]
    with tf.Session() as session:
        for name, expected in golden["images"].items():
            pixels = session.run(image, {image_bytes: golden_files.picture(name)})
            step = size // 8
            ours = {
                "shape": list(pixels.shape),
                "mean": float(pixels.mean()),
                "min": float(pixels.min()),
                "max": float(pixels.max()),
                "grid": pixels[::step, ::step].tolist(),
            }
            golden_files.assert_close(expected, ours, path=name)


def test_bicubic_is_the_default():
    image_bytes = golden_files.picture("coffee.jpg")
    images = run(
        [
            preprocessing.preprocess_image(image_bytes, image_size=64, **method)
            for method in ({}, {"resize_method": "bicubic"}, {"resize_method": "bilinear"})
        ]
    )
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.allclose(images[0], images[2], atol=1)
    # The overshoot stays.
    assert images[0].min() < 0
    assert images[0].max() > 255


def test_default_size_is_224():
    image = preprocessing.preprocess_image(golden_files.picture("tiny.jpg"))
    assert image.shape.as_list() == [224, 224, 3]


@pytest.mark.parametrize(
    ("height", "width", "size"), [(400, 600, 224), (61, 40, 96), (33, 33, 32), (300, 451, 64)]
)
def test_centre_window(height, width, size):
    window = run(preprocessing.centre_window(tf.constant([height, width, 3]), size))
    image = np.arange(height * width).reshape(height, width)
    top, left, rows, columns = window
    np.testing.assert_array_equal(
        image[top : top + rows, left : left + columns], by_hand_centre(image, size)
    )


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, [6, 38, 84, 84]),
        (0.875, [6, 38, 84, 84]),
        (0.5, [24, 56, 48, 48]),
        (1, [0, 32, 96, 96]),
        (1e-6, [48, 80, 1, 1]),
    ],
)
def test_another_share_of_the_shorter_side(share, expected):
    window = run(preprocessing.centre_window(tf.constant([96, 160, 3]), 224, share))
    assert window.tolist() == expected


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_lossless_formats_equal_the_centre_crop_of_the_decoded_picture(image_format):
    picture = noise(90, 61)
    image = run(preprocessing.preprocess_image(encoded(picture, image_format), image_size=48))
    np.testing.assert_array_equal(image, resized(by_hand_centre(picture, 48), 48))


def test_first_frame_of_a_gif():
    frames = [Image.fromarray(np.full((40, 40, 3), value, np.uint8)) for value in (40, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    image = run(preprocessing.preprocess_image(buffer.getvalue(), image_size=32))
    assert image.shape == (32, 32, 3)
    np.testing.assert_allclose(image, 40, atol=1)


def test_jpeg_equals_the_centre_crop_of_the_decoded_picture():
    image_bytes = golden_files.picture("coffee.jpg")
    whole = run(tf.io.decode_jpeg(image_bytes, channels=3))
    image = run(preprocessing.preprocess_image(image_bytes, image_size=96))
    np.testing.assert_allclose(image, resized(by_hand_centre(whole, 96), 96), atol=0.01)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("is_training", [False, True])
def test_tiny_pictures_have_a_pixel_to_show(height, width, image_format, is_training):
    picture = encoded(np.full((height, width, 3), 200, np.uint8), image_format)
    pixels = run(preprocessing.preprocess_image(picture, is_training, image_size=64))
    assert pixels.shape == (64, 64, 3)
    np.testing.assert_allclose(pixels, 200, atol=2)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_of_png_become_rgb(mode):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (102, 102, 102)).convert(mode).save(buffer, "PNG")
    image = run(preprocessing.preprocess_image(buffer.getvalue(), image_size=32))
    assert image.shape == (32, 32, 3)
    np.testing.assert_allclose(image, 102, atol=1)


def test_cmyk_jpeg_becomes_rgb():
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 60, 90)).convert("CMYK").save(buffer, "JPEG")
    image = run(preprocessing.preprocess_image(buffer.getvalue(), image_size=32))
    np.testing.assert_allclose(image.mean((0, 1)), [200, 60, 90], atol=8)


@pytest.mark.parametrize("is_training", [False, True])
def test_bytes_that_are_no_picture_are_an_error(is_training):
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(preprocessing.preprocess_image(b"no picture", is_training, image_size=32))


@pytest.mark.parametrize("is_training", [False, True])
def test_bfloat16_pixels(is_training):
    image_bytes = golden_files.picture("tiny.jpg")
    exact, rounded = (
        preprocessing.preprocess_image(
            image_bytes, is_training, use_bfloat16, image_size=32, seed=[1, 2]
        )
        for use_bfloat16 in (False, True)
    )
    assert exact.dtype == tf.float32
    assert rounded.dtype == tf.bfloat16
    exact, rounded = run([exact, tf.cast(rounded, tf.float32)])
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=1 / 128)


@pytest.mark.parametrize("is_training", [False, True])
def test_unknown_resize_method_is_an_error_that_lists_the_known(is_training):
    with pytest.raises(ValueError, match=r"'nearest'.*bicubic or bilinear"):
        preprocessing.preprocess_image(b"", is_training, resize_method="nearest")


# Training.


def windows(shape, augmentation, count, size=64):
    """`count` random windows, int [count, 4]."""
    seeds = np.stack([np.arange(count), np.full(count, 17)], axis=1)
    return run(
        tf.map_fn(
            lambda seed: preprocessing.random_window(tf.constant(shape), size, augmentation, seed),
            tf.constant(seeds),
            dtype=tf.int32,
        )
    )


def by_hand_windows(side, count, least_area=0.1, seed=0):
    """(areas, aspects) of crops of a square as the sampler is documented to draw them.

    Aspect and height are uniform, the height between those of the least and the largest area.
    """
    rng = np.random.RandomState(seed)
    aspects = rng.uniform(3 / 4, 4 / 3, 4 * count)
    least, largest = np.sqrt(0.08 / aspects), np.minimum(1, 1 / aspects)
    heights = rng.uniform(least, largest)
    areas = heights**2 * aspects
    kept = areas >= least_area
    return areas[kept][:count], aspects[kept][:count]


def test_distribution_of_random_windows():
    side, count = 1000, 2000
    top, left, height, width = windows([side, side, 3], Augmentation(), count).T
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= side
    assert (left + width).max() <= side
    areas, aspects = height * width / side**2, width / height
    assert areas.min() >= 0.0999  # a crop covers at least 0.1, whatever area_range allows
    assert areas.max() <= 1
    assert aspects.min() >= 3 / 4 - 0.01
    assert aspects.max() <= 4 / 3 + 0.01
    expected_areas, expected_aspects = by_hand_windows(side, 2000)
    deciles = np.linspace(0.1, 0.9, 9)
    for ours, expected in ((areas, expected_areas), (aspects, expected_aspects)):
        np.testing.assert_allclose(
            np.quantile(ours, deciles), np.quantile(expected, deciles), atol=0.05
        )
    # The place is uniform among those that fit.
    for begin, size in ((top, height), (left, width)):
        share = (begin / np.maximum(side - size, 1))[size < 0.9 * side]
        np.testing.assert_allclose(np.quantile(share, deciles), deciles, atol=0.05)


def test_windows_of_an_oblong_picture_stay_inside_and_in_range():
    height, width = 120, 400
    drawn = windows([height, width, 3], Augmentation(area_range=(0.2, 0.3)), 500)
    areas = drawn[:, 2] * drawn[:, 3] / (height * width)
    aspects = drawn[:, 3] / drawn[:, 2]
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 0] + drawn[:, 2] <= height).all()
    assert (drawn[:, 1] + drawn[:, 3] <= width).all()
    assert areas.min() >= 0.19
    assert areas.max() <= 0.31
    assert aspects.min() >= 3 / 4 - 0.03
    assert aspects.max() <= 4 / 3 + 0.03


@pytest.mark.parametrize(
    "augmentation",
    [IMPOSSIBLE, Augmentation(aspect_ratio_range=(1.0, 1.0), area_range=(1.0, 1.0))],
)
def test_the_whole_picture_as_sample_means_the_centre_crop(augmentation):
    drawn = windows([200, 200, 3], augmentation, 20, size=96)
    side = int(96 / 128 * 200)
    np.testing.assert_array_equal(drawn, [[(200 - side + 1) // 2] * 2 + [side, side]] * 20)


def test_fallback_gives_the_pixels_of_evaluation():
    image_bytes = golden_files.picture("astronaut.jpg")
    train = preprocessing.preprocess_image(
        image_bytes, True, image_size=48, augmentation=IMPOSSIBLE._replace(flip=False)
    )
    train, evaluation = run([train, preprocessing.preprocess_image(image_bytes, image_size=48)])
    np.testing.assert_array_equal(train, evaluation)


def ramps(augmentation, count):
    """Of `count` training images: whether each is mirrored, and its crop's left, width and height.

    Red shows the column that a pixel comes from and green the row.
    """
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    picture = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    image_bytes = tf.constant(encoded(picture))
    seeds = np.stack([np.full(count, 5), 2 * np.arange(count)], axis=1)
    images = run(
        tf.map_fn(
            lambda seed: preprocessing.preprocess_image(
                image_bytes, True, image_size=32, augmentation=augmentation, seed=seed
            ),
            tf.constant(seeds),
            dtype=tf.float32,
        )
    )
    red, green = images[..., 0].mean(1), images[..., 1].mean(2)
    width = red[:, -1] - red[:, 0]
    return width < 0, red.min(1), np.abs(width), green[:, -1] - green[:, 0]


def test_half_of_the_training_images_are_mirrored_whatever_their_crop():
    mirrored, left, width, height = ramps(Augmentation(), 600)
    assert 0.45 < mirrored.mean() < 0.55
    for crop in (left, width, height, width / height):
        assert abs(np.corrcoef(mirrored, crop)[0, 1]) < 0.15


def test_no_flip_without_flip():
    assert not ramps(Augmentation(flip=False), 100)[0].any()


def test_same_seed_same_pixels():
    image_bytes = golden_files.picture("portrait.jpg")
    seed = tf.placeholder(tf.int64, [2])
    image = preprocessing.preprocess_image(image_bytes, True, image_size=48, seed=seed)
    with tf.Session() as session:
        images = [session.run(image, {seed: value}) for value in ([3, 4], [3, 4], [3, 5], [4, 4])]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[3])
    with tf.Graph().as_default():
        again = preprocessing.preprocess_image(image_bytes, True, image_size=48, seed=[3, 4])
        np.testing.assert_array_equal(run(again), images[0])


def test_without_a_seed_every_image_differs():
    image = preprocessing.preprocess_image(
        golden_files.picture("portrait.jpg"), True, image_size=48
    )
    with tf.Session() as session:
        first, second = session.run(image), session.run(image)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("resize_method", ["bicubic", "bilinear"])
def test_training_pixels_are_a_resized_window(resize_method):
    picture = noise(80, 100)
    seed = [3, 4]
    augmentation = Augmentation(flip=False)
    image = preprocessing.preprocess_image(
        encoded(picture),
        True,
        image_size=40,
        resize_method=resize_method,
        augmentation=augmentation,
        seed=seed,
    )
    window = preprocessing.random_window(tf.shape(picture), 40, augmentation, seed)
    image, (top, left, height, width) = run([image, window])
    crop = picture[top : top + height, left : left + width]
    kernel = preprocessing.RESIZE_METHODS[resize_method]
    np.testing.assert_array_equal(image, resized(crop, 40, kernel))


# Normalization.


def test_normalize_by_hand():
    images = np.random.RandomState(0).uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    ours = run(preprocessing.normalize(tf.constant(images)))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_normalize_with_other_numbers():
    images = np.random.RandomState(0).uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    ours = run(preprocessing.normalize(tf.constant(images), [127] * 3, [128, 64, 32]))
    np.testing.assert_allclose(ours, (images - 127) / [128, 64, 32], rtol=1e-5, atol=1e-5)


def test_normalize_keeps_bfloat16():
    assert preprocessing.normalize(tf.zeros([1, 4, 4, 3], tf.bfloat16)).dtype == tf.bfloat16
