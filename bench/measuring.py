"""What all sections share: turns, tables, processes of their own, pictures and data sets."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.base import program, progress
from utils.base.errors import UserError
from utils.exporting import measure
from utils.reading import dataset_info, examples

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT / "tests" / "golden" / "images"
WIDTH, HEIGHT = 500, 375  # of most pictures of ImageNet
QUALITY = 95  # about 64 KB a picture

Figures = Mapping[str, float]  # name with its unit -> value


def machine() -> str:
    """Returns the processor, without which no figure tells anything, and the cores."""
    found = measure.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    wide = cpuinfo.exists() and "avx512f" in cpuinfo.read_text("utf-8")
    avx = "AVX-512" if wide else "no AVX-512"
    return f"{found['processor']}, {avx}, {found['cores']} cores, load {found['load']}"


def compare(title: str, works: Mapping[str, Callable[[], Figures]], turns: int) -> None:
    """Lets works take turns, so that a disturbance meets all of them, and prints a table.

    Args:
      title: what the works are.
      works: each returns its figures, of the same names in all of them.
      turns: how often each runs; the median of each figure counts.
    """
    found: dict[str, list[Figures]] = {name: [] for name in works}
    with contextlib.closing(progress.Progress("measure", turns * len(works), "run")) as bar:
        for done, name in enumerate([*works] * turns, start=1):
            found[name].append(works[name]())
            bar.update(done)
    base = statistics.median(run[next(iter(run))] for run in next(iter(found.values())))
    print(f"\n{title} (turns: {turns}):\n{_table(found, base)}", flush=True)


def _table(found: Mapping[str, Sequence[Figures]], base: float) -> str:
    """Returns a table in Markdown; the first figure also has its range and its ratio to `base`."""
    first, *others = next(iter(found.values()))[0]
    rows = []
    for name, runs in found.items():
        values = [run[first] for run in runs]
        middle = statistics.median(values)
        rows.append(
            [
                name,
                _number(middle),
                f"{_number(min(values))} to {_number(max(values))}",
                f"{middle / base:.2f}",
                *(_number(statistics.median(run[other] for run in runs)) for other in others),
            ]
        )
    return program.markdown(["", first, "least to most", "ratio", *others], rows)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(work: Callable[[], Any]) -> dict[str, float]:
    """Returns how long some work takes in this process, and how long processors compute."""
    start, cpu_start = time.monotonic(), time.process_time()
    work()
    return {"s": time.monotonic() - start, "s of CPU": time.process_time() - cpu_start}


def seconds_of(*command: str, statuses: Sequence[int] = (0,)) -> dict[str, float]:
    """Returns how long a command of this package takes.

    Args:
      command: arguments of Python.
      statuses: exit statuses that are right.

    Raises:
      UserError: it ended with another status.
    """
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
    )
    taken = time.monotonic() - start
    if done.returncode not in statuses:
        last = done.stderr.decode(errors="replace").strip()[-500:]
        raise UserError(f"{' '.join(command)} failed: {last}")
    return {"s": taken}


def make_pictures(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields JPEGs of 500 x 375 pixels: random crops of the photographs in tests/golden/images."""
    from PIL import Image

    if not PHOTOGRAPHS.is_dir():
        raise UserError(f"{PHOTOGRAPHS} is missing: benchmarks run in a clone of the repository.")
    names = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
    photos = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in names]
    rng = np.random.RandomState(seed)
    for number in range(count):
        photo = photos[number % len(photos)]
        width = rng.uniform(0.6, 1.0) * photo.width
        height = min(width * 3 / 4, photo.height)
        left = rng.uniform(0, photo.width - width)
        top = rng.uniform(0, photo.height - height)
        box = (left, top, left + width, top + height)
        encoded = io.BytesIO()
        photo.resize((WIDTH, HEIGHT), box=box).save(encoded, "JPEG", quality=QUALITY)
        yield encoded.getvalue()


def make_data(folder: str, num_images: int = 512, num_shards: int = 8) -> str:
    """Writes a data set of such pictures, with random labels of 1000 classes; returns its folder.

    Args:
      folder: where it becomes the folder `data`.
      num_images: of each split.
      num_shards: of each split.
    """
    data_dir = os.path.join(folder, "data")
    os.mkdir(data_dir)
    pictures = list(make_pictures(num_images))
    rng = np.random.RandomState(1)
    for split in ("train", "validation"):
        for shard in range(num_shards):
            path = os.path.join(data_dir, f"{split}-{shard:05d}-of-{num_shards:05d}")
            with tf.io.TFRecordWriter(path) as writer:
                for picture in pictures[shard::num_shards]:
                    writer.write(examples.example(picture, rng.randint(1, 1001)))
    dataset_info.DatasetInfo("benchmark", num_images, num_images, 1000).write(data_dir)
    return data_dir
