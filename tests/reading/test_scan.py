"""Tests of scanning files: every bad record is found, and the good ones around it."""

import pathlib
import struct

import numpy as np
import pytest
from other_records import compressed
from record_files import BAD, CLASSES, example_of, good, picture, write

from utils.base.errors import UserError
from utils.reading import examples, records, scan

import tensorflow.compat.v1 as tf

# The first bad record.


def test_nothing_is_found_in_good_files(tmp_path, digits_dir):
    assert scan.first_problem([write(tmp_path / "a", good(5))], CLASSES) is None
    paths = records.list_files(digits_dir, "validation-")
    assert scan.first_problem(paths, CLASSES) is None


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("kind", BAD)
def test_the_bad_record_is_found(tmp_path, kind, place):
    make, word = BAD[kind]
    serialized = good(5)
    serialized[place] = make()
    paths = [write(tmp_path / "a", good(2)), write(tmp_path / "b", serialized)]
    found = scan.first_problem(paths, CLASSES)
    assert (found.path, found.record) == (paths[1], place)
    assert word in found.reason
    assert str(found).startswith(f"{paths[1]}, record {place}: ")


def test_the_first_of_two_bad_pictures_is_found(tmp_path):
    serialized = good(30)
    serialized[11] = serialized[23] = examples.example(b"no picture", 1)
    found = scan.first_problem([write(tmp_path / "a", serialized)], CLASSES)
    assert found.record == 11


def test_the_first_bad_record_of_a_file_is_found_whatever_its_kind(tmp_path):
    serialized = good(6)
    serialized[1] = examples.example(b"no picture", 1)
    serialized[4] = examples.example(picture(), 99)
    found = scan.first_problem([write(tmp_path / "a", serialized)], CLASSES)
    assert found.record == 1


def test_a_truncated_file_is_found(tmp_path):
    paths = [write(tmp_path / "a", good(2)), write(tmp_path / "b", good(3))]
    content = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(content[:-7])
    found = scan.first_problem(paths, CLASSES)
    assert (found.path, found.record) == (paths[1], 2)
    assert "truncated" in found.reason


def test_the_place_of_a_cut_is_named_once(tmp_path):
    path = write(tmp_path / "a, record 1: b", good(3))
    content = (tmp_path / "a, record 1: b").read_bytes()
    (tmp_path / "a, record 1: b").write_bytes(content[:-7])
    assert str(scan.first_problem([path], CLASSES)).count("record 2: the file") == 1


# Whole scans.


def read(chosen):
    """The records of segments, by the dataset that training reads them with."""
    with tf.Graph().as_default(), tf.Session() as session:
        found = []
        for segment in chosen:
            dataset = records.dataset([segment])
            following = tf.data.make_one_shot_iterator(dataset).get_next()
            while True:
                try:
                    found.append(session.run(following))
                except tf.errors.OutOfRangeError:
                    break
        return found


def frame_starts(path):
    content, starts, at = pathlib.Path(path).read_bytes(), [], 0
    while at < len(content):
        starts.append(at)
        at += 16 + struct.unpack("<Q", content[at : at + 8])[0]
    return starts


def test_facts_of_good_files(digits_dir):
    paths = records.list_files(digits_dir, "validation-")
    (found,) = scan.scan(paths, CLASSES)
    assert (found.num_records, len(found.facts), found.problems) == (360, 360, [])
    assert [(s.offset, s.count) for s in found.segments] == [(0, 360)]
    labels = [records.unpack(r, paths[0], 0)[1] for r in records.read_records(paths[0])]
    np.testing.assert_array_equal(found.facts[:, 0], labels)
    np.testing.assert_array_equal(found.facts[:, 1:3], 96)
    sizes = [len(records.unpack(r, paths[0], 0)[0]) for r in records.read_records(paths[0])]
    np.testing.assert_array_equal(found.facts[:, 3], sizes)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_sizes_of_pictures_of_every_kind(tmp_path, image_format):
    path = write(tmp_path / "a", [examples.example(picture(image_format), 3)])
    (found,) = scan.scan([path], CLASSES)
    assert found.facts.tolist() == [[3, 16, 16, len(picture(image_format))]]


