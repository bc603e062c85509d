"""Tests of walking a file's frames by the lengths of its records."""

import gzip
import os
import pathlib

import pytest
from damaged_records import header
from other_records import compressed
from record_files import good, write

from utils.reading import records

import tensorflow.compat.v1 as tf


@pytest.fixture
def three(tmp_path):
    """(path, serialized examples) of a file of three records."""
    serialized = good(3)
    return write(tmp_path / "a", serialized), serialized


def test_frames_lead_from_record_to_record(three):
    path, serialized = three
    frames = list(records.frames(path))
    assert [frame.length for frame in frames] == [len(example) for example in serialized]
    assert [records.content(path, frame) for frame in frames] == serialized
    assert frames[-1].end == os.path.getsize(path)
    assert list(records.frames(path, frames[1].begin)) == frames[1:]


def test_an_empty_file_has_no_frames(tmp_path):
    path = write(tmp_path / "a", [])
    assert list(records.frames(path)) == []
    assert records.whole_frame_at(path, 0) is None


def test_a_damaged_length_ends_the_frames(three):
    path, _ = three
    with open(path, "r+b") as f:
        f.write(b"\xff" * 8)
    (frame,) = records.frames(path)
    assert frame.end > os.path.getsize(path)
    assert records.count_whole(path) == 0
    assert records.whole_frame_at(path, 0) is None


@pytest.mark.parametrize("missing_bytes", [1, 5])
def test_a_cut_record_is_not_whole(three, missing_bytes):
    path, _ = three
    _, second, last = records.frames(path)
    os.truncate(path, last.end - missing_bytes)
    assert records.count_whole(path) == 2
    assert records.count_whole(path, second.begin) == 1
    assert records.whole_frame_at(path, second.begin) == second
    assert records.whole_frame_at(path, last.begin) is None


def test_half_a_length_is_not_a_whole_record(three):
    path, _ = three
    last = list(records.frames(path))[-1]
    os.truncate(path, last.begin + 4)
    assert records.count_whole(path) == 2
    assert records.whole_frame_at(path, last.begin) is None


def test_contents_are_read_in_one_pass(tmp_path):
    written = [b"a", b"", b"c" * 70_000, b"dd"]
    path = write(tmp_path / "records", written)
    begins = [frame.begin for frame in records.frames(path)]
    assert list(records.contents(path, 0, 4)) == written
    assert list(records.contents(path, begins[1], 2)) == written[1:3]
    in_bucket = "ram://test_framing/records"
    tf.io.gfile.makedirs("ram://test_framing")
    tf.io.gfile.copy(path, in_bucket, overwrite=True)
    assert list(records.contents(in_bucket, begins[2], 2)) == written[2:]


# Compressed files.


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_compressed_file_is_walked_as_the_plain_one(tmp_path, compression):
    """Contents of many kilobytes end within and beyond what is decompressed at a time."""
    written = [os.urandom(5000), b"", b"c" * 70_000, b"dd"]
    plain = write(tmp_path / "plain", written)
    path = compressed(tmp_path / "compressed", written, compression)
    frames = list(records.frames(plain))
    assert list(records.frames(path)) == frames
    assert (records.compression(plain), records.compression(path)) == ("", compression)
    assert records.content_size(path) == records.content_size(plain) == os.path.getsize(plain)
    assert records.count_whole(path, frames[1].begin) == 3
    assert records.whole_frame_at(path, frames[2].begin) == frames[2]
    assert records.content(path, frames[2]) == written[2]
    assert list(records.contents(path, frames[1].begin, 3)) == written[1:]
    os.truncate(path, os.path.getsize(path) - 3)  # of the checksum alone
    assert records.content_size(path) == frames[-1].end + 1
    assert records.count_whole(path) == 4


def test_a_file_of_several_compressed_parts(three):
    path, serialized = three
    content = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    assert list(records.contents(path, 0, 3)) == serialized
    assert records.count_whole(path) == 3


@pytest.mark.parametrize("length", [0x88B1F, 0x9C78, 0x10178])
def test_a_length_that_begins_as_a_compressed_file_does(tmp_path, length):
    path = tmp_path / "a"
    path.write_bytes(header(length) + bytes(length + 4))
    assert records.compression(str(path)) == ""
    assert records.count_whole(str(path)) == 1
