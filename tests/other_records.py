"""Writes data sets as other programs do."""

import json
import os

from utils.reading import records

import tensorflow.compat.v1 as tf

# The settings that read what `write_tfds` and `write_kaggle` write.
TFDS = {
    "train_files": "digits-train.tfrecord-*",
    "eval_files": "digits-validation.tfrecord-*",
    "record_keys": "image=image,label=label",
    "first_label": 0,
}
KAGGLE = {
    "train_files": "train/*.tfrec",
    "eval_files": "val/*.tfrec",
    "record_keys": "image=image,label=class",
    "first_label": 0,
}


def flags_of(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


def compressed(path, serialized, compression):
    """Writes a compressed file of records; returns its path."""
    options = tf.python_io.TFRecordOptions(compression_type=compression)
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for example in serialized:
            writer.write(example)
    return str(path)


def _example(image_bytes, label, image_key, label_key, **more):
    values = {image_key: [image_bytes], **more}
    features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        for key, value in values.items()
    }
    features[label_key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _files(data_dir, split):
    """The (encoded picture, label) of the records of each file of a split."""
    return [
        [records.unpack(record, path, 0) for record in records.read_records(path)]
        for path in records.list_files(str(data_dir), f"{split}-")
    ]


def write_tfds(data_dir, folder, compression=""):
    """Writes a data set's records as TensorFlow Datasets does, with what it says of them."""
    os.makedirs(folder)
    lengths = {}
    for split in ("train", "validation"):
        parts = _files(data_dir, split)
        for number, pairs in enumerate(parts):
            name = f"digits-{split}.tfrecord-{number:05}-of-{len(parts):05}"
            made = [
                _example(image, label - 1, "image", "label", file_name=[b"%d.jpg" % n])
                for n, (image, label) in enumerate(pairs)
            ]
            compressed(f"{folder}/{name}", made, compression)
        lengths[split] = [str(len(pairs)) for pairs in parts]
    info = {
        "name": "digits",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "moduleName": "tensorflow_datasets.datasets.digits",
        "splits": [{"name": k, "shardLengths": v} for k, v in lengths.items()],
    }
    _write(f"{folder}/dataset_info.json", json.dumps(info))
    _write(f"{folder}/features.json", "{}")
    _write(f"{folder}/label.labels.txt", "".join(f"{n}\n" for n in range(10)))
    return str(folder)


def write_kaggle(data_dir, folder, compression=""):
    """Writes a data set's records as competitions of Kaggle have them."""
    for split, name in (("train", "train"), ("validation", "val")):
        os.makedirs(f"{folder}/{name}")
        for number, pairs in enumerate(_files(data_dir, split)):
            made = [
                _example(image, label - 1, "image", "class", id=[b"%09x" % n])
                for n, (image, label) in enumerate(pairs)
            ]
            path = f"{folder}/{name}/{number:02}-192x192-{len(pairs)}.tfrec"
            compressed(path, made, compression)
    return str(folder)


def _write(path, text):
    with open(path, "w") as f:
        f.write(text)
