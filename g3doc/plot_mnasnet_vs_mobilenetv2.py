"""Draws mnasnet_vs_mobilenetv2.png from the published tables in data/.

python g3doc/plot_mnasnet_vs_mobilenetv2.py [OUTPUT.png]
"""

from __future__ import annotations

import csv
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

FOLDER = pathlib.Path(__file__).parent
MODELS = (
    ("MnasNet-A1", "mnasnet_a1_published.csv", "#1a6fb5", "o"),
    ("MobileNetV2", "mobilenet_v2_published.csv", "#d9731a", "s"),
)
AXES = (
    ("pixel1_ms", "Latency on a Pixel 1 phone (ms, log scale)", (5, 10, 20, 50, 100, 200)),
    ("madds_m", "Multiply-adds (millions, log scale)", (10, 20, 50, 100, 200, 500)),
)


def read(name: str) -> list[dict[str, float]]:
    """Reads the rows of a table in data/ as numbers."""
    with (FOLDER / "data" / name).open() as f:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(f)]


def frontier(rows: list[dict[str, float]], cost: str) -> list[dict[str, float]]:
    """Returns the rows that are more accurate than every cheaper row, from cheap to costly."""
    best: list[dict[str, float]] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["top1"])):
        if not best or row["top1"] > best[-1]["top1"]:
            best.append(row)
    return best


def draw(path: str | pathlib.Path) -> None:
    """Writes the picture: top-1 accuracy against latency and against multiply-adds."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    for panel, (cost, label, ticks) in zip(panels, AXES, strict=True):
        for name, table, color, marker in MODELS:
            _draw_model(panel, read(table), cost, name, color, marker)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.set_xlabel(label)
        # Leave room for the last labels.
        panel.set_xlim(right=1.7 * panel.dataLim.x1)
        panel.grid(True, color="0.88")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ImageNet top-1 accuracy (%)")
    panels[0].legend(loc="lower right", frameon=False)
    figure.suptitle(
        "MnasNet-A1 and MobileNetV2: every published image size (96 to 224) and depth multiplier "
        "(0.35 to 1.4);\nthe lines join the best of each model, labels name multiplier @ size",
        fontsize=10.5,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_model(panel, rows, cost, name, color, marker):
    best = frontier(rows, cost)
    panel.plot([r[cost] for r in best], [r["top1"] for r in best], color=color, linewidth=1.6)
    panel.scatter(
        [r[cost] for r in rows], [r["top1"] for r in rows],
        color=color, marker=marker, s=26, label=name, zorder=3, edgecolor="white", linewidth=0.5,
    )  # fmt: skip
    above = name == "MnasNet-A1"
    for row in rows:
        # The label of 1.3, which only MobileNetV2 has, would hide that of 1.4.
        if row["image_size"] == 224 and row in best and row["depth_multiplier"] != 1.3:
            panel.annotate(
                f"{row['depth_multiplier']:g} @ 224",
                (row[cost], row["top1"]),
                textcoords="offset points",
                xytext=(-6, 5) if above else (7, -11),
                ha="right" if above else "left",
                fontsize=8,
                color=color,
            )


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else FOLDER / "mnasnet_vs_mobilenetv2.png")
