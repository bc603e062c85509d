"""Tests of the file that keeps features: whole or not there, and never one of something else."""

import os
import uuid

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.base.errors import UserError
from utils.features import feature_file
from utils.features.feature_file import Features

ORIGIN = {"weights": "abc", "number of views": 2}
WIDTH = 6


def batches(count=3):
    rng = np.random.RandomState(0)
    for number in range(count):
        values = rng.uniform(-1, 1, (4 + number, WIDTH)).astype(np.float32)
        yield Features(values, rng.randint(0, 9, 4 + number).astype(np.int32))


@pytest.fixture(params=["folder", "bucket"])
def path(request, tmp_path):
    folder = str(tmp_path) if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}"
    return f"{folder}/{feature_file.FILE_NAME}"


def test_what_was_written_is_read(path):
    assert feature_file.write(path, ORIGIN, WIDTH, batches()) == 15
    assert tf.io.gfile.listdir(os.path.dirname(path)) == [feature_file.FILE_NAME]
    assert feature_file.read_origin(path) == ORIGIN
    found = feature_file.read(path)
    for ours, theirs in zip(found, zip(*batches(), strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.concatenate(theirs))
    size = tf.io.gfile.stat(path).length
    assert 0 <= size - feature_file.num_bytes(15, WIDTH) < 300


def damaged(content, how):
    """The content of a file with some damage."""
    end_of_last = content.rindex(b'{"rows"') - 12  # before the length and its checksum
    return {
        "empty": b"",
        "text": b"not a TFRecord file at all",
        "cut": content[: len(content) // 2],
        "without its end": content[:end_of_last],
        "a flipped bit": content[:300] + bytes([content[300] ^ 1]) + content[301:],
    }[how]


@pytest.mark.parametrize("how", ["empty", "text", "cut", "without its end", "a flipped bit"])
def test_a_damaged_file_is_one_sentence(tmp_path, how):
    path = str(tmp_path / "file")
    feature_file.write(path, ORIGIN, WIDTH, batches())
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(damaged(content, how))
    with pytest.raises(UserError, match=f"^{path}.*[.]$"):
        feature_file.read(path)


@pytest.mark.parametrize("first", [b"", b"{}", b"[1]", b'{"origin": 1, "width": "6"}', b"\xff"])
def test_another_tfrecord_file_is_told(tmp_path, first):
    path = str(tmp_path / "file")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(first)
    for read in (feature_file.read, feature_file.read_origin):
        with pytest.raises(UserError, match="is not a file of cached features"):
            read(path)


def test_a_disk_that_takes_no_more(tmp_path, file_size_limit):
    path = str(tmp_path / "file")
    many = (Features(np.ones([50, 400], np.float32), np.ones([50], np.int32)) for _ in range(9))
    with file_size_limit(100_000), pytest.raises(UserError, match=f"^{path} cannot be written"):
        feature_file.write(path, ORIGIN, 400, many)
    assert os.listdir(tmp_path) == []


def test_what_ends_the_work_leaves_the_file_of_before(tmp_path):
    path = str(tmp_path / "file")
    feature_file.write(path, ORIGIN, WIDTH, batches())

    def stopped():
        yield from batches(1)
        raise SystemExit(130)

    with pytest.raises(SystemExit):
        feature_file.write(path, {}, WIDTH, stopped())
    assert os.listdir(tmp_path) == ["file"]
    assert feature_file.read_origin(path) == ORIGIN
