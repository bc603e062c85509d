"""Tables of the Bigtable emulator for tests: selections, rows that are loaded, what is read."""

import itertools

import emulator
import pytest
from record_files import example_of

from utils.building import bigtable_load
from utils.reading import bigtable, examples, records

import tensorflow.compat.v1 as tf

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
        project=f"p{next(projects)}",
        instance="i",
        table="imagenet",
        prefix=prefix,
        column_family="tfexample",
        column_qualifier="example",
    )
    return bigtable.BigtableSelection(**{**fields, **more})


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


def load(paths, selection):
    """Loads files into a table that is there; returns how many rows were written."""
    total = bigtable_load.check_split(paths, selection)
    return bigtable_load.load_split(paths, selection, total)


def delete_rows(rows, *numbers):
    mutations = bigtable.data_module().mutations
    for number in numbers:
        table = bigtable.table_of(rows.selection)
        table.mutate_row(rows.key(number), mutations.DeleteAllFromRow())


def large_example():
    """An example that is larger than what a client of the emulator receives (4 MB)."""
    return examples.example(bytes(5 * 2**20), 1)


def failure(rows, end=200):
    """The error of reading all rows, which is latched."""
    with pytest.raises(tf.errors.OpError):
        read_all(bigtable.dataset(rows, 0, end))
    return str(bigtable.first_error())


def pictures(digits_dir, count):
    """Records of the sample data."""
    paths = records.list_files(digits_dir, "train-")
    return list(itertools.islice(records.read_records(paths[0]), count))


BAD_VALUES = {
    "no example": (b"no example", "this is not a tf.train.Example"),
    "picture": (examples.example(b"\xff\xd8\xff broken", 1), "the picture cannot be decoded"),
    "label": (examples.example(b"picture", 11), "label 11 is not in 1..10"),
    "wide label": (examples.example(b"picture", 2**32 + 1), "label 4294967297 does not fit"),
    "typed label": (
        example_of(image__encoded=[b"picture"], image__class__label=[1.0]),
        "the feature image/class/label holds floats where integers are expected",
    ),
}
