"""No dataset that the package makes is tuned by tf.data: its thread would hold up the end."""

import pytest

import imagenet_input
from utils.reading import bigtable, records, scan

import tensorflow.compat.v1 as tf


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("use_tpu", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_input_from_files(digits_dir, is_training, use_tpu, cache):
    source = imagenet_input.ImageNetInput(is_training, False, use_tpu, digits_dir, 32, cache=cache)
    dataset = source.input_fn({"batch_size": 4})
    assert dataset.options().autotune.enabled is False


def test_black_images():
    source = imagenet_input.ImageNetInput(True, False, False, None, 32)
    dataset = source.input_fn({"batch_size": 4})
    assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("is_training", [True, False])
def test_input_from_bigtable(is_training):
    selection = imagenet_input.BigtableSelection("p", "i", "t", "train_", "f", "q")
    source = imagenet_input.ImageNetBigtableInput(
        is_training, False, False, selection, 32, num_images=10
    )
    dataset = source.input_fn({"batch_size": 4})
    assert dataset.options().autotune.enabled is False
    rows = bigtable.dataset(bigtable.RowReader(selection), 0, 10)
    assert rows.map(tf.strings.length).options().autotune.enabled is False


def test_scan(digits_dir, monkeypatch):
    read = []
    make = tf.data.make_initializable_iterator
    monkeypatch.setattr(
        tf.data, "make_initializable_iterator", lambda data: read.append(data) or make(data)
    )
    paths = records.list_files(digits_dir, records.EVAL_PREFIX)
    assert scan.first_problem(paths, 10) is None
    assert read and all(data.options().autotune.enabled is False for data in read)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("is_training", [True, False])
def test_only_a_training_without_a_seed_may_change_the_order(digits_dir, is_training, seed):
    source = imagenet_input.ImageNetInput(is_training, False, False, digits_dir, 32, seed=seed)
    dataset = source.input_fn({"batch_size": 4})
    assert dataset.options().deterministic is (not is_training or seed is not None)
