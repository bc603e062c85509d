"""Tests of the dataset of Bigtable rows, against the real emulator: what is fed, every fault."""

import itertools

import numpy as np
import pytest
from bigtable_tables import (
    BAD_VALUES,
    failure,
    load,
    make_examples,
    make_selection,
    pictures,
    read_all,
)
from other_records import KAGGLE, write_kaggle

import imagenet_input
from utils.base.errors import UserError
from utils.building import bigtable_load
from utils.reading import bigtable, examples, records

import tensorflow.compat.v1 as tf

# What is fed.


def test_evaluation_feeds_what_files_feed(server, digits_dir):
    selection = make_selection(prefix="validation_")
    paths = records.list_files(digits_dir, "validation-")
    bigtable_load.create_table(selection)
    load(paths, selection)
    common = dict(
        is_training=False,
        use_bfloat16=False,
        transpose_input=False,
        image_size=32,
    )
    from_files = imagenet_input.ImageNetInput(data_dir=digits_dir, **common)
    from_rows = imagenet_input.ImageNetBigtableInput(selection=selection, **common)
    params = {"batch_size": 100}
    for expected, found in zip(
        read_all(from_files.input_fn(params)), read_all(from_rows.input_fn(params)), strict=True
    ):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_rows_of_another_format(server, numbered_dir, tmp_path):
    kaggle = write_kaggle(numbered_dir, tmp_path / "kaggle", "GZIP")
    selection = make_selection(prefix="validation_")
    bigtable_load.create_table(selection)
    paths = records.list_files(kaggle, "validation-", KAGGLE)
    assert load(paths, selection) == bigtable_load.verify_split(paths, selection) == 23
    form = examples.record_format(KAGGLE)
    source = imagenet_input.ImageNetBigtableInput(
        False, False, False, selection, 32, record_format=form, num_classes=23
    )
    ((_, labels),) = read_all(source.input_fn({"batch_size": 23}))
    np.testing.assert_array_equal(labels, np.arange(23))
    bigtable.RowReader(selection, 23, form).check_first_rows(23)
    with pytest.raises(UserError, match="--record_keys=image=image,label=class"):
        bigtable.RowReader(selection, 23).check_first_rows(23)


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


@pytest.mark.parametrize(("value", "reason"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_scan_names_the_row(loaded, digits_dir, value, reason):
    rows = bigtable.RowReader(loaded[0].selection, num_classes=10)
    rows.write(0, pictures(digits_dir, 200))
    assert bigtable.first_bad_row(rows, 200) is None
    rows.write(150, [value, value])
    assert f"row train_0000000150: {reason}" in str(bigtable.first_bad_row(rows, 200))


# Faults while running.


def test_a_gap_is_an_error(loaded, monkeypatch):
    monkeypatch.setattr(bigtable, "RUN_TIMEOUT_S", 2.0)
    rows, serialized = loaded
    rows.write(201, serialized[:99])
    assert "no row train_0000000200" in failure(rows, 300)


def test_a_corrupt_value_is_named(loaded):
    rows, _ = loaded
    rows.write(77, [b"no example"])
    assert "row train_0000000077: this is not a tf.train.Example" in failure(rows)


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
