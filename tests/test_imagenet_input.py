"""Tests of the input: every image counted once, hosts, seeds, layouts, errors, serving."""

import io
import os

import golden_files
import numpy as np
import other_records
import pytest
from PIL import Image
from shades import (
    NUM_IMAGES,
    SIZE,
    batches,
    jpeg,
    labels_of,
    make_input,
    numbers_of_host,
    write_shards,
)

import imagenet_input
import preprocessing
from imagenet_input import PADDING
from utils.base.errors import UserError
from utils.reading import examples, records, scan
from utils.reading.records import Segment

import tensorflow.compat.v1 as tf

# Evaluation.


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 24, 64])
def test_every_evaluation_image_counts_once_in_order(numbered_dir, batch_size):
    taken = batches(make_input(numbered_dir), batch_size)
    assert len(taken) == -(-NUM_IMAGES // batch_size)
    for images, labels in taken:
        assert images.shape == (batch_size, SIZE, SIZE, 3)
        assert images.dtype == np.float32
        assert labels.shape == (batch_size,)
        assert labels.dtype == np.int32
    labels = labels_of(taken)
    counted = labels != PADDING
    np.testing.assert_array_equal(labels[counted], np.arange(NUM_IMAGES))
    # All padding is at the end, and black; the pictures are those of their labels.
    assert counted[:NUM_IMAGES].all()
    images = np.concatenate([images for images, _ in taken])
    shades = images.mean((1, 2, 3))
    np.testing.assert_allclose(shades[:NUM_IMAGES], 10 * np.arange(1, NUM_IMAGES + 1), atol=2)
    assert not images[~counted].any()


def write_large_and_small(path, num_images):
    """Pictures of which every fourth takes a hundred times as long to decode as the others."""
    buffer = io.BytesIO()
    Image.new("RGB", (2400, 2400), (9, 9, 9)).save(buffer, "PNG", compress_level=1)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(num_images):
            picture = buffer.getvalue() if number % 4 == 0 else jpeg(10)
            writer.write(examples.example(picture, number + 1))


def test_order_does_not_depend_on_how_long_pictures_take(tmp_path):
    write_large_and_small(tmp_path / "validation-00000-of-00001", 24)
    labels = labels_of(batches(make_input(str(tmp_path), num_parallel_calls=8), 24))
    np.testing.assert_array_equal(labels, np.arange(24))


def test_a_seed_fixes_the_order_however_long_pictures_take(tmp_path):
    write_large_and_small(tmp_path / "train-00000-of-00001", 24)
    source = make_input(str(tmp_path), True, seed=3, num_parallel_calls=8)
    first, second = (labels_of(batches(source, 24, limit=1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_sample_data_are_counted_once(digits_dir):
    labels = labels_of(batches(make_input(digits_dir, num_classes=10), 100))
    assert len(labels) == 400
    stored = [
        tf.train.Example.FromString(record).features.feature[examples.LABEL_KEY].int64_list.value[0]
        for path in records.list_files(digits_dir, "validation-")
        for record in records.read_records(path)
    ]
    np.testing.assert_array_equal(labels[labels != PADDING], np.array(stored) - 1)


def test_batches_have_static_shapes(numbered_dir):
    for is_training in (False, True):
        dataset = make_input(numbered_dir, is_training).input_fn({"batch_size": 4})
        images, labels = tf.data.get_output_shapes(dataset)
        assert images.as_list() == [4, SIZE, SIZE, 3]
        assert labels.as_list() == [4]


def test_on_a_tpu_evaluation_never_ends_but_counts_once(numbered_dir):
    taken = batches(make_input(numbered_dir), 5, limit=8, use_tpu=True)
    labels = labels_of(taken)
    assert len(labels) == 40
    np.testing.assert_array_equal(labels[:NUM_IMAGES], np.arange(NUM_IMAGES))
    assert (labels[NUM_IMAGES:] == PADDING).all()


def test_evaluation_pixels_are_those_of_preprocessing(digits_dir):
    (images, _), *_ = batches(make_input(digits_dir, resize_method="bilinear"), 3, limit=1)
    path = records.list_files(digits_dir, "validation-")[0]
    for place, record in zip(range(3), records.read_records(path), strict=False):
        image_bytes = tf.train.Example.FromString(record).features.feature[examples.IMAGE_KEY]
        image = preprocessing.preprocess_image(
            image_bytes.bytes_list.value[0], image_size=SIZE, resize_method="bilinear"
        )
        with tf.Session() as session:
            np.testing.assert_array_equal(session.run(image), images[place])


# Hosts.


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("num_hosts", [1, 3])
def test_segments_of_a_scan_alone_are_read(tmp_path, is_training, num_hosts):
    prefix = "train-" if is_training else "validation-"
    write_shards(tmp_path, prefix, np.arange(1, 12), 2)
    first, second = records.list_files(str(tmp_path), prefix)
    scans = scan.scan([first, second], 100)
    offset = 16 + len(next(records.read_records(second)))
    segments = [*scans[0].segments, Segment(second, offset, scans[1].num_records - 1)]
    source = make_input(str(tmp_path), is_training, segments=segments)
    shares = [numbers_of_host(source, index, num_hosts) for index in range(num_hosts)]
    everything = numbers_of_host(make_input(str(tmp_path), is_training), 0, 1)
    (left_out,) = set(everything) - set(sum(shares, []))
    assert len(sum(shares, [])) == 10
    assert records.unpack(next(records.read_records(second)), second, 0)[1] == left_out


# Training.


def test_training_repeats_and_every_epoch_has_every_image(numbered_dir):
    source = make_input(numbered_dir, True)
    labels = labels_of(batches(source, NUM_IMAGES, limit=3))
    epochs = labels.reshape(3, NUM_IMAGES)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(NUM_IMAGES))
    assert not np.array_equal(epochs[0], np.arange(NUM_IMAGES))
    assert not np.array_equal(epochs[0], epochs[1])


def test_training_batches_are_full_across_epochs(numbered_dir):
    taken = batches(make_input(numbered_dir, True), 10, limit=7)
    assert all(labels.shape == (10,) for _, labels in taken)
    # Three epochs are 69 of 70 images: nothing was dropped at their ends.
    counts = np.bincount(labels_of(taken)[: 3 * NUM_IMAGES], minlength=NUM_IMAGES)
    np.testing.assert_array_equal(counts, 3)


@pytest.mark.parametrize("cache", [False, True, None])
def test_same_seed_same_batches(digits_dir, cache):
    runs = [
        batches(make_input(digits_dir, True, seed=seed, cache=cache), 16, limit=4)
        for seed in (7, 7, 8)
    ]
    for first, second in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(first[1], second[1])
        np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(labels_of(runs[0]), labels_of(runs[2]))


def intervals(data_dir, num, batch_size, num_batches, **more):
    """What a training of several runs is fed: (images, labels) of each run."""
    step = batch_size * num_batches
    return [
        batches(make_input(data_dir, True, first_image=k * step, **more), batch_size, num_batches)
        for k in range(num)
    ]


def test_with_a_seed_a_run_that_goes_on_is_fed_as_if_never_interrupted(tmp_path):
    write_shards(tmp_path, "train-", np.arange(1, 24), 5)
    whole = batches(make_input(str(tmp_path), True, seed=4), 4, 15)
    parts = sum(intervals(str(tmp_path), 5, 4, 3, seed=4), [])
    for (images, labels), (expected_images, expected_labels) in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)


@pytest.mark.parametrize("cache", [False, True])
def test_with_a_seed_short_runs_make_an_epoch(numbered_dir, cache):
    found = sum(intervals(numbered_dir, 5, 4, 1, seed=4, cache=cache), [])
    assert len(set(labels_of(found))) == 20


def test_every_host_trains_on_whole_files_between_bad_records(tmp_path):
    write_shards(tmp_path, "train-", np.arange(1, 21), 2)
    first, second = records.list_files(str(tmp_path), "train-")
    # Of each file the first record, and all from the third on.
    lengths = [16 + len(record) for record in records.read_records(first)]
    segments = [Segment(first, 0, 1), Segment(first, sum(lengths[:2]), 8)]
    lengths = [16 + len(record) for record in records.read_records(second)]
    segments += [Segment(second, 0, 1), Segment(second, sum(lengths[:2]), 8)]
    for num_hosts, most in ((2, 9), (3, 6), (4, 5), (8, 3)):
        source = make_input(str(tmp_path), True, segments=segments)
        shares = [numbers_of_host(source, index, num_hosts) for index in range(num_hosts)]
        assert sorted(sum(shares, [])) == [n for n in range(1, 21) if n not in (2, 12)]
        assert max(map(len, shares)) == most


def test_a_seed_does_not_repeat_the_augmentation(tmp_path):
    write_shards(tmp_path, "train-", [1], 1)
    # One picture, not flat, so that every crop shows.
    path = records.list_files(str(tmp_path), "train-")[0]
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(examples.example(golden_files.picture("tiny.jpg"), 1))
    images = np.concatenate(
        [images for images, _ in batches(make_input(str(tmp_path), True, seed=3), 4, limit=3)]
    )
    assert len(np.unique(images.reshape(12, -1), axis=0)) == 12


def test_without_a_seed_batches_differ(digits_dir):
    source = make_input(digits_dir, True)
    first, second = (labels_of(batches(source, 32, limit=2)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_augmentation_reaches_the_pixels(tmp_path):
    path = str(tmp_path / "train-00000-of-00001")
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (48, 1, 3))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(examples.example(buffer.getvalue(), 1))
    whole = preprocessing.Augmentation(area_range=(0.99, 1.0), flip=False)
    source = make_input(str(tmp_path), True, augmentation=whole)
    ((images, _),) = batches(source, 64, limit=1)
    assert (images[:, :, -1].mean((1, 2)) > images[:, :, 0].mean((1, 2))).all()
    # The sampler cannot meet 0.99 of the area but with nearly the whole picture.
    assert images.std(0).max() < 30


# Layouts.


@pytest.mark.parametrize("is_training", [False, True])
def test_transposed_batches(digits_dir, is_training):
    plain, transposed = (
        batches(make_input(digits_dir, is_training, transpose_input=transpose, seed=1), 5, limit=5)
        for transpose in (False, True)
    )
    assert len(plain) == len(transposed) == 5
    for (images, labels), (turned, same_labels) in zip(plain, transposed, strict=True):
        assert turned.shape == (SIZE, SIZE, 3, 5)
        np.testing.assert_array_equal(turned, images.transpose(1, 2, 3, 0))
        np.testing.assert_array_equal(labels, same_labels)


@pytest.mark.parametrize("is_training", [False, True])
def test_bfloat16_batches(numbered_dir, is_training):
    exact, rounded = (
        batches(make_input(numbered_dir, is_training, use_bfloat16=low, seed=1), 5, limit=5)
        for low in (False, True)
    )
    for (images, labels), (low_images, same_labels) in zip(exact, rounded, strict=True):
        assert low_images.dtype == tf.bfloat16.as_numpy_dtype
        np.testing.assert_allclose(low_images.astype(np.float32), images, rtol=1 / 128)
        np.testing.assert_array_equal(labels, same_labels)


def test_bfloat16_null_data():
    ((images, _),) = batches(make_input(None, True, use_bfloat16=True), 5, limit=1)
    assert images.dtype == tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize("data_dir", [None, "", "null"])
@pytest.mark.parametrize("is_training", [False, True])
def test_null_data_are_black_images_without_end(data_dir, is_training):
    for transpose, shape in ((False, (3, SIZE, SIZE, 3)), (True, (SIZE, SIZE, 3, 3))):
        source = make_input(data_dir, is_training, transpose_input=transpose)
        taken = batches(source, 3, limit=50)
        assert len(taken) == 50
        for images, labels in taken:
            assert images.shape == shape
            assert not images.any()
            np.testing.assert_array_equal(labels, [0, 0, 0])


# Errors.


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("label", [0, 11, -1])
def test_label_out_of_range_is_an_error(tmp_path, is_training, label):
    prefix = "train-" if is_training else "validation-"
    with tf.io.TFRecordWriter(str(tmp_path / f"{prefix}00000-of-00001")) as writer:
        writer.write(examples.example(jpeg(10), 1))
        writer.write(examples.example(jpeg(10), label))
    source = make_input(str(tmp_path), is_training, num_classes=10)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"Label out of range: {label} is not in 1\.\.10"
    ):
        batches(source, 2, limit=4)


def test_labels_at_the_limits_pass(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "validation-00000-of-00001")) as writer:
        for label in (1, 10):
            writer.write(examples.example(jpeg(10), label))
    np.testing.assert_array_equal(
        labels_of(batches(make_input(str(tmp_path), num_classes=10), 2)), [0, 9]
    )


@pytest.mark.parametrize("is_training", [False, True])
def test_no_files_is_a_users_error(tmp_path, is_training):
    with pytest.raises(UserError, match="train-" if is_training else "validation-"):
        make_input(str(tmp_path), is_training).input_fn({"batch_size": 2})


def test_half_written_files_are_no_input(tmp_path):
    write_shards(tmp_path, "validation-", [1, 2], 1)
    (tmp_path / "validation-00001-of-00002.tmp-1234").write_bytes(b"half a record")
    np.testing.assert_array_equal(labels_of(batches(make_input(str(tmp_path)), 2)), [0, 1])


def test_a_source_must_say_where_its_records_are():
    with pytest.raises(NotImplementedError):
        imagenet_input.ImageNetTFExampleInput(False, False).input_fn({"batch_size": 2})


# Serving.


@pytest.mark.parametrize("resize_method", ["bicubic", "bilinear"])
def test_serving_input(resize_method):
    receiver = imagenet_input.build_image_serving_input_fn(
        preparation=preprocessing.Preparation(48, resize_method)
    )()
    placeholder = receiver.receiver_tensors["image_bytes"]
    assert placeholder.name == "Placeholder:0"  # as published, and as old clients feed it
    assert placeholder.dtype == tf.string
    assert receiver.features.dtype == tf.float32
    picture = np.random.RandomState(0).randint(0, 256, (50, 60, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    pictures = [golden_files.picture("chelsea.jpg"), buffer.getvalue()]
    expected = [
        preprocessing.preprocess_image(one, image_size=48, resize_method=resize_method)
        for one in pictures
    ]
    with tf.Session() as session:
        images = session.run(receiver.features, {placeholder: pictures})
        expected = session.run(expected)
        alone = session.run(receiver.features, {placeholder: pictures[1:]})
    assert images.shape == (2, 48, 48, 3)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(alone, images[1:])


def test_published_names():
    np.testing.assert_allclose(imagenet_input.MEAN_RGB, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(imagenet_input.STDDEV_RGB, [58.395, 57.12, 57.375])
    assert imagenet_input.BigtableSelection._fields == (
        "project",
        "instance",
        "table",
        "prefix",
        "column_family",
        "column_qualifier",
    )


# Records of other programs.


@pytest.fixture(scope="module", params=["GZIP", "ZLIB"])
def compressed_dir(numbered_dir, tmp_path_factory, request):
    """The numbered images in compressed files, the first of them plain."""
    folder = tmp_path_factory.mktemp("compressed")
    for prefix in ("train-", "validation-"):
        for number, path in enumerate(records.list_files(numbered_dir, prefix)):
            kind = request.param if number else ""
            name = folder / os.path.basename(path)
            other_records.compressed(name, records.read_records(path), kind)
    return str(folder)


@pytest.mark.parametrize("cache", [False, True])
def test_compressed_files_feed_the_same_batches(numbered_dir, compressed_dir, cache):
    for more in ({}, {"first_image": 30}, {"is_training": False}):
        more = {"is_training": True, "seed": 3, "cache": cache, **more}
        expected, found = (
            batches(make_input(folder, **more), 7, limit=4)
            for folder in (numbered_dir, compressed_dir)
        )
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(other[0], one[0])
            np.testing.assert_array_equal(other[1], one[1])


@pytest.mark.parametrize("is_training", [True, False])
def test_hosts_share_compressed_files(numbered_dir, compressed_dir, is_training):
    expected, found = (
        [numbers_of_host(make_input(folder, is_training, seed=1), host, 2) for host in range(2)]
        for folder in (numbered_dir, compressed_dir)
    )
    assert found == expected


@pytest.mark.parametrize("write_other", [other_records.write_tfds, other_records.write_kaggle])
def test_other_records_give_the_same_images_and_labels(numbered_dir, tmp_path, write_other):
    is_tfds = write_other is other_records.write_tfds
    given = other_records.TFDS if is_tfds else other_records.KAGGLE
    data_dir = write_other(numbered_dir, tmp_path / "other", "GZIP" if is_tfds else "")
    segments = [Segment(path) for path in records.list_files(data_dir, "validation-", given)]
    form = examples.record_format(given)
    source = make_input(data_dir, segments=segments, record_format=form, num_classes=NUM_IMAGES)
    for one, other in zip(batches(make_input(numbered_dir), 8), batches(source, 8), strict=True):
        np.testing.assert_array_equal(other[0], one[0])
        np.testing.assert_array_equal(other[1], one[1])
