"""Draws mnasnet_vs_mobilenetv2.png from the published tables and the measured latencies in data/.

python g3doc/plot_mnasnet_vs_mobilenetv2.py [OUTPUT.png]
"""

from __future__ import annotations

import pathlib
import sys

import cost_tables
import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

FOLDER = pathlib.Path(__file__).parent
MODELS = ((cost_tables.A1, "#1a6fb5", "o"), (cost_tables.MOBILENET_V2, "#d9731a", "s"))
AXES = (
    ("pixel1_ms", "Latency on a Pixel 1 phone (ms, log scale)", (5, 10, 20, 50, 100, 200)),
    ("madds_m", "Multiply-adds (millions, log scale)", (10, 20, 50, 100, 200, 500)),
    ("float32", "Latency measured here, float32 file (ms, log scale)", (0.5, 1, 2, 5, 10, 20)),
    ("int8", "Latency measured here, int8 file (ms, log scale)", (0.5, 1, 2, 5, 10, 20)),
)


def draw(path: str | pathlib.Path) -> None:
    """Writes the picture: top-1 accuracy against latencies and against multiply-adds."""
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 9.2), sharey=True, layout="constrained")
    for panel, (cost, label, ticks) in zip(grid.flat, AXES, strict=True):
        for name, color, marker in MODELS:
            _draw_model(panel, cost_tables.with_latencies(name), cost, name, color, marker)
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
    for panel in grid[:, 0]:
        panel.set_ylabel("ImageNet top-1 accuracy (%), published")
    grid[0, 0].legend(loc="lower right", frameon=False)
    figure.suptitle(
        "MnasNet-A1 and MobileNetV2: every published image size (96 to 224) and depth multiplier "
        "(0.35 to 1.4);\nthe lines join the best of each model, labels name multiplier @ size",
        fontsize=10.5,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_model(panel, rows, cost, name, color, marker):
    best = cost_tables.frontier(rows, cost)
    panel.plot([r[cost] for r in best], [r["top1"] for r in best], color=color, linewidth=1.6)
    panel.scatter(
        [r[cost] for r in rows], [r["top1"] for r in rows],
        color=color, marker=marker, s=26, label=name, zorder=3, edgecolor="white", linewidth=0.5,
    )  # fmt: skip
    above = name == cost_tables.A1
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
