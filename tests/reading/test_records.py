"""Tests of TFRecord files: finding, counting, reading, and naming the bad record."""

import os

import pytest
from other_records import compressed
from record_files import BAD, CLASSES, good, picture, write

from utils.base.errors import UserError
from utils.reading import examples, records

# Files.


@pytest.mark.parametrize("data_dir", [None, "", records.NULL_DATA, records.FAKE_DATA_DIR, "fake"])
def test_a_data_dir_without_files(data_dir):
    assert not records.has_files(data_dir)


def test_a_data_dir_that_names_files():
    assert records.has_files("gs://bucket/null")


def test_files_of_a_split_in_order(tmp_path):
    for name in ("train-00001-of-00002", "train-00000-of-00002", "validation-00000-of-00001"):
        write(tmp_path / name, good(1))
    (tmp_path / "train-00002-of-00002.tmp-12ab").write_bytes(b"")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert records.list_files(str(tmp_path), "train-") == [
        str(tmp_path / "train-00000-of-00002"),
        str(tmp_path / "train-00001-of-00002"),
    ]


def test_a_folder_whose_name_looks_temporary_is_fine(tmp_path):
    folder = tmp_path / "digits.tmp-1"
    folder.mkdir()
    path = write(folder / "train-00000-of-00001", good(1))
    assert records.list_files(str(folder), "train-") == [path]


def test_no_files_is_a_users_error(tmp_path):
    with pytest.raises(UserError) as error:
        records.list_files(str(tmp_path), "train-")
    assert str(tmp_path) in str(error.value)
    assert "train-" in str(error.value)


def test_what_fits_in_memory(tmp_path):
    path = write(tmp_path / "train-00000-of-00001", good())
    assert records.fits_in_memory([path])


def test_states_tell_changed_files(tmp_path):
    paths = [write(tmp_path / "a", good(1)), write(tmp_path / "b", good(2))]
    before = records.states(paths)
    assert [state.path for state in before] == paths
    assert [state.size for state in before] == [os.path.getsize(path) for path in paths]
    write(tmp_path / "b", good(3))
    after = records.states(paths)
    assert after[0] == before[0]
    assert after[1] != before[1]
    with pytest.raises(UserError, match="nothing-here"):
        records.states([str(tmp_path / "nothing-here")])


def test_a_folder_among_the_files_is_a_users_error(tmp_path):
    (tmp_path / "train-x").mkdir()
    with pytest.raises(UserError, match="train-x is a folder"):
        records.states([str(tmp_path / "train-x")])


def test_records_are_counted_by_their_frames(tmp_path, monkeypatch):
    paths = [write(tmp_path / str(n), good(n)) for n in (3, 0, 4)]
    assert records.count(paths) == 7
    monkeypatch.setattr(records, "MOST_COUNTED", 6)
    assert records.count(paths) is None


def test_a_damaged_length_ends_the_count(tmp_path):
    path = write(tmp_path / "a", good(3))
    with open(path, "r+b") as f:
        f.write(b"\xff" * 8)
    assert records.counts([path]) == [1]


def test_files_of_given_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [write(tmp_path / name, good(1)) for name in ("a/x-1.rec", "a/x-2.rec", "b/y.rec")]

    def found(patterns, prefix="train-"):
        given = {"train_files": patterns, "eval_files": None}
        return records.list_files(str(tmp_path / "a"), prefix, given)

    assert found("x-*") == paths[:2]
    assert found(f"x-2.rec, {tmp_path}/b/*.rec,x-*") == paths
    with pytest.raises(UserError, match=r"--train_files=z\* matches no file"):
        found("z*")


def test_many_compressed_bytes_are_not_counted(tmp_path, monkeypatch):
    paths = [compressed(tmp_path / str(n), good(n), "GZIP") for n in (3, 0, 4)]
    assert records.counts(paths) == [3, 0, 4]
    monkeypatch.setattr(records, "MOST_INFLATED_BYTES", 100)
    assert records.counts(paths) is None


# Reading.


def test_records_of_a_file(tmp_path):
    serialized = good(4)
    assert list(records.read_records(write(tmp_path / "a", serialized))) == serialized


def test_an_empty_file_has_no_records(tmp_path):
    assert list(records.read_records(write(tmp_path / "a", []))) == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_truncated_file_names_the_record(tmp_path, cut):
    path = write(tmp_path / "a", good(3))
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-cut])
    with pytest.raises(UserError) as error:
        list(records.read_records(path))
    assert f"{path}, record 2:" in str(error.value)


def test_a_damaged_file_names_the_record(tmp_path):
    path = write(tmp_path / "a", good(3))
    content = bytearray((tmp_path / "a").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a").write_bytes(bytes(content))
    with pytest.raises(UserError) as error:
        list(records.read_records(path))
    assert f"{path}, record 1:" in str(error.value)


def test_a_file_that_is_no_tfrecord(tmp_path):
    (tmp_path / "a").write_text("some text that is no record at all\n" * 10)
    with pytest.raises(UserError) as error:
        list(records.read_records(str(tmp_path / "a")))
    assert f"{tmp_path}/a, record 0:" in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        list(records.read_records(str(tmp_path / "nowhere")))


# First records.


def test_first_records_of_good_files(tmp_path):
    paths = [write(tmp_path / f"train-{number}", good(5)) for number in range(3)]
    records.check_first_records(paths, CLASSES)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_first_record_is_refused(tmp_path, kind):
    make, word = BAD[kind]
    path = write(tmp_path / "train-0", [*good(2), make()])
    with pytest.raises(UserError) as error:
        records.check_first_records([path], CLASSES)
    assert f"{path}, record 2: " in str(error.value)
    assert word in str(error.value)


def test_first_records_are_looked_at_all_over_the_split(tmp_path):
    paths = [write(tmp_path / f"train-{number:02}", good(1)) for number in range(16)]
    write(tmp_path / "train-14", [examples.example(picture(), 99)])
    with pytest.raises(UserError, match="train-14, record 0"):
        records.check_first_records(paths, CLASSES)


def test_some_empty_files_do_no_harm(tmp_path):
    paths = [write(tmp_path / f"train-{number:02}", []) for number in range(16)]
    with pytest.raises(UserError, match=rf"--data_dir={tmp_path}: its train-\* hold no record"):
        records.check_first_records(paths, CLASSES)
    write(tmp_path / "train-13", good(1))  # not among those that are looked at first
    records.check_first_records(paths, CLASSES)
    write(tmp_path / "train-13", [examples.example(picture(), 99)])
    with pytest.raises(UserError, match="train-13, record 0: label 99"):
        records.check_first_records(paths, CLASSES)


def test_a_truncated_first_record_is_refused(tmp_path):
    path = write(tmp_path / "train-0", good(1))
    (tmp_path / "train-0").write_bytes((tmp_path / "train-0").read_bytes()[:-3])
    with pytest.raises(UserError, match="train-0, record 0"):
        records.check_first_records([path], CLASSES)
