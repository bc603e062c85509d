"""Tests of the rows of a Bigtable table, against the real emulator: read, checked, written."""

import pytest
from bigtable_tables import (
    BAD_VALUES,
    delete_rows,
    failure,
    large_example,
    make_examples,
    make_selection,
    pictures,
)

from utils.base.errors import UserError
from utils.reading import bigtable, examples


def test_a_gap_does_not_shorten_the_data(loaded):
    rows, _ = loaded
    delete_rows(rows, 7, 127, 198)
    assert rows.count() == 200


def test_a_missing_family_is_named(loaded):
    rows = bigtable.RowReader(loaded[0].selection._replace(column_family="other"))
    with pytest.raises(UserError, match=r'cannot be written: .*unknown family "other".*--create'):
        rows.write(0, make_examples(2))


def test_a_write_without_server(loaded, server, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    server.kill()
    with pytest.raises(UserError, match=r"cannot be written: .*Connection refused"):
        loaded[0].write(0, make_examples(2))


# Checks at the start.


def test_check_accepts_a_complete_table(loaded):
    loaded[0].check(200)


@pytest.mark.parametrize(
    ("change", "num_images", "expected"),
    [
        ({"table": "other"}, 200, "table .*other.* not found"),
        ({"prefix": "test_"}, 200, "no rows with prefix 'test_'"),
        ({"column_family": "other"}, 200, "no cells in other:example .*tfexample:example"),
        ({"column_qualifier": "other"}, 200, "no cells in tfexample:other"),
        ({}, 199, "has row train_0000000199 though 199"),
        ({}, 201, "lacks row train_0000000200 though 201"),
    ],
)
def test_check_says_what_is_wrong(loaded, change, num_images, expected):
    rows, _ = loaded
    with pytest.raises(UserError, match=expected):
        bigtable.RowReader(rows.selection._replace(**change)).check(num_images)


@pytest.mark.parametrize(("value", "reason"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_the_first_rows_are_checked_with_their_pictures(loaded, digits_dir, value, reason):
    rows = bigtable.RowReader(loaded[0].selection, num_classes=10)
    rows.write(0, pictures(digits_dir, 200))
    rows.check_first_rows(200)
    for number in (0, 175):
        rows.write(number, [value])
        with pytest.raises(UserError, match=f"row train_0000000{number:03}: {reason}"):
            rows.check_first_rows(200)
        rows.write(number, pictures(digits_dir, 1))


def test_check_without_server(server, monkeypatch):
    monkeypatch.setattr(bigtable, "START_TIMEOUT_S", 2.0)
    server.kill()
    with pytest.raises(UserError, match="cannot be read"):
        bigtable.RowReader(make_selection()).check(1)


# Rows of other prefixes, and large rows.


def test_a_prefix_that_has_rows_of_a_longer_one_alone(loaded):
    rows = bigtable.RowReader(loaded[0].selection._replace(prefix="train_000000"))
    with pytest.raises(UserError, match="no rows with prefix 'train_000000'"):
        rows.check(200)
    assert rows.count() == 0


def test_a_row_too_large_to_be_read_is_named(loaded):
    rows, _ = loaded
    rows.write(133, [large_example()])
    rows.check(200)
    expected = (
        r"row train_0000000133: it is too large for a message \(52\d{5} bytes, and 4194304 are the "
        "most"
    )
    with pytest.raises(UserError, match=expected):
        rows.read(0, 200)
    assert "row train_0000000133: it is too large" in failure(rows)


@pytest.mark.slow  # it takes two gigabytes of memory
def test_a_row_too_large_to_be_written_is_named(loaded):
    rows, serialized = loaded
    enormous = examples.example(bytes(257 * 2**20), 1)
    with pytest.raises(UserError, match="row train_0000000202: it is too large for a message"):
        rows.write(200, [*serialized[:2], enormous, *serialized[3:5]])
    assert rows.read(200, 202) == serialized[:2]
