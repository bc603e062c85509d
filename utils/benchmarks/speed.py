"""Measures what users wait for: `python -m utils.benchmarks.speed`, `make bench`.

Every figure is the median of some turns, with the least and the most; each turn is a process of its
own, as a user would start it. The first line names the processor, without which no figure tells
anything.
"""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from utils.base import memory, program
from utils.base.errors import UserError
from utils.benchmarks import input as input_benchmark
from utils.benchmarks import pictures as benchmark_pictures
from utils.benchmarks import startup

A1 = ("mnasnet-a1", 224, 32)  # network, side of the images, batch
# The end of a training depends on the input, not on the network, so a small network is enough.
SMALL = ("mnasnet-small", 64, 16)
END_STEPS = 40
# As `make finetune`: 128 pixels, batches of 32, an evaluation every 40 steps.
TUNED = ("mnasnet-a1", 128, 32)
INTERVAL, INTERVALS = 40, 3
_EXPORTS = ("--post_quantize=True", "--quantize=float16,int8")


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Returns the name of the processor, whether it has AVX-512, and the cores of this process."""
    name, wide = platform.processor() or platform.machine(), False
    if os.path.exists(cpuinfo):
        lines = pathlib.Path(cpuinfo).read_text("utf-8").splitlines()
        parts = (line.partition(":") for line in lines)
        values = {key.strip(): value.strip() for key, _, value in parts}
        name = values.get("model name", name)
        wide = "avx512f" in values.get("flags", "").split()
    return f"{name}, {'AVX-512' if wide else 'no AVX-512'}, {memory.cores()} cores"


def row(what: str, values: Sequence[float], unit: str, digits: int = 1) -> str:
    """Formats the median of some turns, the least and the most."""
    middle, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"  {what:<46} {middle:>7} {unit}  ({least} to {most})"


def _print(what: str, values: Sequence[float], unit: str, digits: int = 1) -> None:
    print(row(what, values, unit, digits), flush=True)


def seconds_of(command: Sequence[str]) -> float:
    """Runs a command of this package; returns the seconds that it took.

    Raises:
      UserError: it failed.
    """
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        cwd=benchmark_pictures.ROOT, check=False,
    )  # fmt: skip
    taken = time.monotonic() - start
    if done.returncode != 0:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return taken


def _bench_training(data_dir: str, steps: int, turns: int) -> None:
    runs = [startup.measure_training(data_dir, *A1, steps) for _ in range(turns)]
    print("mnasnet-a1 at 224, batch 32, float32", flush=True)
    _print("from the command to the end of step 1", [run.first for run in runs], "s")
    _print("training step", [run.step for run in runs], "s", 3)
    _print("training", [A1[2] / run.step for run in runs], "images/s")
    _print("peak memory", [run.peak / 1e9 for run in runs], "GB", 2)


def _bench_intervals(data_dir: str, turns: int) -> None:
    steps = INTERVAL * INTERVALS
    flags = ("--mode=train_and_eval", f"--steps_per_eval={INTERVAL}", "--eval_batch_size=128")
    runs = [startup.measure_training(data_dir, *TUNED, steps, *flags) for _ in range(turns)]
    print(f"mnasnet-a1 at 128, {INTERVALS} times {INTERVAL} steps of 32 and an evaluation")
    _print("the whole run", [run.whole for run in runs], "s")
    outside = [100 * (1 - steps * run.step / run.whole) for run in runs]
    _print("share of it outside the steps", outside, "%")


def _bench_commands(model_dir: str, turns: int) -> None:
    print("commands", flush=True)
    for what in ("--help", "--helpfull", "--wrong=1"):
        command = [startup.PROGRAM, what]
        _print(f"mnasnet_main.py {what}", [_ended(command) for _ in range(turns)], "s", 2)
    _print(
        "python -m utils.classify --help",
        [_ended(["-m", "utils.classify", "--help"]) for _ in range(turns)], "s", 2,
    )  # fmt: skip
    picture = os.path.join(benchmark_pictures.IMAGES_DIR, "chelsea.jpg")
    file = os.path.join(model_dir, "export", f"{SMALL[0]}.tflite")
    command = ["-m", "utils.classify", f"--model={file}", picture]
    _print("python -m utils.classify", [seconds_of(command) for _ in range(turns)], "s", 2)


def _ended(command: Sequence[str]) -> float:
    """Returns the seconds of a command that may refuse its flags."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, *command], capture_output=True, cwd=benchmark_pictures.ROOT, check=False
    )
    return time.monotonic() - start


def _bench_export(data_dir: str, model_dir: str, turns: int) -> None:
    """Exports five files; the training of two steps before it is not measured."""
    common = (
        startup.PROGRAM, f"--data_dir={data_dir}", f"--model_dir={model_dir}",
        f"--model_name={SMALL[0]}", "--input_image_size=224", "--use_tpu=False",
    )  # fmt: skip
    seconds_of((*common, "--mode=train", "--train_steps=2", "--train_batch_size=16"))
    exporting = (*common, "--mode=export_only", f"--export_dir={model_dir}/export", *_EXPORTS)
    times = [seconds_of(exporting) for _ in range(turns)]
    _print("export of mnasnet-small in five forms", times, "s")


def _bench_end(data_dir: str, turns: int) -> None:
    runs = [startup.measure_training(data_dir, *SMALL, END_STEPS) for _ in range(turns)]
    _print("from the last step to the end", [run.end for run in runs], "s")


def _bench_input(data_dir: str, turns: int) -> None:
    print("input at 224 from JPEGs of 500 x 375", flush=True)
    for name, measured in input_benchmark.measure(data_dir, 224, turns, seconds=4).items():
        _print(name, measured.rates, "images/s", 0)


def main(argv: list[str]) -> None:
    """Runs the benchmarks and prints their figures."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=12, help="training steps (default: 12)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each (default: 3)")
    arguments = parser.parse_args(argv[1:])
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns} is invalid: it must be at least 1.")
    if arguments.steps < 4:
        raise UserError(f"--steps={arguments.steps} is invalid: it must be at least 4.")
    turns = arguments.turns
    print(processor(), flush=True)
    with tempfile.TemporaryDirectory() as data_dir, tempfile.TemporaryDirectory() as model_dir:
        benchmark_pictures.make_data(data_dir)
        parts: list[Callable[[], None]] = [
            lambda: _bench_training(data_dir, arguments.steps, turns),
            lambda: _bench_intervals(data_dir, max(1, turns - 1)),
            lambda: _bench_input(data_dir, turns),
            lambda: print("mnasnet-small", flush=True),
            lambda: _bench_end(data_dir, turns),
            lambda: _bench_export(data_dir, model_dir, max(1, turns - 1)),
            lambda: _bench_commands(model_dir, turns),
        ]
        for part in parts:
            part()


if __name__ == "__main__":
    program.run(main)
