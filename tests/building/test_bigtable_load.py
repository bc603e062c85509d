"""Tests of loading a Bigtable table, against the real emulator."""

import pytest
from bigtable_tables import (
    delete_rows,
    large_example,
    load,
    make_examples,
    make_selection,
    write_files,
)

from utils import data as data_command
from utils.base.errors import UserError
from utils.building import bigtable_load
from utils.reading import bigtable, examples


def test_loading_twice_writes_the_same_rows(server, tmp_path):
    selection, serialized = make_selection(), make_examples(300)
    paths = write_files(tmp_path, serialized)
    bigtable_load.create_table(selection)
    bigtable_load.create_table(selection)
    rows = bigtable.RowReader(selection)
    assert load(paths, selection) == 300
    rows.write(0, serialized)
    assert load(paths, selection) == 0
    assert rows.count() == 300
    assert rows.read(0, 300) == serialized
    assert bigtable_load.verify_split(paths, selection) == 300
    every_cell = bigtable.table_of(selection).read_rows(bigtable.data_module().ReadRowsQuery())
    assert [len(row.cells) for row in every_cell] == [1] * 300


def test_an_interrupted_load_goes_on(server, tmp_path, monkeypatch):
    selection, serialized = make_selection(), make_examples(2000)
    paths = write_files(tmp_path, serialized)
    bigtable_load.create_table(selection)
    write, written = bigtable.RowReader.write, []

    def interrupted(self, first, page):
        if first > 1200:
            raise UserError("stopped")
        write(self, first, page)
        written.append(len(page))

    monkeypatch.setattr(bigtable.RowReader, "write", interrupted)
    with pytest.raises(UserError, match="stopped"):
        load(paths, selection)
    monkeypatch.undo()
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", server.host)
    assert load(paths, selection) == 2000 - sum(written) > 0
    assert bigtable.RowReader(selection).read(0, 2000) == serialized


@pytest.mark.parametrize(
    ("damage", "pages"),
    [
        (lambda rows: delete_rows(rows, 700), 1),
        (lambda rows: delete_rows(rows, 5), 1),
        (lambda rows: delete_rows(rows, 999), 1),
        (lambda rows: rows.write(7, [b"no example"]), 1),
        (lambda rows: rows.write(500, make_examples(300)), 4),
    ],
    ids=["gap", "gap at the start", "end", "corrupt", "other data"],
)
def test_loading_again_mends_a_table(server, tmp_path, damage, pages):
    selection, serialized = make_selection(), make_examples(1000)
    paths = write_files(tmp_path, serialized)
    bigtable_load.create_table(selection)
    assert load(paths, selection) == 1000
    damage(bigtable.RowReader(selection))
    with pytest.raises(UserError, match="mnasnet-data bigtable-load writes"):
        bigtable_load.verify_split(paths, selection)
    assert load(paths, selection) <= pages * bigtable.PAGE_ROWS
    assert bigtable_load.verify_split(paths, selection) == 1000


def test_loading_replaces_a_newer_cell_of_another_program(loaded, tmp_path):
    rows, serialized = loaded
    paths = write_files(tmp_path, serialized)
    cell = bigtable.data_module().SetCell("tfexample", "example", b"newer")
    bigtable.table_of(rows.selection).mutate_row(rows.key(3), cell)
    assert rows.values(3, 4) == [b"newer"]
    load(paths, rows.selection)
    assert rows.values(0, 200) == serialized


@pytest.mark.parametrize("number", [200, 207])
def test_rows_behind_the_last_record_are_refused(loaded, tmp_path, number):
    rows, serialized = loaded
    paths = write_files(tmp_path, serialized[:150] + make_examples(50))
    rows.write(number, serialized[:1])
    expected = f"has row train_0000000{number} though .* delete"
    with pytest.raises(UserError, match=expected + " this row and those behind it"):
        load(paths, rows.selection)
    assert rows.read(0, 200) == serialized, "another data set was overwritten"
    with pytest.raises(UserError, match=expected):
        rows.check(200)


def test_both_splits_are_checked_before_a_row_is_written(server, tmp_path):
    selection = make_selection()
    write_files(tmp_path, make_examples(10))
    command = [
        "mnasnet-data",
        "bigtable-load",
        "--create",
        f"--data_dir={tmp_path}",
        f"--project={selection.project}",
        "--instance=i",
    ]
    with pytest.raises(UserError, match=r"no files validation-\*"):
        data_command.main(command)
    bigtable_load.create_table(selection)
    assert bigtable.RowReader(selection).count() == 0
    write_files(tmp_path, make_examples(5), "validation-", shards=1)
    validation = bigtable.RowReader(selection._replace(prefix="validation_"))
    validation.write(5, make_examples(1))
    with pytest.raises(UserError, match="has row validation_0000000005"):
        data_command.main(command)
    assert bigtable.RowReader(selection).count() == 0
    delete_rows(validation, 5)
    data_command.main(command)
    assert bigtable.RowReader(selection).count() == 10
    assert validation.count() == 5


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_creating_a_table_without_server(server, monkeypatch, fault):
    monkeypatch.setattr(bigtable, "START_TIMEOUT_S", 2.0)
    getattr(server, fault)()
    with pytest.raises(UserError, match=r"cannot be read.*Is the server there"):
        bigtable_load.create_table(make_selection())


def test_a_family_is_created_in_a_table_that_is_there(loaded):
    selection = loaded[0].selection._replace(column_family="other")
    bigtable_load.create_table(selection)
    bigtable.RowReader(selection).write(0, make_examples(3))
    assert bigtable.RowReader(selection).count() == 3
    assert loaded[0].count() == 200


def test_verify_names_what_differs(loaded, tmp_path):
    rows, serialized = loaded
    paths = write_files(tmp_path, serialized)
    assert bigtable_load.verify_split(paths, rows.selection) == 200
    rows.write(150, [examples.example(b"another", 1)])
    with pytest.raises(UserError, match="train_0000000150 differs"):
        bigtable_load.verify_split(paths, rows.selection)
    rows.write(150, [serialized[150], *serialized[151:], serialized[0]])
    with pytest.raises(UserError, match="train_0000000200 though the files have only 200"):
        bigtable_load.verify_split(paths, rows.selection)


@pytest.mark.parametrize("other", ["train_2_", "train_000000021-", "train_00000002000", "train_5"])
def test_rows_of_a_longer_prefix_are_another_data_set(loaded, tmp_path, other):
    rows, serialized = loaded
    paths = write_files(tmp_path, serialized)
    second = bigtable.RowReader(rows.selection._replace(prefix=other))
    second.write(0, make_examples(3))
    rows.check(200)
    assert rows.count() == 200
    assert load(paths, rows.selection) == 0
    assert bigtable_load.verify_split(paths, rows.selection) == 200
    second.check(3)
    rows.write(207, serialized[:1])
    with pytest.raises(UserError, match="has row train_0000000207 though 200"):
        rows.check(200)


def test_a_large_row_is_repaired_by_loading(loaded, tmp_path):
    rows, serialized = loaded
    rows.write(133, [large_example()])
    paths = write_files(tmp_path, serialized)
    with pytest.raises(UserError, match="row train_0000000133: it is too large"):
        bigtable_load.verify_split(paths, rows.selection)
    assert load(paths, rows.selection) == 200 - bigtable.PAGE_ROWS
    assert bigtable_load.verify_split(paths, rows.selection) == 200
