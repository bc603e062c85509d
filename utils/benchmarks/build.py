"""Measures building a data set: `python -m utils.benchmarks.build`, `make bench-build`.

It compares, in one run and on the same files, copying a folder of pictures file by file and
building TFRecords of it with `mnasnet-data folder`. No picture needs a new encoding; each is
decoded once, as a check.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable

from absl import logging

from utils.base import memory, program
from utils.benchmarks import pictures as benchmark_pictures
from utils.data import build_folder, shared_arguments
from utils.reading import pictures

NUM_CLASSES = 10
RUNS = 3


def _make_folder(folder: str, count: int) -> int:
    """Writes pictures in one folder per class; returns their bytes."""
    total = 0
    for number, picture in enumerate(benchmark_pictures.make_pictures(count)):
        path = os.path.join(folder, f"class {number % NUM_CLASSES + 1}", f"{number}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            total += f.write(picture)
    return total


def _rate(work: Callable[[str], object], folder: str, count: int) -> float:
    """Returns the best images/s of some runs, because other programs can only slow a run down."""
    best = 0.0
    for _ in range(RUNS):
        target = os.path.join(folder, "target")
        start = time.monotonic()
        work(target)
        best = max(best, count / (time.monotonic() - start))
        shutil.rmtree(target)
    return best


def main(argv: list[str]) -> None:
    """Prints images a second, and the share of building in copying."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.build", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--images", type=shared_arguments.count, default=4096, help="pictures (default: 4096)"
    )
    arguments = parser.parse_args(argv[1:])
    logging.set_verbosity(logging.WARNING)
    pictures.require_pillow()
    count = arguments.images
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "pictures")
        size = _make_folder(source, count)
        pixels = f"{benchmark_pictures.WIDTH} x {benchmark_pictures.HEIGHT}"
        kilobytes = size / count / 1000
        print(f"{count} JPEGs of {pixels}, {kilobytes:.0f} KB each, {memory.cores()} cores")
        copy = _rate(lambda target: shutil.copytree(source, target), folder, count)
        print(f"  copying the files   {copy:6.0f} images/s  100 %", flush=True)
        rate = _rate(
            lambda target: build_folder.build(build_folder.Options(source, target)), folder, count
        )
        print(f"  building TFRecords  {rate:6.0f} images/s  {100 * rate / copy:3.0f} %")


if __name__ == "__main__":
    program.run(main)
