"""Measures trainings as a user would start them: start, step, memory, end, intervals.

Every training is a process of its own, on 500 x 375 JPEGs made of the pictures in
tests/golden/images.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from utils.base.errors import UserError
from utils.benchmarks import pictures as benchmark_pictures

PROGRAM = os.path.join(benchmark_pictures.ROOT, "mnasnet_main.py")


class Training(NamedTuple):
    """Holds the figures of one training.

    Attributes:
      first: seconds from the command to the end of the first step.
      step: seconds a step, the median.
      end: seconds from the last step to the end of the process.
      peak: peak memory in bytes.
      whole: seconds from the command to the end of the process.
    """

    first: float
    step: float
    end: float
    peak: int
    whole: float


def measure_training(
    data_dir: str, model_name: str, size: int, batch: int, steps: int, *more: str
) -> Training:
    """Runs a training in a process of its own.

    Args:
      data_dir: its data set.
      model_name: its network.
      size: side of the images.
      batch: images a step.
      steps: number of them.
      more: further flags.

    Raises:
      UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            sys.executable, PROGRAM, "--mode=train",
            f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--model_name={model_name}",
            f"--input_image_size={size}", f"--train_batch_size={batch}", f"--train_steps={steps}",
            "--log_step_count_steps=1", "--use_tpu=False", *more,
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
    return Training(times[0], step, ended - times[-1], usage.ru_maxrss * 1024, ended)
