"""Tests of `imagenet_input` on several hosts: which host reads which records."""

import pathlib

import numpy as np
import pytest
from shades import (
    NUM_IMAGES,
    batches,
    labels_of,
    make_input,
    numbers_of_host,
    write_shards,
)

from utils.reading import dataset_info, records


@pytest.mark.parametrize("num_hosts", [1, 3, 4, 8])
@pytest.mark.parametrize(("is_training", "seed"), [(False, None), (True, None), (True, 5)])
def test_hosts_share_the_records_without_overlap(numbered_dir, is_training, seed, num_hosts):
    source = make_input(numbered_dir, is_training, seed=seed)
    shares = [numbers_of_host(source, index, num_hosts) for index in range(num_hosts)]
    assert sorted(sum(shares, [])) == list(range(1, NUM_IMAGES + 1))
    assert all(shares)


@pytest.mark.parametrize("num_hosts", [3, 4, 8])
def test_no_host_evaluates_more_than_one_image_more(numbered_dir, num_hosts):
    source = make_input(numbered_dir)
    counts = [len(numbers_of_host(source, index, num_hosts)) for index in range(num_hosts)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("cache", [False, True])
def test_fewer_files_than_hosts(tmp_path, is_training, cache):
    prefix = "train-" if is_training else "validation-"
    write_shards(tmp_path, prefix, np.arange(1, 12), 2)
    source = make_input(str(tmp_path), is_training, cache=cache)
    # More than once: what holds by chance in one order of the files fails in another.
    for _ in range(4):
        shares = [numbers_of_host(source, index, 4) for index in range(4)]
        assert sorted(sum(shares, [])) == list(range(1, 12))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_tpu_there_is_one_host(numbered_dir):
    taken = batches(make_input(numbered_dir), 23, context=None, use_tpu=False)
    assert len(labels_of(taken)) == NUM_IMAGES


def test_with_known_counts_each_host_reads_its_own_files(tmp_path):
    write_shards(tmp_path, "validation-", np.arange(1, 41), 8)
    counts = {f"validation-{n:05d}-of-00008": 5 for n in range(8)}
    dataset_info.DatasetInfo("test", 0, 40, 100, shards=counts).write(str(tmp_path))
    source = make_input(str(tmp_path))
    shares = [numbers_of_host(source, index, 4) for index in range(4)]
    # Ranges, not turns: the first host has all of the first two files.
    in_order = numbers_of_host(source, 0, 1)
    assert sum(shares, []) == in_order
    for index in range(4):
        gone = [
            p
            for n, p in enumerate(records.list_files(str(tmp_path), "validation-"))
            if n // 2 != index
        ]
        kept = {path: pathlib.Path(path).read_bytes() for path in gone}
        for path in gone:
            pathlib.Path(path).write_bytes(b"not to be read")
        assert numbers_of_host(source, index, 4) == shares[index]
        for path, content in kept.items():
            pathlib.Path(path).write_bytes(content)


@pytest.mark.parametrize("num_hosts", [2, 3, 7, 16])
def test_ranges_split_files_where_they_must(tmp_path, num_hosts):
    write_shards(tmp_path, "validation-", np.arange(1, 12), 3)
    paths = records.list_files(str(tmp_path), "validation-")
    counts = {pathlib.Path(p).name: len(list(records.read_records(p))) for p in paths}
    dataset_info.DatasetInfo("test", 0, 11, 100, shards=counts).write(str(tmp_path))
    source = make_input(str(tmp_path))
    shares = [numbers_of_host(source, index, num_hosts) for index in range(num_hosts)]
    assert sum(shares, []) == numbers_of_host(source, 0, 1)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
