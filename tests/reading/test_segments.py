"""Tests of segments: sharing them out, and choosing records from all over them."""

import uuid

import pytest
from record_files import write

from utils.reading import examples, records
from utils.reading.records import Segment

import tensorflow.compat.v1 as tf


@pytest.mark.parametrize(
    ("counts", "num_shares"), [((5, 0, 7), 3), ((1,), 4), ((10, 10), 2), ((3, 3, 3, 2), 7)]
)
def test_shares_are_even_and_whole(counts, num_shares):
    whole = [Segment(str(n), count=count) for n, count in enumerate(counts)]
    shares = [records.share_of(whole, index, num_shares) for index in range(num_shares)]
    numbers = [[(s.path, s.skip + n) for s in part for n in range(s.count)] for part in shares]
    everything = [(str(n), k) for n, count in enumerate(counts) for k in range(count)]
    assert sum(numbers, []) == everything
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 1


def spread_numbers(some_segments, count):
    """(path, number) of the records that `records.spread_over` chooses."""
    found = []
    with tf.Graph().as_default(), tf.Session() as session:
        chosen = records.spread_over(some_segments, count)
        if chosen:
            dataset = records.dataset(chosen)
            record = tf.data.make_one_shot_iterator(dataset).get_next()
            with pytest.raises(tf.errors.OutOfRangeError):
                while True:
                    found.append(records.unpack(session.run(record), "", 0)[1])
    return found


def numbered(path, first, count):
    """A file of examples whose labels are first, first + 1, ..."""
    return write(path, [examples.example(b"x", first + n) for n in range(count)])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (4, [1, 6, 11, 16]),
        (20, list(range(1, 21))),
        (100, list(range(1, 21))),
        (1, [1]),
    ],
)
def test_records_from_all_over_a_file(tmp_path, count, expected):
    path = numbered(tmp_path / "a", 1, 20)
    assert spread_numbers([Segment(path)], count) == expected


def test_records_from_all_over_the_files(tmp_path):
    paths = [numbered(tmp_path / str(n), 10 * n + 1, n) for n in (4, 0, 6, 2)]
    whole = [Segment(path) for path in paths]
    assert spread_numbers(whole, 6) == [41, 43, 61, 64, 21, 22]
    assert spread_numbers(whole, 2) == [41, 61]
    offset = 16 + len(next(records.read_records(paths[2])))
    part = Segment(paths[2], offset, 4, skip=1)  # without the first and the second
    assert spread_numbers([part], 2) == [63, 65]
    assert spread_numbers([whole[1]], 5) == []


def test_from_a_bucket_the_first_records_of_files_from_all_over():
    folder = f"ram://{uuid.uuid4()}"
    whole = []
    for number in range(8):
        path = f"{folder}/{number}"
        with tf.io.TFRecordWriter(path) as writer:
            for label in range(5):
                writer.write(examples.example(b"x", 10 * number + label + 1))
        whole.append(Segment(path))
    assert spread_numbers(whole, 4) == [1, 21, 41, 61]
    assert spread_numbers(whole[:2], 4) == [1, 2, 11, 12]
