"""Reads what the builders of data sets wrote: bytes of files, features of records."""

import pathlib

import tensorflow.compat.v1 as tf

from utils.reading import records


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
