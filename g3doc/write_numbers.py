"""Writes g3doc/numbers.md: the published table of MnasNet-A1 next to what this package computes.

python -m g3doc.write_numbers          # writes the page
python -m g3doc.write_numbers --check  # exits with status 1 if the page is out of date
"""

from __future__ import annotations

import csv
import functools
import os

from utils import complexity
from utils.base import files, program, tables
from utils.base.errors import UserError

FOLDER = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(FOLDER, "data", "mnasnet_a1_published.csv")
OUTPUT = os.path.join(FOLDER, "numbers.md")

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
    "image size", "depth multiplier", "top-1 %", "top-5 %", "Pixel 1 ms", "parameters M",
    "**parameters**", "multiply-adds M", "**multiply-adds M**", "**difference**",
)  # fmt: skip
_TAIL = """

- Multiply-adds: {definition}. Convolutions and dense layers alone lie 0.9 to 2.4 % under the
  published figures.
- The published source prints the top-1 accuracy of 160, 0.35 as 52.3 in one place and 59.3 in
  another; 59.3 agrees with its top-5 accuracy.
- The published 68 M multiply-adds of mnasnet-small are those of its layers alone.

Other networks at an image size of 224 (accuracies quoted, the rest computed):

"""
_OTHER_COLUMNS = ("network", "top-1 %", "parameters", "multiply-adds M", "of layers alone M")
# Accuracies as published; none is published for the other two.
_OTHERS = {"mnasnet-b1": "74.4", "mnasnet-small": "66", "mnasnet-d1": "", "mnasnet-d1-320": ""}


def rows() -> list[dict[str, str]]:
    """Returns the published table: one dict a row, column name -> text.

    Raises:
      UserError: the table is missing, because this is not a clone of the repository.
    """
    if not os.path.exists(TABLE):
        raise UserError(f"{TABLE} is missing: this command runs in a clone of the repository.")
    with open(TABLE) as f:
        return list(csv.DictReader(f))


@functools.cache
def network(model_name: str, depth_multiplier: float | None = None) -> complexity.Network:
    """Returns a built-in network, which is built only once."""
    return complexity.build({"model_name": model_name, "depth_multiplier": depth_multiplier})


def markdown() -> str:
    """Returns the content of numbers.md."""
    published = tables.markdown(_COLUMNS, [_row(row) for row in rows()], left=0)
    tail = _TAIL.format(definition=complexity.DEFINITIONS["multiply_adds"])
    others = tables.markdown(_OTHER_COLUMNS, [_other(*pair) for pair in _OTHERS.items()])
    return f"{_HEAD}{published}{tail}{others}\n"


def _row(row: dict[str, str]) -> list[str]:
    multiplier = float(row["depth_multiplier"])
    figures = network("mnasnet-a1", multiplier).measure(int(row["image_size"]))
    computed, printed = figures.multiply_adds / 1e6, float(row["madds_m"])
    return [
        row["image_size"], row["depth_multiplier"], row["top1"], row["top5"], row["pixel1_ms"],
        row["params_m"], f"{figures.parameters:,}", row["madds_m"], f"{computed:.1f}",
        f"{round(100 * (computed / printed - 1), 2) + 0.0:+.2f} %",  # no -0.00
    ]  # fmt: skip


def _other(name: str, accuracy: str) -> list[str]:
    figures = network(name).measure(224)
    return [
        name, accuracy or "-", f"{figures.parameters:,}", f"{figures.multiply_adds / 1e6:.1f}",
        f"{figures.layer_multiply_adds / 1e6:.1f}",
    ]  # fmt: skip


def main(argv: list[str]) -> None:
    """Writes the page, or compares it with what would be written."""
    parser = program.ArgumentParser(
        prog="python -m g3doc.write_numbers", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the page instead of writing it"
    )
    parser.add_argument("--output", default=OUTPUT, help="file to write or compare")
    flags = parser.parse_args(argv[1:])
    content = markdown()
    if flags.check:
        compare(flags.output, content)
    else:
        files.write_text(flags.output, content)


def compare(path: str, content: str) -> None:
    """Raises UserError if a file is missing or has another content."""
    if not os.path.exists(path) or files.read_text(path) != content:
        raise UserError(f"{path} is out of date: run make numbers.")


if __name__ == "__main__":
    program.run(main)
