"""Bigtable input against the real emulator: what is fed, and every way in which it can fail."""

import itertools
import os
import subprocess
import sys

import emulator
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from programs import ROOT, flags, run, sentence, wait_for_line
from record_files import example_of

import imagenet_input
from utils.base.errors import UserError
from utils.data import bigtable_load
from utils.data import command as data_command
from utils.reading import bigtable, examples, records
from utils.training import checkpoints

projects = itertools.count()


@pytest.fixture
def server(monkeypatch):
    emulator.require()
    server = emulator.Emulator()
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", server.host)
    yield server
    server.kill()


def make_selection(prefix="train_", **more):
    """A selection in a project of its own: clients are kept for a process, by project."""
    fields = dict(
        project=f"p{next(projects)}", instance="i", table="imagenet", prefix=prefix,
        column_family="tfexample", column_qualifier="example",
    )  # fmt: skip
    return imagenet_input.BigtableSelection(**{**fields, **more})


def make_examples(count):
    return [examples.example(b"picture %d" % i, i % 10 + 1) for i in range(count)]


def write_files(folder, serialized, prefix="train-", shards=3):
    paths = []
    for shard in range(shards):
        paths.append(str(folder / f"{prefix}{shard:05d}-of-{shards:05d}"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            size = -(-len(serialized) // shards)
            for example in serialized[shard * size : (shard + 1) * size]:
                writer.write(example)
    return paths


@pytest.fixture
def loaded(server):
    """(reader, examples) of a table of 200 rows."""
    selection = make_selection()
    bigtable_load.create_table(selection)
    rows, serialized = bigtable.RowReader(selection), make_examples(200)
    rows.write(0, serialized)
    return rows, serialized


def read_all(dataset):
    with tf.Session() as session:
        value = tf.data.make_one_shot_iterator(dataset).get_next()
        result = []
        while True:
            try:
                result.append(session.run(value))
            except tf.errors.OutOfRangeError:
                return result


# The loader.


def load(paths, selection):
    """Loads files into a table that is there; returns how many rows were written."""
    total = bigtable_load.check_split(paths, selection)
    return bigtable_load.load_split(paths, selection, total)


def delete_rows(rows, *numbers):
    mutations = bigtable._data().mutations
    for number in numbers:
        table = bigtable.table_of(rows.selection)
        table.mutate_row(rows.key(number), mutations.DeleteAllFromRow())


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
    every_cell = bigtable.table_of(selection).read_rows(bigtable._data().ReadRowsQuery())
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
    cell = bigtable._data().SetCell("tfexample", "example", b"newer")
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
        "mnasnet-data", "bigtable-load", "--create", f"--data_dir={tmp_path}",
        f"--project={selection.project}", "--instance=i",
    ]  # fmt: skip
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


# What is fed.


def test_evaluation_feeds_what_files_feed(server, digits_dir):
    selection = make_selection(prefix="validation_")
    paths = records.list_files(digits_dir, "validation-")
    bigtable_load.create_table(selection)
    load(paths, selection)
    common = dict(
        is_training=False, use_bfloat16=False, transpose_input=False, image_size=32,
    )  # fmt: skip
    from_files = imagenet_input.ImageNetInput(data_dir=digits_dir, **common)
    from_rows = imagenet_input.ImageNetBigtableInput(selection=selection, **common)
    params = {"batch_size": 100}
    for expected, found in zip(
        read_all(from_files.input_fn(params)), read_all(from_rows.input_fn(params)), strict=True
    ):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_training_shuffles_and_feeds_every_row(loaded, monkeypatch):
    monkeypatch.setattr(bigtable, "PAGE_ROWS", 16)
    rows, serialized = loaded
    read = read_all(bigtable.dataset(rows, 0, 200, shuffle=True, seed=1))
    assert read != serialized and sorted(read) == sorted(serialized)
    assert read == read_all(bigtable.dataset(rows, 0, 200, shuffle=True, seed=1))


@pytest.mark.parametrize("num_hosts", [1, 4, 7])
@pytest.mark.parametrize("is_training", [True, False])
def test_hosts_read_disjoint_slices(loaded, num_hosts, is_training):
    rows, serialized = loaded
    source = imagenet_input.ImageNetBigtableInput(is_training, False, False, rows.selection)
    slices = [read_all(source.make_source_dataset(index, num_hosts)) for index in range(num_hosts)]
    assert sorted(itertools.chain.from_iterable(slices)) == sorted(serialized)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_values_keep_trailing_zero_bytes(server):
    selection = make_selection()
    bigtable_load.create_table(selection)
    rows = bigtable.RowReader(selection)
    serialized = [examples.example(b"ends in zeros\0\0\0", 1) + b"\x12\x00"] * 3
    rows.write(0, serialized)
    assert read_all(bigtable.dataset(rows, 0, 3)) == serialized


def test_more_hosts_than_rows(server):
    selection = make_selection()
    bigtable_load.create_table(selection)
    bigtable.RowReader(selection).write(0, make_examples(3))
    source = imagenet_input.ImageNetBigtableInput(True, False, False, selection, cache=None)
    slices = [read_all(source.make_source_dataset(index, 4)) for index in range(4)]
    assert sorted(map(len, slices)) == [0, 1, 1, 1]


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


def pictures(digits_dir, count):
    """Records of the sample data."""
    paths = records.list_files(digits_dir, "train-")
    return list(itertools.islice(records.read_records(paths[0]), count))


BAD_VALUES = {
    "no example": (b"no example", "this is no tf.train.Example"),
    "picture": (examples.example(b"\xff\xd8\xff broken", 1), "the picture cannot be decoded"),
    "label": (examples.example(b"picture", 11), "label 11 is not in 1..10"),
    "wide label": (examples.example(b"picture", 2**32 + 1), "label 4294967297 does not fit"),
    "typed label": (
        example_of(image__encoded=[b"picture"], image__class__label=[1.0]),
        "the feature image/class/label holds floats where integers are expected",
    ),
}


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


@pytest.mark.parametrize(("value", "reason"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_scan_names_the_row(loaded, digits_dir, value, reason):
    rows = bigtable.RowReader(loaded[0].selection, num_classes=10)
    rows.write(0, pictures(digits_dir, 200))
    assert bigtable.first_bad_row(rows, 200) is None
    rows.write(150, [value, value])
    assert f"row train_0000000150: {reason}" in str(bigtable.first_bad_row(rows, 200))


def test_check_without_server(server, monkeypatch):
    monkeypatch.setattr(bigtable, "START_TIMEOUT_S", 2.0)
    server.kill()
    with pytest.raises(UserError, match="cannot be read"):
        bigtable.RowReader(make_selection()).check(1)


@pytest.mark.parametrize(("tpu", "is_remote"), [("grpc://10.0.0.2:8470", True), ("local", False)])
def test_a_tpu_of_another_machine_is_refused(tmp_path, tpu, is_remote):
    status, _, err = run(
        f"--tpu={tpu}", "--bigtable_project=p", "--bigtable_instance=i", f"--model_dir={tmp_path}",
        "--num_label_classes=10", environment={"BIGTABLE_EMULATOR_HOST": "127.0.0.1:1"},
    )  # fmt: skip
    expected = "run on the TPU VM itself" if is_remote else "Is the server there"
    assert expected in sentence(status, err)


# Rows of other prefixes, and large rows.


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


def test_a_prefix_that_has_rows_of_a_longer_one_alone(loaded):
    rows = bigtable.RowReader(loaded[0].selection._replace(prefix="train_000000"))
    with pytest.raises(UserError, match="no rows with prefix 'train_000000'"):
        rows.check(200)
    assert rows.count() == 0


def large_example():
    """An example that is larger than what a client of the emulator receives (4 MB)."""
    return examples.example(bytes(5 * 2**20), 1)


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


def test_a_large_row_is_repaired_by_loading(loaded, tmp_path):
    rows, serialized = loaded
    rows.write(133, [large_example()])
    paths = write_files(tmp_path, serialized)
    with pytest.raises(UserError, match="row train_0000000133: it is too large"):
        bigtable_load.verify_split(paths, rows.selection)
    assert load(paths, rows.selection) == 200 - bigtable.PAGE_ROWS
    assert bigtable_load.verify_split(paths, rows.selection) == 200


@pytest.mark.slow  # it takes two gigabytes of memory
def test_a_row_too_large_to_be_written_is_named(loaded):
    rows, serialized = loaded
    enormous = examples.example(bytes(257 * 2**20), 1)
    with pytest.raises(UserError, match="row train_0000000202: it is too large for a message"):
        rows.write(200, [*serialized[:2], enormous, *serialized[3:5]])
    assert rows.read(200, 202) == serialized[:2]


# Faults while running.


def failure(rows, end=200):
    """The error of reading all rows, which is latched."""
    with pytest.raises(tf.errors.OpError):
        read_all(bigtable.dataset(rows, 0, end))
    return str(bigtable.first_error())


def test_a_gap_is_an_error(loaded, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    rows, serialized = loaded
    rows.write(201, serialized[:99])
    assert "no row train_0000000200" in failure(rows, 300)


def test_a_corrupt_value_is_named(loaded):
    rows, _ = loaded
    rows.write(77, [b"no example"])
    assert "row train_0000000077: this is no tf.train.Example" in failure(rows)


def test_killed_server(loaded, server, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    server.kill()
    assert "cannot be read" in failure(loaded[0])


def test_frozen_server(loaded, server, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    server.freeze()
    assert "cannot be read" in failure(loaded[0])


def test_restarted_empty_server(loaded, server, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    rows, _ = loaded
    server.kill()
    server.start()
    assert "not found" in failure(rows)
    bigtable_load.create_table(rows.selection)
    assert "has no row train_" in failure(rows)


def test_a_run_goes_on_when_the_server_comes_back_with_its_data(loaded, server):
    rows, serialized = loaded
    with tf.Session() as session:
        dataset = bigtable.dataset(rows, 0, 200, parallel=1)
        value = tf.data.make_one_shot_iterator(dataset).get_next()
        read = [session.run(value) for _ in range(10)]
        server.kill()
        server.start()
        bigtable_load.create_table(rows.selection)
        rows.write(0, serialized)
        read += [session.run(value) for _ in range(190)]
    assert read == serialized


@pytest.mark.parametrize(
    ("kind", "number"), [("picture", 0), ("picture", 100), ("label", 100), ("no example", 100)]
)
def test_a_run_names_the_row_it_ends_at(server, digits_dir, tmp_path, kind, number):
    value, reason = BAD_VALUES[kind]
    selection = make_selection(prefix="validation_")
    bigtable_load.create_table(selection)
    rows, serialized = bigtable.RowReader(selection), pictures(digits_dir, 110)
    rows.write(0, serialized)
    rows.write(number, [value])
    train = selection._replace(prefix="train_")
    bigtable.RowReader(train).write(0, serialized)
    status, _, err = run(
        "--mode=train_and_eval", *flags(model_dir=tmp_path, train_steps=2), "--eval_batch_size=10",
        f"--bigtable_project={selection.project}", "--bigtable_instance=i",
        "--num_train_images=110", "--num_eval_images=110", "--num_label_classes=10",
    )  # fmt: skip
    expected = f"row validation_0000000{number:03}: {reason}"
    assert expected in sentence(status, err)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_training_run_ends_with_an_error_and_keeps_its_checkpoint(
    server, digits_dir, tmp_path, fault
):
    environment = {**os.environ, "BIGTABLE_EMULATOR_HOST": server.host}
    subprocess.run(
        [sys.executable, "-m", "utils.data", "bigtable-load", "--create",
         f"--data_dir={digits_dir}", "--project=p", "--instance=i"],
        cwd=ROOT, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "mnasnet_main.py"), "--mode=train", "--use_cache=false",
         *flags(model_dir=tmp_path, train_steps=100000, save_checkpoints_steps=2),
         "--bigtable_project=p", "--bigtable_instance=i", "--num_train_images=1437",
         "--num_label_classes=10"],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_line(process, "train step 4/")
    getattr(server, fault)()
    _, err = process.communicate(timeout=120)
    assert "cannot be read" in sentence(process.returncode, err)
    assert checkpoints.is_complete(checkpoints.latest(str(tmp_path)))
