"""Measures writing a large report: `python -m utils.benchmarks.report`, `make bench-report`.

The predictions are made up: 50,000 pictures of 1000 classes, of which 70 % are right and most
others are taken for a similar class. What is measured begins when the model is done.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import NamedTuple

import numpy as np
from absl import logging

from utils.base import program
from utils.benchmarks import pictures as benchmark_pictures
from utils.data import shared_arguments
from utils.reading import examples, labels
from utils.reporting import content, models, predictions, report

import tensorflow.compat.v1 as tf  # isort: skip

CLASSES = 1000
ALIKE = 10  # classes that follow each other and are easily confused
NUM_SHARDS = 16
DISTINCT = 120  # pictures, which are repeated


class Written(NamedTuple):
    """Describes a report that was written.

    Attributes:
      seconds: time that it took.
      cpu_seconds: time of processors that it took, which tells more on a machine that is busy.
      sizes: size in bytes of each file by its name.
    """

    seconds: float
    cpu_seconds: float
    sizes: dict[str, int]


def make_predictions(paths: list[str], count: int, seed: int = 0) -> predictions.Predictions:
    """Returns made-up predictions for records that are spread over files in turns."""
    rng = np.random.RandomState(seed)
    truth = rng.randint(0, CLASSES, count)
    alike = truth // ALIKE * ALIKE + rng.randint(0, ALIKE, (5, count))
    elsewhere = rng.randint(0, CLASSES, (5, count))
    top = np.where(rng.rand(5, count) < 0.8, alike, elsewhere)
    top[0] = np.where(rng.rand(count) < 0.7, truth, top[0])
    probabilities = np.sort(rng.dirichlet([8, 2, 1, 1, 1, 1], count)[:, :5], axis=1)[:, ::-1]
    numbers = np.arange(count)
    return predictions.Predictions(
        paths,
        (numbers % len(paths)).astype(np.int32),
        numbers // len(paths),
        [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(count)],
        truth.astype(np.int32),
        top.T.astype(np.int32),
        probabilities.astype(np.float32),
        np.where(top[0] == truth, probabilities[:, 0], 0.05).astype(np.float32),
        CLASSES,
    )


def write_records(folder: str, found: predictions.Predictions, pictures: list[bytes]) -> None:
    """Writes the records that predictions are of, with the same few pictures again and again."""
    numbers = np.arange(len(found))
    for index, path in enumerate(found.paths):
        with tf.io.TFRecordWriter(os.path.join(folder, path)) as writer:
            for number in numbers[found.files == index]:
                picture = pictures[number % len(pictures)]
                writer.write(examples.example(picture, int(found.labels[number]) + 1))


def write_report(folder: str, count: int, pictures: list[bytes]) -> Written:
    """Writes a report of made-up predictions to a local folder."""
    paths = [
        os.path.join(folder, f"validation-{shard:05d}-of-{NUM_SHARDS:05d}")
        for shard in range(NUM_SHARDS)
    ]
    found = make_predictions(paths, count)
    write_records(folder, found, pictures)
    names = labels.read("imagenet", CLASSES)
    model = models.Model("benchmark", "made up", "-", CLASSES, names, lambda pictures: np.empty(0))
    output_dir = os.path.join(folder, "report")
    start, cpu_start = time.monotonic(), time.process_time()
    report.check_folder(output_dir, "output_dir")
    subject = content.Subject(model, folder, "validation")
    report.write(subject, predictions.Source(paths, CLASSES), found, output_dir)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    names_written = os.listdir(output_dir)
    sizes = {name: os.path.getsize(os.path.join(output_dir, name)) for name in names_written}
    return Written(seconds, cpu_seconds, sizes)


def main(argv: list[str]) -> None:
    """Prints seconds and sizes."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--images", type=shared_arguments.count, default=50_000, help="pictures (default: 50000)"
    )
    arguments = parser.parse_args(argv[1:])
    logging.set_verbosity(logging.WARNING)
    pictures = list(benchmark_pictures.make_pictures(DISTINCT))
    with tempfile.TemporaryDirectory() as folder:
        written = write_report(folder, arguments.images, pictures)
    pixels = f"{benchmark_pictures.WIDTH} x {benchmark_pictures.HEIGHT}"
    print(
        f"{arguments.images} pictures of {pixels}, {CLASSES} classes: {written.seconds:.1f} s "
        f"({written.cpu_seconds:.1f} s of CPU)"
    )
    for name, size in sorted(written.sizes.items()):
        print(f"  {name:16} {size / 1e6:6.2f} MB")


if __name__ == "__main__":
    program.run(main)
