"""Tests of the reading order: hosts, epochs, resumed trainings, evaluation."""

import collections
import functools
import string

import pytest
from other_records import compressed

from utils.reading import dataset_info, reading_order, records
from utils.reading.records import Segment

import tensorflow.compat.v1 as tf

SIZES = (4, 3, 5)  # the example of the module's docstring
EVERY = [f"{letter}{n}" for letter, size in zip("abc", SIZES, strict=True) for n in range(size)]


def write_files(folder, file_prefix, sizes, is_described):
    """Writes files a, b, ... of records a0, a1, ..., b0, ...; returns their segments."""
    shards = dict(zip((file_prefix + c for c in string.ascii_lowercase), sizes, strict=False))
    for name, size in shards.items():
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in range(size):
                writer.write(f"{name[-1]}{number}".encode())
    if is_described:
        total = sum(sizes)
        dataset_info.DatasetInfo("test", total, total, 1, shards=shards).write(str(folder))
    return [Segment(path) for path in records.list_files(str(folder), file_prefix)]


def read(make_dataset, count=-1):
    """The names of up to `count` records of a dataset, which is made in a graph of its own."""
    return read_all([make_dataset], count)[0]


def read_all(make_datasets, count=-1):
    """The same of several datasets, each of which has a record, in one graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        batches = [make().take(count).batch(10_000) for make in make_datasets]
        following = [
            tf.data.make_one_shot_iterator(records.without_tuning(batch)).get_next()
            for batch in batches
        ]
        try:
            return [[name.decode() for name in names] for names in session.run(following)]
        except tf.errors.OutOfRangeError:
            return [[]]


def read_runs(all_segments, data_dir, num, count, seed=None, cache=False):
    """`count` records each of `num` trainings on one host, each of which resumes the last."""

    def run(images_read):
        share = reading_order.share_of_host(all_segments, data_dir, 0, 1, images_read)
        return lambda: reading_order.training_records(share, seed, 2, cache)

    return read_all([run(number * count) for number in range(num)], count)


@pytest.fixture
def example(tmp_path):
    """(folder, segments) of the example, for training."""
    return str(tmp_path), write_files(tmp_path, records.TRAIN_PREFIX, SIZES, False)


# Hosts in training.


def read_epochs(example, num_hosts):
    folder, all_segments = example
    shares = [
        reading_order.share_of_host(all_segments, folder, host, num_hosts, 0)
        for host in range(num_hosts)
    ]
    return [read(lambda share=share: reading_order.epoch_records(share, 1, 2)) for share in shares]


def test_a_host_reads_whole_files(example):
    shares = read_epochs(example, 3)
    assert ["".join(sorted({name[0] for name in share})) for share in shares] == ["a", "b", "c"]
    assert sorted(sum(shares, [])) == EVERY


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_whose_files_would_be_uneven_take_turns(example, num_hosts):
    (order,) = read_epochs(example, 1)
    assert sorted(order) == EVERY
    shares = [order[host::num_hosts] for host in range(num_hosts)]
    assert read_epochs(example, num_hosts) == shares


@pytest.mark.parametrize(
    ("files", "hosts", "uneven"),
    [(1024, 3, False), (8, 4, False), (4, 3, True), (3, 4, True), (100, 3, True), (1, 1, False)],
)
def test_shares_of_whole_files(files, hosts, uneven):
    assert reading_order.is_uneven(files, hosts) is uneven


# An epoch.


def test_files_are_read_in_turns(example, monkeypatch):
    monkeypatch.setattr(reading_order, "CYCLE", 2)
    folder, all_segments = example
    share = reading_order.share_of_host(all_segments, folder, 0, 1, 0)
    epochs = [
        read(lambda epoch=epoch: reading_order.epoch_records(share, 0, 2, epoch))
        for epoch in (2, 3, 4, 6)
    ]
    assert [order[0][0] + order[1][0] for order in epochs] == ["ab", "cb", "bc", "ca"]
    assert epochs[3] == ["c0", "a0", "c1", "a1", "c2", "a2", "c3", "a3", "c4", "b0", "b1", "b2"]


# Resuming.


@pytest.mark.parametrize("is_described", [False, True])
def test_a_training_resumes_where_the_example_says(tmp_path, monkeypatch, is_described):
    monkeypatch.setattr(reading_order, "CYCLE", 2)
    all_segments = write_files(tmp_path, records.TRAIN_PREFIX, SIZES, is_described)
    share = reading_order.share_of_host(all_segments, str(tmp_path), 0, 1, 18)
    assert share.start() == (1, 6)
    seed = 10  # with which the files of epoch 1 are in the example's order
    rest = read(lambda: reading_order.epoch_records(share, seed, 2, *share.start()))
    assert rest == ["b2", "c3", "c4", "a0", "a1", "a2", "a3"]


@pytest.mark.parametrize("cache", [False, True])
def test_resumed_trainings_make_whole_epochs(example, cache):
    folder, all_segments = example
    (whole,) = read_runs(all_segments, folder, 1, 36, 4, cache)
    for epoch in range(3):
        assert sorted(whole[12 * epoch : 12 * epoch + 12]) == EVERY
    assert whole[:12] != whole[12:24]
    if cache:  # the buffer shuffles anew, with another seed: the first epoch is whole nevertheless
        parts = read_runs(all_segments, folder, 3, 4, 4, cache)
        assert sorted(sum(parts, [])) == EVERY
        return
    parts = read_runs(all_segments, folder, 9, 4, 4, cache)
    assert sum(parts, []) == whole


@pytest.mark.parametrize(
    ("num_files", "is_described"),
    [
        (3, True),
        (12, False),
        pytest.param(3, False, marks=pytest.mark.slow),
        pytest.param(12, True, marks=pytest.mark.slow),
    ],
)
def test_short_runs_see_all_records_of_large_files(tmp_path, monkeypatch, num_files, is_described):
    # As with files that are large beside the shuffle buffer, and more of them than are open.
    monkeypatch.setattr(reading_order, "SHUFFLE_BUFFER", 2)
    monkeypatch.setattr(reading_order, "CYCLE", 4)
    sizes = num_files * (240 // num_files,)
    all_segments = write_files(tmp_path, records.TRAIN_PREFIX, sizes, is_described)
    runs = read_runs(all_segments, str(tmp_path), 12, 40)
    counts = collections.Counter(sum(runs, []))
    # 480 images are two epochs; starting anew each time, 40 of 240 would be seen.
    assert len(counts) > 220
    assert max(counts.values()) <= 6  # and each of these 12 times


def test_short_runs_favour_no_record(tmp_path):
    # The buffer holds them all: what comes first of the rest must not be what comes last.
    all_segments = write_files(tmp_path, records.TRAIN_PREFIX, (10, 10, 10, 10), False)
    runs = [sum(read_runs(all_segments, str(tmp_path), 4, 10), []) for _ in range(6)]
    counts = collections.Counter(sum(runs, []))
    early = sum(counts[f"{letter}{n}"] for letter in "ab" for n in range(10))
    assert abs(early - (240 - early)) < 70  # of 240, whose standard deviation is 15 at most


def test_hosts_that_resume_split_the_records(tmp_path):
    all_segments = write_files(tmp_path, records.TRAIN_PREFIX, (6, 5), False)
    found = []
    for host in range(4):  # which have had 44 images: four epochs
        share = reading_order.share_of_host(all_segments, str(tmp_path), host, 4, 44)
        assert share.start() == (4, 0)
        found += read(lambda share=share: reading_order.training_records(share, None, 2, False), 2)
    assert len(set(found)) == 8


# Evaluation.


@pytest.mark.parametrize("is_described", [False, True])
@pytest.mark.parametrize("num_hosts", [1, 2, 16])
def test_hosts_share_an_evaluation(tmp_path, is_described, num_hosts):
    all_segments = write_files(tmp_path, records.EVAL_PREFIX, SIZES, is_described)
    found = [
        read(
            lambda host=host: reading_order.evaluation_records(
                all_segments, str(tmp_path), host, num_hosts
            )
        )
        for host in range(num_hosts)
    ]
    if is_described:
        assert sum(found, []) == EVERY
    else:
        assert found == [EVERY[host::num_hosts] for host in range(num_hosts)]
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_training_on_compressed_files_goes_on_with_the_next_records(tmp_path, compression):
    orders = []
    for name in ("plain", "compressed"):
        (tmp_path / name).mkdir()
        all_segments = write_files(tmp_path / name, "train-", SIZES, is_described=False)
        if name == "compressed":
            for path in (segment.path for segment in all_segments):
                compressed(path, list(records.read_records(path)), compression)
        share = reading_order.share_of_host(all_segments, None, 0, 1, 18)
        assert share.start() == (1, 6)
        epoch = functools.partial(reading_order.epoch_records, share, 5, 1, 1)
        orders.append([read(functools.partial(epoch, had)) for had in (0, 6, 11)])
    assert orders[0] == orders[1]
    assert sorted(orders[1][0]) == EVERY
    assert set(orders[1][2]) < set(orders[1][1]) < set(orders[1][0])
