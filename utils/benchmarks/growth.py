"""Measures how speed and memory grow with images, multipliers and batches: `make bench-growth`."""

from __future__ import annotations

import tempfile

from utils.base import program, tables
from utils.benchmarks import pictures as benchmark_pictures
from utils.benchmarks import speed, startup

NETWORK = "mnasnet-a1"
SIZE, MULTIPLIER, BATCH = 224, 1.0, 32
SIZES = (96, 128, 160, 192, 224, 256, 320)
MULTIPLIERS = (0.35, 0.5, 0.75, 1.0, 1.4)
BATCHES = (8, 16, 32, 64, 128)
_HEADER = ("pixels", "multiplier", "batch", "step s", "images/s", "memory GB")


def cases() -> list[tuple[int, float, int]]:
    """Returns (pixels, multiplier, batch) of each row: one of the three changes at a time."""
    found = [(size, MULTIPLIER, BATCH) for size in SIZES]
    found += [(SIZE, multiplier, BATCH) for multiplier in MULTIPLIERS]
    found += [(SIZE, MULTIPLIER, batch) for batch in BATCHES]
    return list(dict.fromkeys(found))


def main(argv: list[str]) -> None:
    """Prints the table, each row when it is measured."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.growth", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=8, help="training steps a row (default: 8)")
    arguments = parser.parse_args(argv[1:])
    print(f"{NETWORK}, float32, {speed.processor()}\n")
    print(tables.markdown_head(_HEADER, left=0), flush=True)
    with tempfile.TemporaryDirectory() as data_dir:
        benchmark_pictures.make_data(data_dir)
        for size, multiplier, batch in cases():
            run = startup.measure_training(
                data_dir, NETWORK, size, batch, arguments.steps, f"--depth_multiplier={multiplier}"
            )
            figures = (f"{run.step:.3f}", f"{batch / run.step:.1f}", f"{run.peak / 1e9:.2f}")
            cells = (str(size), str(multiplier), str(batch), *figures)
            print(tables.markdown_row(cells), flush=True)


if __name__ == "__main__":
    program.run(main)
