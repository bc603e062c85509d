"""Bigtable input against the real emulator: what is fed, and every way in which it can fail."""

import itertools
import os
import subprocess
import sys

import emulator
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from test_mnasnet_main import ROOT, flags, run, sentence, wait_for_line

import imagenet_input
from utils import bigtable, bigtable_load, checkpoints, records
from utils.errors import UserError

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
    return [records.example(b"picture %d" % i, i % 10 + 1) for i in range(count)]


def write_files(folder, examples, prefix="train-", shards=3):
    paths = []
    for shard in range(shards):
        paths.append(str(folder / f"{prefix}{shard:05d}-of-{shards:05d}"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            size = -(-len(examples) // shards)
            for example in examples[shard * size : (shard + 1) * size]:
                writer.write(example)
    return paths


@pytest.fixture
def loaded(server):
    """(reader, examples) of a table of 200 rows."""
    selection = make_selection()
    bigtable_load.create_table(selection)
    rows, examples = bigtable.RowReader(selection), make_examples(200)
    rows.write(0, examples)
    return rows, examples


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


def test_loading_twice_writes_the_same_rows(server, tmp_path):
    selection, examples = make_selection(), make_examples(300)
    paths = write_files(tmp_path, examples)
    bigtable_load.create_table(selection)
    bigtable_load.create_table(selection)
    assert bigtable_load.load_split(paths, selection) == 300
    assert bigtable_load.load_split(paths, selection, from_start=True) == 300
    rows = bigtable.RowReader(selection)
    assert rows.count() == 300
    assert rows.read(0, 300) == examples
    assert bigtable_load.verify_split(paths, selection) == 300
    every_cell = bigtable.table_of(selection).read_rows(bigtable._data().ReadRowsQuery())
    assert [len(row.cells) for row in every_cell] == [1] * 300


def test_an_interrupted_load_goes_on(server, tmp_path, monkeypatch):
    selection, examples = make_selection(), make_examples(2000)
    paths = write_files(tmp_path, examples)
    bigtable_load.create_table(selection)
    write, written = bigtable.RowReader.write, []

    def interrupted(self, first, page):
        written.append(first)
        if first > 1200:
            raise UserError("stopped")
        write(self, first, page)

    monkeypatch.setattr(bigtable.RowReader, "write", interrupted)
    with pytest.raises(UserError, match="stopped"):
        bigtable_load.load_split(paths, selection)
    before = len(written)
    monkeypatch.setattr(
        bigtable.RowReader, "write",
        lambda self, first, page: (written.append(first), write(self, first, page)),
    )  # fmt: skip
    bigtable_load.load_split(paths, selection)
    assert min(written[before:]) > 0, "rows that were there were written again"
    assert bigtable.RowReader(selection).read(0, 2000) == examples


def test_verify_names_what_differs(loaded, tmp_path):
    rows, examples = loaded
    paths = write_files(tmp_path, examples)
    assert bigtable_load.verify_split(paths, rows.selection) == 200
    rows.write(150, [records.example(b"another", 1)])
    with pytest.raises(UserError, match="train_0000000150 differs"):
        bigtable_load.verify_split(paths, rows.selection)
    rows.write(150, [examples[150], *examples[151:], examples[0]])
    with pytest.raises(UserError, match="train_0000000200 though the files have only 200"):
        bigtable_load.verify_split(paths, rows.selection)


# What is fed.


def test_evaluation_feeds_what_files_feed(server, digits_dir):
    selection = make_selection(prefix="validation_")
    paths = records.list_files(digits_dir, "validation-")
    bigtable_load.create_table(selection)
    bigtable_load.load_split(paths, selection)
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
    rows, examples = loaded
    read = read_all(bigtable.dataset(rows, 0, 200, shuffle=True, seed=1))
    assert read != examples and sorted(read) == sorted(examples)
    assert read == read_all(bigtable.dataset(rows, 0, 200, shuffle=True, seed=1))


@pytest.mark.parametrize("num_hosts", [1, 4, 7])
@pytest.mark.parametrize("is_training", [True, False])
def test_hosts_read_disjoint_slices(loaded, num_hosts, is_training):
    rows, examples = loaded
    source = imagenet_input.ImageNetBigtableInput(is_training, False, False, rows.selection)
    slices = [read_all(source.make_source_dataset(index, num_hosts)) for index in range(num_hosts)]
    assert sorted(itertools.chain.from_iterable(slices)) == sorted(examples)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_values_keep_trailing_zero_bytes(server):
    selection = make_selection()
    bigtable_load.create_table(selection)
    rows = bigtable.RowReader(selection)
    examples = [records.example(b"ends in zeros\0\0\0", 1) + b"\x12\x00"] * 3
    rows.write(0, examples)
    assert read_all(bigtable.dataset(rows, 0, 3)) == examples


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


# Faults while running.


def failure(rows, end=200):
    """The error of reading all rows, which is latched."""
    with pytest.raises(tf.errors.OpError):
        read_all(bigtable.dataset(rows, 0, end))
    return str(bigtable.first_error())


def test_a_gap_is_an_error(loaded, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    rows, examples = loaded
    rows.write(201, examples[:99])
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
    rows, examples = loaded
    with tf.Session() as session:
        dataset = bigtable.dataset(rows, 0, 200, parallel=1)
        value = tf.data.make_one_shot_iterator(dataset).get_next()
        read = [session.run(value) for _ in range(10)]
        server.kill()
        server.start()
        bigtable_load.create_table(rows.selection)
        rows.write(0, examples)
        read += [session.run(value) for _ in range(190)]
    assert read == examples


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