@pytest.mark.parametrize(
    "bad",
    [(0,), (9,), (3, 4), (0, 5, 9), tuple(range(10))],
    ids=str,
)
def test_segments_leave_out_the_bad_pictures_alone(tmp_path, bad):
    serialized = [examples.example(picture(), number + 1) for number in range(10)]
    for number in bad:
        serialized[number] = examples.example(b"no picture", number + 1)
    path = write(tmp_path / "a", serialized)
    (found,) = scan.scan([path], CLASSES)
    assert [p.record for p in found.problems] == list(bad)
    assert [p.offset for p in found.problems] == [frame_starts(path)[n] for n in bad]
    assert read(found.segments) == [e for n, e in enumerate(serialized) if n not in bad]


@pytest.mark.parametrize("kind", sorted(BAD))
def test_labels_out_of_range_are_problems_but_stay(tmp_path, kind):
    make, word = BAD[kind]
    path = write(tmp_path / "a", [*good(2), make(), *good(1)])
    (found,) = scan.scan([path], CLASSES)
    (problem,) = found.problems
    assert problem.record == 2
    assert word in problem.reason
    is_label = word.startswith("label ")
    assert len(found.facts) == (4 if is_label else 3)
    assert sum(s.count for s in found.segments) == len(found.facts)


@pytest.mark.parametrize("damaged", [(0,), (4,), (2, 3), (1, 4)])
def test_records_behind_damage_are_kept(tmp_path, damaged):
    serialized = [examples.example(picture(), number + 1) for number in range(5)]
    path = write(tmp_path / "a", serialized)
    content, starts = bytearray((tmp_path / "a").read_bytes()), frame_starts(path)
    for number in damaged:
        content[starts[number] + 40] ^= 0xFF
    (tmp_path / "a").write_bytes(content)
    (found,) = scan.scan([path], CLASSES)
    assert found.num_records == 5
    assert [p.record for p in found.problems] == list(damaged)
    assert not found.broken_off
    assert all("damaged" in p.reason for p in found.problems)
    assert read(found.segments) == [e for n, e in enumerate(serialized) if n not in damaged]


def test_behind_a_damaged_length_nothing_is_believed(tmp_path):
    serialized = good(5)
    path = write(tmp_path / "a", serialized)
    content, starts = bytearray((tmp_path / "a").read_bytes()), frame_starts(path)
    content[starts[2] + 6] ^= 0xFF  # the length becomes enormous
    (tmp_path / "a").write_bytes(content)
    (found,) = scan.scan([path], CLASSES)
    (problem,) = found.problems
    assert (problem.record, problem.offset) == (2, starts[2])
    assert "nor what follows" in problem.reason
    assert found.broken_off
    assert read(found.segments) == serialized[:2]


def test_a_cut_file_keeps_its_whole_records(tmp_path):
    serialized = good(3)
    path = write(tmp_path / "a", serialized)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-7])
    (found,) = scan.scan([path], CLASSES)
    assert [p.record for p in found.problems] == [2]
    assert found.broken_off
    assert read(found.segments) == serialized[:2]


def test_many_files_keep_their_order(tmp_path):
    paths = [write(tmp_path / f"{n:02}", good(n)) for n in range(12)]
    found = scan.scan(paths, CLASSES)
    assert [f.path for f in found] == paths
    assert [f.num_records for f in found] == list(range(12))


def test_a_missing_file_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        scan.scan([str(tmp_path / "nothing-here")], CLASSES)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_good_records_of_a_compressed_file_are_read_from_their_places(tmp_path, compression):
    serialized = good(7)
    serialized[2] = examples.example(b"no picture", 1)
    path = compressed(tmp_path / "a", serialized, compression)
    (found,) = scan.scan([path], CLASSES)
    assert [p.record for p in found.problems] == [2]
    assert [segment.count for segment in found.segments] == [2, 4]
    assert read(found.segments) == serialized[:2] + serialized[3:]


def test_records_of_another_format(tmp_path):
    form = examples.RecordFormat("image", "class", 0)
    labels = [0, CLASSES - 1, CLASSES, -1]
    made = [example_of(**{"image": [picture()], "class": [label]}) for label in labels]
    (found,) = scan.scan([write(tmp_path / "a", made)], CLASSES, form=form)
    assert found.facts[:, 0].tolist() == [1, CLASSES, CLASSES + 1, 0]
    assert [p.reason.partition(":")[0] for p in found.problems] == [
        f"label {CLASSES} is not in 0..{CLASSES - 1}",
        f"label -1 is not in 0..{CLASSES - 1}",
    ]
