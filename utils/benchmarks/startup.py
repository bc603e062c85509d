"""Measures start, step, memory and end of trainings: `make bench`.

Every training is a process of its own, as a user would start it, on 500 x 375 JPEGs made of the
pictures in tests/golden/images.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from utils.base import memory, program
from utils.base.errors import UserError
from utils.benchmarks import pictures as benchmark_pictures

# The end of a training depends on the input, not on the network, so a small network is enough.
END_MODEL, END_SIZE, END_BATCH, END_STEPS = "mnasnet-small", 64, 16, 40
MOST_SECONDS_TO_END = 3


class Training(NamedTuple):
    """Holds the figures of one training.

    Attributes:
      first: seconds from the command to the end of the first step.
      step: seconds a step, the median.
      end: seconds from the last step to the end of the process.
      peak: peak memory in bytes.
    """

    first: float
    step: float
    end: float
    peak: int


def measure_training(data_dir: str, model_name: str, size: int, batch: int, steps: int) -> Training:
    """Runs a training in a process of its own; UserError if it fails."""
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            sys.executable, os.path.join(benchmark_pictures.ROOT, "mnasnet_main.py"),
            "--mode=train",
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
    """Prints how long short trainings take from the last step to the end of the process."""
    print(f"{END_MODEL} at {END_SIZE}, {END_STEPS} steps of {END_BATCH}, {runs} runs", flush=True)
    measured = (END_MODEL, END_SIZE, END_BATCH, END_STEPS)
    ends = [measure_training(data_dir, *measured).end for _ in range(runs)]
    slow = f"  MORE THAN {MOST_SECONDS_TO_END} s" if max(ends) > MOST_SECONDS_TO_END else ""
    value = f"{np.median(ends):.1f} s (median)  {max(ends):.1f} s (most){slow}"
    _print_row("from the last step to the end", value)


def main(argv: list[str]) -> None:
    """Runs the benchmarks and prints their figures."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.startup", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model_name", default="mnasnet-a1", help="network (default: mnasnet-a1)")
    parser.add_argument("--size", type=int, default=224, help="side of the images (default: 224)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (default: 32)")
    parser.add_argument("--steps", type=int, default=24, help="training steps (default: 24)")
    parser.add_argument(
        "--runs", type=int, default=10, help="short trainings whose end is measured (default: 10)"
    )
    arguments = parser.parse_args(argv[1:])
    if arguments.runs < 1:
        raise UserError(f"--runs={arguments.runs} is invalid: it must be at least 1.")
    with tempfile.TemporaryDirectory() as data_dir:
        benchmark_pictures.make_data(data_dir)
        bench_training(
            data_dir, arguments.model_name, arguments.size, arguments.batch, arguments.steps
        )
        bench_end(data_dir, arguments.runs)


if __name__ == "__main__":
    program.run(main)
