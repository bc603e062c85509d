"""Writes g3doc/numbers.md, `make numbers`: what is published, and what this package computes."""

from __future__ import annotations

import functools
import itertools
import math
import os

from g3doc import cost_tables
from utils import complexity
from utils.base import files, program
from utils.exporting import measure

_HEAD = """\
# Published numbers

<!-- Written by `make numbers`; a test compares. -->

This page is for you if you choose a network, or want to know whether this package's networks are
the published ones.

![Accuracy against latency and multiply-adds](mnasnet_vs_mobilenetv2.png)

MnasNet-A1 on ImageNet (Tan et al., arXiv:1807.11626): five image sizes and five depth multipliers.
This package computes the columns **in bold** (`python -m utils.complexity`). They agree with the
published columns next to them: parameters to the printed digit, multiply-adds within 0.5 %, and a
test checks every row. Accuracy and latency are quoted, because they need a full training on
ImageNet and a Pixel 1 phone. Neither was repeated here.

"""
_COLUMNS = (
    "image size",
    "depth multiplier",
    "top-1 %",
    "top-5 %",
    "Pixel 1 ms",
    "parameters M",
    "**parameters**",
    "multiply-adds M",
    "**multiply-adds M**",
    "**difference**",
)
_TAIL = """

- Multiply-adds: {definition}. Convolutions and dense layers alone lie 0.9 to 2.4 % under the
  published figures.
- The published source prints the top-1 accuracy of 160, 0.35 as 52.3 in one place and 59.3 in
  another; 59.3 agrees with its top-5 accuracy.
- The published 68 M multiply-adds of mnasnet-small are those of its layers alone.

Other networks at an image size of 224 (accuracies quoted, the rest computed):

"""
_OTHER_COLUMNS = ("network", "top-1 %", "parameters", "multiply-adds M", "of layers alone M")
_MEASURED = """

## Latency measured here

The lower half of the picture has the same accuracies against latencies that were measured for this
page on {date}: the median of {rounds} runs in turns,
{machine}.
Weights were random. MobileNetV2 is that of `tf.keras.applications`; both networks normalize the
pixels themselves. `python -m g3doc.measure_latency` repeats the measurement.

**At the same latency A1 is the more accurate network on this processor, too**, by about as much as
on the Pixel 1. It is worse at none of the latencies that were compared; its advantage is smallest
below 2 ms.

- The times are those of the thread itself. Other programs kept the cores busy meanwhile, which
  slows every network: on a quiet machine the float32 file of A1 at 224 takes 4.8 ms
  ([export](export.md)).
- Accuracies are those published for float32. What int8 costs each model was not measured here.
- With this interpreter int8 is faster than float32 at 96 pixels, but hardly at 224, where it is
  slower for multipliers of 0.75 and less.

Each row compares the best networks of A1, the points of its line in the picture, with the line of
MobileNetV2 at the same cost; the gain is in points of top-1:

{gains}

All networks at an image size of 224:

{all_rows}
"""
_COSTS = {
    "pixel1_ms": "ms on a Pixel 1, published",
    "madds_m": "multiply-adds, published",
    "float32": "ms here, float32 file",
    "int8": "ms here, int8 file",
}
_GAIN_COLUMNS = ("cost", "networks", "least gain", "mean gain", "greatest gain")
_LATENCY_COLUMNS = ("network", "depth multiplier", "top-1 %", "Pixel 1 ms", "float32 ms", "int8 ms")
# Accuracies as published; none is published for the other two.
_OTHERS = {"mnasnet-b1": "74.4", "mnasnet-small": "66", "mnasnet-d1": "", "mnasnet-d1-320": ""}


@functools.cache
def network(model_name: str, depth_multiplier: float | None = None) -> complexity.Network:
    """Returns a built-in network, which is built only once."""
    return complexity.build({"model_name": model_name, "depth_multiplier": depth_multiplier})


def markdown() -> str:
    """Returns the content of numbers.md."""
    published = program.markdown(
        _COLUMNS, [_row(row) for row in cost_tables.texts(cost_tables.A1)], left=0
    )
    tail = _TAIL.format(definition=complexity.DEFINITIONS["multiply_adds"])
    others = program.markdown(_OTHER_COLUMNS, [_other(*pair) for pair in _OTHERS.items()])
    return f"{_HEAD}{published}{tail}{others}{_measured()}"


def _row(row: dict[str, str]) -> list[str]:
    multiplier = float(row["depth_multiplier"])
    figures = network("mnasnet-a1", multiplier).measure(int(row["image_size"]))
    computed, printed = figures.multiply_adds / 1e6, float(row["madds_m"])
    return [
        row["image_size"],
        row["depth_multiplier"],
        row["top1"],
        row["top5"],
        row["pixel1_ms"],
        row["params_m"],
        f"{figures.parameters:,}",
        row["madds_m"],
        f"{computed:.1f}",
        f"{round(100 * (computed / printed - 1), 2) + 0.0:+.2f} %",  # no -0.00
    ]


def _other(name: str, accuracy: str) -> list[str]:
    figures = network(name).measure(224)
    return [
        name,
        accuracy or "-",
        f"{figures.parameters:,}",
        f"{figures.multiply_adds / 1e6:.1f}",
        f"{figures.layer_multiply_adds / 1e6:.1f}",
    ]


def _measured() -> str:
    """Returns the chapter of the latencies measured here."""
    found = cost_tables.measurement()
    rows = {model: cost_tables.with_latencies(model) for model in cost_tables.PUBLISHED}
    gains = [_gain_row(cost, *rows.values()) for cost in _COSTS]
    all_rows = [
        [
            model,
            f"{row['depth_multiplier']:g}",
            f"{row['top1']:.1f}",
            f"{row['pixel1_ms']:g}",
            *(f"{row[kind]:.2f}" for kind in cost_tables.KINDS),
        ]
        for model in rows
        for row in rows[model]
        if row["image_size"] == 224
    ]
    return _MEASURED.format(
        date=found["date"],
        rounds=found["rounds"],
        machine=measure.describe_machine(found["machine"]),
        gains=program.markdown(_GAIN_COLUMNS, gains),
        all_rows=program.markdown(_LATENCY_COLUMNS, all_rows),
    )


def _gain_row(cost: str, ours: list[cost_tables.Row], theirs: list[cost_tables.Row]) -> list[str]:
    found = gains(cost, ours, theirs)
    mean = sum(found) / len(found)
    return [_COSTS[cost], str(len(found)), *(f"{v:+.1f}" for v in (min(found), mean, max(found)))]


def gains(cost: str, ours: list[cost_tables.Row], theirs: list[cost_tables.Row]) -> list[float]:
    """Returns how much more accurate the best of our networks are at the cost of each.

    Between two of their best networks the accuracy is taken along the logarithm of the cost.
    Networks of ours that are cheaper or more costly than all of theirs are left out.
    """
    line = cost_tables.frontier(theirs, cost)
    found = []
    for row in cost_tables.frontier(ours, cost):
        for low, high in itertools.pairwise(line):
            if low[cost] <= row[cost] <= high[cost]:
                share = math.log(row[cost] / low[cost]) / math.log(high[cost] / low[cost])
                found.append(row["top1"] - low["top1"] - share * (high["top1"] - low["top1"]))
                break
    return found


def main(argv: list[str]) -> None:
    """Writes the page."""
    files.write_text(os.path.join(os.path.dirname(__file__), "numbers.md"), markdown())


if __name__ == "__main__":
    program.run(main)
