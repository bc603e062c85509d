"""Measures start-up, step, memory and end of trainings: `python -m utils.benchmark`, `make bench`.

Every figure is of a process of its own, as a user would start it, on 500 x 375 JPEGs made from the
pictures in tests/golden/images.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from utils import dataset_info, examples, memory, program
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES_DIR = os.path.join(ROOT, "tests", "golden", "images")
PICTURE_SIZE = (500, 375)
QUALITY = 95  # about 64 KB a picture
# The end of a training depends on the input, not on the network: a small one will do.
END_MODEL, END_SIZE, END_BATCH, END_STEPS = "mnasnet-small", 64, 16, 40
MOST_SECONDS_TO_END = 3


def make_pictures(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs of 500 x 375 pixels, random crops of the photographs among the golden images."""
    from PIL import Image

    if not os.path.isdir(IMAGES_DIR):
        raise UserError(f"{IMAGES_DIR} is missing: benchmarks run in a clone of the repository.")
    names = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
    photos = [Image.open(os.path.join(IMAGES_DIR, n)).convert("RGB") for n in names]
    rng = np.random.RandomState(seed)
    pictures = []
    for number in range(count):
        photo = photos[number % len(photos)]
        width = rng.uniform(0.6, 1.0) * photo.width
        height = min(width * 3 / 4, photo.height)
        left = rng.uniform(0, photo.width - width)
        top = rng.uniform(0, photo.height - height)
        box = (left, top, left + width, top + height)
        encoded = io.BytesIO()
        photo.resize(PICTURE_SIZE, box=box).save(encoded, "JPEG", quality=QUALITY)
        pictures.append(encoded.getvalue())
    return pictures


def make_data(folder: str, num_images: int = 512, num_shards: int = 8) -> None:
    """A data set of such pictures with random labels of 1000 classes."""
    pictures = make_pictures(num_images)
    rng = np.random.RandomState(1)
    for split in ("train", "validation"):
        for shard in range(num_shards):
            path = os.path.join(folder, f"{split}-{shard:05d}-of-{num_shards:05d}")
            with tf.io.TFRecordWriter(path) as writer:
                for picture in pictures[shard::num_shards]:
                    writer.write(examples.example(picture, rng.randint(1, 1001)))
    dataset_info.DatasetInfo("benchmark", num_images, num_images, 1000).write(folder)


class Training(NamedTuple):
    """What was measured of a training.

    Attributes:
      first: seconds from the command to the end of the first step.
      step: seconds a step, the median.
      end: seconds from the last step to the process's end.
      peak: bytes of memory at most.
    """

    first: float
    step: float
    end: float
    peak: int


def measure_training(data_dir: str, model_name: str, size: int, batch: int, steps: int) -> Training:
    """Runs a training in a process of its own."""
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            sys.executable, os.path.join(ROOT, "mnasnet_main.py"), "--mode=train",
            f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--model_name={model_name}",
            f"--input_image_size={size}", f"--train_batch_size={batch}", f"--train_steps={steps}",
            "--log_step_count_steps=1", "--use_tpu=False",
        ]  # fmt: skip
        start = time.monotonic()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        times, lines = [], []
        for line in process.stderr or ():
            lines.append(line)
            if "train step" in line:
                times.append(time.monotonic() - start)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic() - start
    if status != 0 or len(times) < 4:
        raise UserError("The training failed: " + "".join(lines[-3:]).strip())
    step = float(np.median(np.diff(times[2:])))
    return Training(times[0], step, ended - times[-1], usage.ru_maxrss * 1024)


def _print_row(what: str, value: str) -> None:
    print(f"  {what:<42} {value}", flush=True)


def bench_training(data_dir: str, model_name: str, size: int, batch: int, steps: int) -> None:
    """Prints start-up, speed and memory of a training."""
    print(f"{model_name} at {size}, batch {batch}, float32, {memory.cores()} cores", flush=True)
    run = measure_training(data_dir, model_name, size, batch, steps)
    _print_row("from the command to the end of step 1", f"{run.first:.1f} s")
    _print_row("training step (median)", f"{run.step:.3f} s  = {batch / run.step:.1f} images/s")
    _print_row("peak memory", f"{run.peak / 1e9:.2f} GB")


def bench_end(data_dir: str, runs: int) -> None:
    """Prints how long short trainings take from the last step to the process's end."""
    print(f"{END_MODEL} at {END_SIZE}, {END_STEPS} steps of {END_BATCH}, {runs} runs", flush=True)
    measured = (END_MODEL, END_SIZE, END_BATCH, END_STEPS)
    ends = [measure_training(data_dir, *measured).end for _ in range(runs)]
    slow = f"  MORE THAN {MOST_SECONDS_TO_END} s" if max(ends) > MOST_SECONDS_TO_END else ""
    value = f"{np.median(ends):.1f} s (median)  {max(ends):.1f} s (most){slow}"
    _print_row("from the last step to the end", value)


def main(argv: list[str]) -> None:
    """Runs the benchmarks."""
    parser = program.ArgumentParser(prog="benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--model_name", default="mnasnet-a1")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--runs", type=int, default=10, help="of which the end is measured")
    arguments = parser.parse_args(argv[1:])
    if arguments.runs < 1:
        raise UserError(f"--runs={arguments.runs} must be at least 1.")
    with tempfile.TemporaryDirectory() as data_dir:
        make_data(data_dir)
        bench_training(
            data_dir, arguments.model_name, arguments.size, arguments.batch, arguments.steps
        )
        bench_end(data_dir, arguments.runs)


if __name__ == "__main__":
    program.run(main)
