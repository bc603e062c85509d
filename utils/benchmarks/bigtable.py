"""Measures Bigtable as a source: `python -m utils.benchmarks.bigtable`, `make bench-bigtable`.

In one run and on the same rows: the raw client, the paged reader, and the tf.data source. Needs the
emulator (BIGTABLE_EMULATOR_HOST, or cbtemulator on PATH or in the Google Cloud CLI's folder).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

import imagenet_input
from utils.base import memory, program
from utils.base.errors import UserError
from utils.data import bigtable_load
from utils.reading import bigtable, bigtable_client, bigtable_dataset, examples

import tensorflow.compat.v1 as tf  # isort: skip

ROW_BYTES = 110_000
ROUNDS = 5
KEPT_ROW = 64  # one in so many leaves the source

Work = Callable[[bigtable.RowReader, int], int]


def find_emulator() -> str | None:
    """The emulator's program: on PATH, or in the Google Cloud CLI's folder."""
    found = shutil.which("cbtemulator")
    gcloud = shutil.which("gcloud")
    if not found and gcloud:
        root = os.path.dirname(os.path.dirname(os.path.realpath(gcloud)))
        candidate = os.path.join(root, "platform", "bigtable-emulator", "cbtemulator")
        found = candidate if os.access(candidate, os.X_OK) else None
    return found


@contextlib.contextmanager
def emulator() -> Iterator[None]:
    """An emulator on a free loopback port, unless BIGTABLE_EMULATOR_HOST names one."""
    if os.environ.get("BIGTABLE_EMULATOR_HOST"):
        yield
        return
    executable = find_emulator()
    if executable is None:
        raise UserError(
            "The Bigtable emulator is not installed: gcloud components install bigtable, or set "
            "BIGTABLE_EMULATOR_HOST."
        )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        [executable, "-host", "127.0.0.1", "-port", str(port)], stdout=subprocess.DEVNULL
    )
    os.environ["BIGTABLE_EMULATOR_HOST"] = f"127.0.0.1:{port}"
    try:
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.wait()
        del os.environ["BIGTABLE_EMULATOR_HOST"]


def _rates(works: Mapping[str, Work], rows, count: int) -> dict[str, float]:
    """The median rows/s of each: they take turns, so that what disturbs one disturbs all."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.monotonic()
            found[name].append(work(rows, count) / (time.monotonic() - start))
    return {name: float(np.median(rates)) for name, rates in found.items()}


def _raw(rows: bigtable.RowReader, count: int) -> int:
    """One streaming scan of all rows by the client, nothing checked."""
    query = rows.query(0, count)
    return sum(1 for _ in bigtable_client.table_of(rows.selection).read_rows_stream(query))


def _paged(rows: bigtable.RowReader, count: int) -> int:
    starts = range(0, count, bigtable.PAGE_ROWS)
    return sum(len(rows.read(s, min(s + bigtable.PAGE_ROWS, count))) for s in starts)


def _source(rows: bigtable.RowReader, count: int) -> int:
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = bigtable_dataset.dataset(rows, 0, count, shuffle=True, deterministic=False)
        # The others are dropped inside: a consumer is no part of the source.
        dataset = dataset.shard(KEPT_ROW, KEPT_ROW - 1)
        length = tf.strings.length(tf.data.make_one_shot_iterator(dataset).get_next())
        for _ in range(count // KEPT_ROW):
            session.run(length)
    return count


def main(argv: list[str]) -> None:
    """Prints rows a second and ratios."""
    parser = program.ArgumentParser(prog="benchmark_bigtable", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8192, help=f"a multiple of {KEPT_ROW}")
    arguments = parser.parse_args(argv[1:])
    selection = imagenet_input.BigtableSelection(
        "bench", "bench", "bench", "train_", "tfexample", "example"
    )
    rng = np.random.RandomState(0)
    count = arguments.rows
    if count < KEPT_ROW or count % KEPT_ROW:
        raise UserError(f"--rows={count} is not possible: name a multiple of {KEPT_ROW}.")
    with emulator():
        bigtable_load.create_table(selection)
        rows = bigtable.RowReader(selection)
        for first in range(0, count, bigtable.PAGE_ROWS):
            size = min(bigtable.PAGE_ROWS, count - first)
            rows.write(first, [examples.example(rng.bytes(ROW_BYTES), 1) for _ in range(size)])
        print(f"{count} rows of {ROW_BYTES / 1000:.0f} KB, {memory.cores()} cores")
        works = {"raw client": _raw, "paged reader": _paged, "tf.data": _source}
        found = _rates(works, rows, count)
    for name, rate in found.items():
        share = 100 * rate / found["raw client"]
        print(f"  {name:<14} {rate:6.0f} rows/s  {share:4.0f} %")


if __name__ == "__main__":
    program.run(main)
