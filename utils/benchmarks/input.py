"""Measures the input alone: `python -m utils.benchmarks.input`, `make bench-input`.

It compares, in one run and on the same files (500 x 375 JPEGs of 64 KB), the training input, the
evaluation input and a loop that only decodes whole pictures, which is the ceiling of a pipeline
that decodes pictures whole. The measurements take turns, so that a disturbance meets all of them,
and the medians count. Every turn is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import imagenet_input
from utils.base import memory, program
from utils.base.errors import UserError
from utils.benchmarks import pictures as benchmark_pictures
from utils.reading import dataset_options, examples, records, segments

import tensorflow.compat.v1 as tf  # isort: skip

BATCH = 64
WARM_UP_BATCHES = 8
PASSES = 1000  # over the files: more than the time allows


def rate(make_dataset: Callable[[], tf.data.Dataset], seconds: float) -> float:
    """Returns the images a second of an endless dataset of (images, labels) or of labels alone."""
    with tf.Graph().as_default(), tf.Session() as session:
        following = tf.data.make_one_shot_iterator(make_dataset()).get_next()
        # Only labels are fetched: handing images to Python is not part of the input.
        labels = following[1] if isinstance(following, tuple) else following
        for _ in range(WARM_UP_BATCHES):
            session.run(labels)
        start, count = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            session.run(labels)
            count += BATCH
        return count / (time.monotonic() - start)


def measure_input(data_dir: str, size: int, is_training: bool, seconds: float = 5.0) -> float:
    """Returns the images a second of `ImageNetInput`."""
    paths = records.list_files(data_dir, imagenet_input.TRAIN_PREFIX)
    source = imagenet_input.ImageNetInput(
        is_training, False, False, data_dir, size,
        # One long pass, so that an evaluation does not start again every half a second.
        segments=PASSES * [segments.Segment(path) for path in paths],
    )  # fmt: skip
    return rate(lambda: source.input_fn({"batch_size": BATCH}), seconds)


def measure_decoding(data_dir: str, seconds: float = 5.0) -> float:
    """Returns the images a second of reading and decoding whole pictures, and nothing else."""

    def decode(serialized):
        image_bytes, label = examples.parse(serialized)
        # The sum with the shape keeps the decoding in the graph.
        return label + 0 * tf.shape(tf.io.decode_jpeg(image_bytes, channels=3))[0]

    def make_dataset():
        paths = records.list_files(data_dir, imagenet_input.TRAIN_PREFIX)
        dataset = tf.data.TFRecordDataset(paths).repeat()
        dataset = dataset.map(decode, num_parallel_calls=2 * memory.cores()).batch(BATCH)
        return dataset_options.apply(dataset)

    return rate(make_dataset, seconds)


MEASUREMENTS: dict[str, Callable[[str, int, float], float]] = {
    "training input": lambda data_dir, size, s: measure_input(data_dir, size, True, s),
    "evaluation input": lambda data_dir, size, s: measure_input(data_dir, size, False, s),
    "decoding alone": lambda data_dir, size, s: measure_decoding(data_dir, s),
}


class Measured(NamedTuple):
    """Holds the images a second of each turn, and the greatest peak memory in bytes."""

    rates: list[float]
    peak: int

    def line(self, ceiling: Measured) -> str:
        """Formats median, its share of the ceiling's median, smallest and largest rate, memory."""
        median = statistics.median(self.rates)
        share = median / statistics.median(ceiling.rates)
        return (
            f"{median:6.0f} images/s  {share:4.0%}  ({min(self.rates):.0f} to "
            f"{max(self.rates):.0f})  {self.peak / 1e9:.2f} GB"
        )


def _measure(name: str, data_dir: str, size: int, seconds: float) -> tuple[float, int]:
    """Returns (images a second, peak memory in bytes) of this process."""
    memory.keep_freed_memory()  # as every program does
    program.set_up_logging()
    tf.disable_v2_behavior()
    images_a_second = MEASUREMENTS[name](data_dir, size, seconds)
    return images_a_second, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(name: str, data_dir: str, size: int, seconds: float) -> tuple[float, int]:
    """Runs `_measure` in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(_measure, name, data_dir, size, seconds).result()


def measure(data_dir: str, size: int, turns: int, seconds: float) -> dict[str, Measured]:
    """Runs all measurements one after the other, `turns` times."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in MEASUREMENTS}
    for _ in range(turns):
        for name, results in found.items():
            results.append(in_own_process(name, data_dir, size, seconds))
    return {
        name: Measured([rate for rate, _ in results], max(peak for _, peak in results))
        for name, results in found.items()
    }


def main(argv: list[str]) -> None:
    """Prints images a second, their share of decoding's, and peak memory."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.input", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images (default: 224)")
    parser.add_argument("--images", type=int, default=1024, help="pictures to make (default: 1024)")
    parser.add_argument(
        "--turns", type=int, default=3, help="turns of each measurement (default: 3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5, help="seconds of each turn (default: 5)"
    )
    arguments = parser.parse_args(argv[1:])
    if arguments.images < BATCH:
        raise UserError(f"--images={arguments.images} is invalid: it must be at least {BATCH}.")
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns} is invalid: it must be at least 1.")
    with tempfile.TemporaryDirectory() as data_dir:
        benchmark_pictures.make_data(data_dir, arguments.images)
        paths = records.list_files(data_dir, imagenet_input.TRAIN_PREFIX)
        kilobytes = sum(state.size for state in records.states(paths)) / arguments.images / 1000
        print(f"{kilobytes:.0f} KB a picture, {arguments.size} pixels, {memory.cores()} cores")
        found = measure(data_dir, arguments.size, arguments.turns, arguments.seconds)
    for name, measured in found.items():
        print(f"  {name:<18} {measured.line(ceiling=found['decoding alone'])}")


if __name__ == "__main__":
    program.run(main)
