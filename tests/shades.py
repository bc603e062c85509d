"""Data sets whose pictures and labels are numbers, and what an input feeds of them."""

import io

import numpy as np
import pytest
from PIL import Image

from imagenet_input import ImageNetInput
from utils.reading import examples, records

import tensorflow.compat.v1 as tf

SIZE = 32


NUM_IMAGES = 23


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 48), (shade, shade, shade)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_shards(folder, prefix, labels, num_shards):
    """Examples whose picture shows their label; examples go to the shards in runs."""
    for number, part in enumerate(np.array_split(labels, num_shards)):
        path = str(folder / f"{prefix}{number:05d}-of-{num_shards:05d}")
        with tf.io.TFRecordWriter(path) as writer:
            for label in part:
                writer.write(examples.example(jpeg(int(label) * 10), int(label)))


@pytest.fixture(scope="module")
def numbered_dir(tmp_path_factory):
    """23 images of 23 classes for each split; 5 files for training, 3 for evaluation."""
    folder = tmp_path_factory.mktemp("numbered")
    labels = np.arange(1, NUM_IMAGES + 1)
    write_shards(folder, "train-", labels, 5)
    write_shards(folder, "validation-", labels, 3)
    return str(folder)


def make_input(data_dir, is_training=False, **more):
    more = {"image_size": SIZE, "num_parallel_calls": 2, **more}
    return ImageNetInput(
        is_training,
        more.pop("use_bfloat16", False),
        more.pop("transpose_input", False),
        data_dir,
        **more,
    )


def batches(source, batch_size, limit=None, **params):
    """(images, labels) of up to `limit` batches, from a graph of their own."""
    taken = []
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = source.input_fn({"batch_size": batch_size, **params})
        iterator = tf.data.make_initializable_iterator(dataset)  # as TPUEstimator makes it
        batch = iterator.get_next()
        session.run(iterator.initializer)
        while limit is None or len(taken) < limit:
            try:
                taken.append(session.run(batch))
            except tf.errors.OutOfRangeError:
                break
    return taken


def labels_of(taken):
    return np.concatenate([labels for _, labels in taken])


def numbers_of_host(source, index, num_hosts):
    """Labels of one pass over the records of a host."""
    numbers = []
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = records.without_tuning(source.make_source_dataset(index, num_hosts))
        record = tf.data.make_one_shot_iterator(dataset).get_next()
        while True:
            try:
                example = tf.train.Example.FromString(session.run(record))
            except tf.errors.OutOfRangeError:
                return numbers
            numbers.append(example.features.feature[examples.LABEL_KEY].int64_list.value[0])
