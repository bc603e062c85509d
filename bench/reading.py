"""Sections about data: the input of a training, building a data set, rows of Bigtable."""

from __future__ import annotations

import functools
import os
import shutil
import time

import numpy as np

import imagenet_input
from bench import measuring
from utils import data as data_command
from utils.base import memory
from utils.base.errors import UserError
from utils.building import bigtable_load
from utils.reading import bigtable, examples, records

import tensorflow.compat.v1 as tf

BATCH = 64
WARM_UP_BATCHES = 8
SECONDS = 5  # of each turn
PASSES = 1000  # over the files: more than the time allows
PICTURES = 4096  # in the folder that is built
ROWS = 8192
ROW_BYTES = 110_000
KEPT_ROW = 64  # one in so many rows leaves the source


def reading(folder: str, turns: int) -> None:
    """Measures the input alone, next to a loop that only decodes whole pictures.

    The loop is the ceiling of a pipeline that decodes pictures whole.
    """
    data_dir = measuring.make_data(folder, num_images=1024)
    works = {
        kind: functools.partial(_read, kind, data_dir)
        for kind in ("decoding alone", "training input", "evaluation input")
    }
    measuring.compare(f"Input at 224 pixels from JPEGs of {_pixels()}", works, turns)


def _pixels() -> str:
    return f"{measuring.WIDTH} x {measuring.HEIGHT}"


def _read(kind: str, data_dir: str) -> dict[str, float]:
    """Returns how many images a second a pipeline gives."""
    paths = records.list_files(data_dir, imagenet_input.TRAIN_PREFIX)
    with tf.Graph().as_default(), tf.Session() as session:
        if kind == "decoding alone":
            dataset = tf.data.TFRecordDataset(paths).repeat()
            dataset = dataset.map(_decode, num_parallel_calls=2 * memory.cores()).batch(BATCH)
            dataset = records.without_tuning(dataset)
        else:
            source = imagenet_input.ImageNetInput(
                kind == "training input",
                False,
                False,
                data_dir,
                224,
                # One long pass, so that an evaluation does not start again every half a second.
                segments=PASSES * [records.Segment(path) for path in paths],
            )
            dataset = source.input_fn({"batch_size": BATCH})
        # Only labels are fetched: handing images to Python is not part of the input.
        labels = tf.data.make_one_shot_iterator(dataset).get_next()[1]
        for _ in range(WARM_UP_BATCHES):
            session.run(labels)
        start, count = time.monotonic(), 0
        while time.monotonic() - start < SECONDS:
            session.run(labels)
            count += BATCH
        return {"images/s": count / (time.monotonic() - start)}


def _decode(serialized):
    image_bytes, label = examples.parse(serialized)
    image = tf.io.decode_jpeg(image_bytes, channels=3)
    # The sum with the shape keeps the decoding in the graph.
    return tf.zeros([]), label + 0 * tf.shape(image)[0]


def building(folder: str, turns: int) -> None:
    """Measures building TFRecords of a folder of pictures, next to copying its files."""
    source, target = os.path.join(folder, "pictures"), os.path.join(folder, "built")
    for number, picture in enumerate(measuring.make_pictures(PICTURES)):
        path = os.path.join(source, f"class {number % 10}", f"{number}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(picture)

    def build():
        data_command.main(["x", "folder", f"--input_dir={source}", f"--output_dir={target}"])

    def rate(work) -> dict[str, float]:
        taken = measuring.seconds(work)["s"]
        shutil.rmtree(target)
        return {"images/s": PICTURES / taken}

    works = {
        "copying the files": lambda: rate(lambda: shutil.copytree(source, target)),
        "building TFRecords": lambda: rate(build),
    }
    measuring.compare(f"{PICTURES} JPEGs of {_pixels()}", works, turns)


def bigtable_rows(folder: str, turns: int) -> None:
    """Measures reading from Bigtable's emulator: the raw client, our reader, the tf.data source.

    Raises:
      UserError: BIGTABLE_EMULATOR_HOST names no emulator.
    """
    if "BIGTABLE_EMULATOR_HOST" not in os.environ:
        raise UserError(
            "BIGTABLE_EMULATOR_HOST is not set: start the emulator (cbtemulator) and name it there."
        )
    selection = imagenet_input.BigtableSelection(
        "bench", "bench", "bench", "train_", "tfexample", "example"
    )
    bigtable_load.create_table(selection)
    rows = bigtable.RowReader(selection)
    rng = np.random.RandomState(0)
    for first in range(0, ROWS, bigtable.PAGE_ROWS):
        page = (rng.bytes(ROW_BYTES) for _ in range(bigtable.PAGE_ROWS))
        rows.write(first, [examples.example(image, 1) for image in page])

    def rate(read) -> dict[str, float]:
        return {"rows/s": ROWS / measuring.seconds(lambda: read(rows))["s"]}

    works = {
        name: functools.partial(rate, read)
        for name, read in (("raw client", _raw), ("paged reader", _paged), ("tf.data", _source))
    }
    measuring.compare(f"{ROWS} rows of {ROW_BYTES / 1000:.0f} KB", works, turns)


def _raw(rows: bigtable.RowReader) -> None:
    """Scans all rows once with the client's stream, without any check."""
    table = bigtable.table_of(rows.selection)
    for _ in table.read_rows_stream(rows.query(0, ROWS)):
        pass


def _paged(rows: bigtable.RowReader) -> None:
    for start in range(0, ROWS, bigtable.PAGE_ROWS):
        rows.read(start, start + bigtable.PAGE_ROWS)


def _source(rows: bigtable.RowReader) -> None:
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = bigtable.dataset(rows, 0, ROWS, shuffle=True, deterministic=False)
        # Other rows are dropped inside tf.data: handing them to Python is not part of the source.
        dataset = dataset.shard(KEPT_ROW, KEPT_ROW - 1)
        length = tf.strings.length(tf.data.make_one_shot_iterator(dataset).get_next())
        for _ in range(ROWS // KEPT_ROW):
            session.run(length)
