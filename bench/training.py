"""Sections about trainings, which are processes of their own, as a user would start them."""

from __future__ import annotations

import functools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from bench import measuring
from utils.base.errors import UserError

_FIRST_STEPS = 5  # prepare what the others run


def step(folder: str, turns: int) -> None:
    """Measures start, step, end and memory of trainings with much and with little computation."""
    run = functools.partial(train, f"--data_dir={measuring.make_data(folder)}", steps=16)
    works = {
        "mnasnet-a1 at 224, batch 32": functools.partial(run, *_network("mnasnet-a1", 224, 32)),
        "mnasnet-small at 64, batch 16": functools.partial(run, *_network("mnasnet-small", 64, 16)),
    }
    measuring.compare("A training in float32", works, turns)


def intervals(folder: str, turns: int) -> None:
    """Measures what three evaluations add to a training, with the sizes of `make finetune`."""
    flags = (
        f"--data_dir={measuring.make_data(folder)}",
        *_network("mnasnet-a1", 128, 32),
        "--steps_per_eval=40",
        "--eval_batch_size=128",
    )
    works = {
        mode: functools.partial(train, *flags, f"--mode={mode}", steps=120)
        for mode in ("train", "train_and_eval")
    }
    measuring.compare("mnasnet-a1 at 128, 120 steps of 32", works, turns)


def growth(folder: str, turns: int) -> None:
    """Measures other image sizes, multipliers and batches; one of the three changes at a time."""
    data = f"--data_dir={measuring.make_data(folder)}"
    size, multiplier, batch = 224, 1.0, 32
    cases = [(size, multiplier, batch)]
    cases += [(other, multiplier, batch) for other in (96, 128, 160, 192, 256, 320)]
    cases += [(size, other, batch) for other in (0.35, 0.5, 0.75, 1.4)]
    cases += [(size, multiplier, other) for other in (8, 16, 64, 128)]
    works = {
        f"{size} pixels, multiplier {multiplier}, batch {batch}": functools.partial(
            train, data, *_network("mnasnet-a1", size, batch), f"--depth_multiplier={multiplier}"
        )
        for size, multiplier, batch in cases
    }
    measuring.compare("mnasnet-a1 in float32", works, turns)


def workers(folder: str, turns: int) -> None:
    """Measures steps of several workers, which share the cores of this machine.

    The ratio tells what the exchange costs here, not how a training speeds up.
    """
    flags = ("--data_dir=null", *_network("mnasnet-small", 32, 32), "--num_label_classes=10")
    limits = ("--max_restarts=0", "--step_timeout=150")
    works = {
        name: functools.partial(train, *flags, *limits, *more, steps=40)
        for name, *more in (
            ("1 worker", "--num_workers=1"),
            ("2 workers", "--num_workers=2"),
            ("4 workers", "--num_workers=4"),
            ("2 workers, synchronized", "--num_workers=2", "--sync_batch_norm"),
        )
    }
    measuring.compare("mnasnet-small at 32, 32 images a step over all workers", works, turns)


def _network(name: str, size: int, batch: int) -> tuple[str, ...]:
    return (
        f"--model_name={name}",
        f"--input_image_size={size}",
        f"--train_batch_size={batch}",
    )


def train(*flags: str, steps: int = 12) -> dict[str, float]:
    """Runs a training in a process of its own; returns its figures.

    Args:
      flags: of the program, with the size of the batch.
      steps: of the training.

    Raises:
      UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as model_dir:
        start = time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable,
                measuring.ROOT / "mnasnet_main.py",
                "--mode=train",
                "--use_tpu=False",
                f"--model_dir={model_dir}",
                f"--train_steps={steps}",
                "--log_step_count_steps=1",
                *flags,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        times, lines = [], []
        for line in process.stderr or ():
            lines.append(line)
            if re.search(r"train step \d+/", line):
                times.append(time.monotonic())
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic()
    if status != 0 or len(times) < 2 * _FIRST_STEPS:
        raise UserError("The training failed: " + "".join(lines[-3:]).strip())
    return {
        "step s": statistics.median(np.diff(times[_FIRST_STEPS:])),
        "to step 1 s": times[0] - start,
        "after the last step s": ended - times[-1],
        "whole s": ended - start,
        "memory GB": usage.ru_maxrss * 1024 / 1e9,
    }
