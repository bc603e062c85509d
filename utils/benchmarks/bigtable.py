"""Measures Bigtable as a source: `python -m utils.benchmarks.bigtable`, `make bench-bigtable`.

It compares, in one run and on the same rows, the raw client, the paged reader and the tf.data
source. It needs the emulator: BIGTABLE_EMULATOR_HOST names a running one, or the program
cbtemulator is on PATH or in the folder of the Google Cloud CLI.
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
KEPT_ROW = 64  # one in so many rows leaves the source
NOT_INSTALLED = (
    "The Bigtable emulator (cbtemulator) is not installed: gcloud components install bigtable, or "
    "set BIGTABLE_EMULATOR_HOST."
)

Work = Callable[[bigtable.RowReader, int], int]


def find_emulator() -> str | None:
    """Returns the emulator's program on PATH or in the Google Cloud CLI's folder; None without."""
    found = shutil.which("cbtemulator")
    gcloud = shutil.which("gcloud")
    if not found and gcloud:
        root = os.path.dirname(os.path.dirname(os.path.realpath(gcloud)))
        candidate = os.path.join(root, "platform", "bigtable-emulator", "cbtemulator")
        found = candidate if os.access(candidate, os.X_OK) else None
    return found


def ending_with_us() -> list[str]:
    """Returns the words before a command whose process ends with ours, even if ours is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


class Emulator:
    """Runs the Bigtable emulator on a free loopback port; it can be started again on that port.

    Attributes:
      host: '127.0.0.1:PORT', for the variable BIGTABLE_EMULATOR_HOST.
      process: the emulator's process.
    """

    def __init__(self) -> None:
        """Starts the emulator.

        Raises:
          UserError: the emulator is not installed or does not start.
        """
        executable = find_emulator()
        if executable is None:
            raise UserError(NOT_INSTALLED)
        self._executable = executable
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self.host = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Starts the emulator, and waits until it answers."""
        self.process = subprocess.Popen(
            [*ending_with_us(), self._executable, "-host", "127.0.0.1", "-port", str(self._port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        self.kill()
        raise UserError(f"{self._executable} does not answer on {self.host}: run it by hand.")

    def kill(self) -> None:
        """Ends the emulator, running or frozen; its tables are lost."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def emulator() -> Iterator[None]:
    """Runs an emulator while the block runs, unless BIGTABLE_EMULATOR_HOST names one."""
    if os.environ.get("BIGTABLE_EMULATOR_HOST"):
        yield
        return
    server = Emulator()
    os.environ["BIGTABLE_EMULATOR_HOST"] = server.host
    try:
        yield
    finally:
        server.kill()
        del os.environ["BIGTABLE_EMULATOR_HOST"]


def _rates(works: Mapping[str, Work], rows, count: int) -> dict[str, float]:
    """Returns the median rows/s of each work; they take turns, so that a disturbance meets all."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.monotonic()
            found[name].append(work(rows, count) / (time.monotonic() - start))
    return {name: float(np.median(rates)) for name, rates in found.items()}


def _raw(rows: bigtable.RowReader, count: int) -> int:
    """Scans all rows once with the client's stream, without any check."""
    query = rows.query(0, count)
    return sum(1 for _ in bigtable_client.table_of(rows.selection).read_rows_stream(query))


def _paged(rows: bigtable.RowReader, count: int) -> int:
    starts = range(0, count, bigtable.PAGE_ROWS)
    return sum(len(rows.read(s, min(s + bigtable.PAGE_ROWS, count))) for s in starts)


def _source(rows: bigtable.RowReader, count: int) -> int:
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = bigtable_dataset.dataset(rows, 0, count, shuffle=True, deterministic=False)
        # Other rows are dropped inside tf.data: handing them to Python is not part of the source.
        dataset = dataset.shard(KEPT_ROW, KEPT_ROW - 1)
        length = tf.strings.length(tf.data.make_one_shot_iterator(dataset).get_next())
        for _ in range(count // KEPT_ROW):
            session.run(length)
    return count


def main(argv: list[str]) -> None:
    """Prints rows a second, and each reader's share of the raw client's."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.bigtable", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=8192,
        help=f"rows to write and read, a multiple of {KEPT_ROW} (default: 8192)",
    )
    arguments = parser.parse_args(argv[1:])
    selection = imagenet_input.BigtableSelection(
        "bench", "bench", "bench", "train_", "tfexample", "example"
    )
    rng = np.random.RandomState(0)
    count = arguments.rows
    if count < KEPT_ROW or count % KEPT_ROW:
        raise UserError(f"--rows={count} is invalid: it must be a multiple of {KEPT_ROW}.")
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
