"""Reads what the builders of data sets wrote: bytes of files, features of records.

It also writes a data set again with its classes in another order.
"""

import dataclasses
import os
import pathlib

from utils.reading import dataset_info, examples, records

import tensorflow.compat.v1 as tf


def content(folder):
    """{path: bytes} of all files."""
    paths = sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def bucket_content(bucket):
    """{path: bytes} of all files of a bucket."""
    found = {}
    for folder, _, names in tf.io.gfile.walk(bucket):
        for name in names:
            with tf.io.gfile.GFile(f"{folder}/{name}", "rb") as f:
                found[f"{folder}/{name}".removeprefix(f"{bucket}/")] = f.read()
    return found


def features(folder, split):
    """Features of the records of a split, in order: {name: value}."""
    made = []
    for path in records.list_files(str(folder), f"{split}-"):
        for record in records.read_records(path):
            found = tf.train.Example.FromString(record).features.feature
            values = {k: f.bytes_list.value or f.int64_list.value for k, f in found.items()}
            made.append({key: value[0] for key, value in values.items()})
    return made


def labelled_pictures(folder):
    """{split: list of (encoded picture, label)} of both splits."""
    return {
        split: [(f["image/encoded"], f["image/class/label"]) for f in features(folder, split)]
        for split in ("train", "validation")
    }


def write_in_order(data_dir, folder, names):
    """Writes a data set again, with classes of these names alone, in their order."""
    os.makedirs(folder)
    info = dataset_info.load(data_dir)
    shards = {}
    for name in info.shards:
        kept = []
        for record in records.read_records(os.path.join(data_dir, name)):
            found = tf.train.Example.FromString(record)
            label = found.features.feature[examples.LABEL_KEY].int64_list.value
            if info.label_names[label[0] - 1] in names:
                label[0] = names.index(info.label_names[label[0] - 1]) + 1
                kept.append(found.SerializeToString())
        with tf.io.TFRecordWriter(os.path.join(folder, name)) as writer:
            for record in kept:
                writer.write(record)
        shards[name] = len(kept)
    dataclasses.replace(
        info,
        num_label_classes=len(names),
        label_names=tuple(names),
        num_train_images=sum(n for name, n in shards.items() if name.startswith("train")),
        num_eval_images=sum(n for name, n in shards.items() if name.startswith("valid")),
        shards=shards,
        shard_bytes={},
        images_by_class={},
    ).write(str(folder))
    return str(folder)
