"""Draws the plots of the pages.

python g3doc/plots.py                                             # mnasnet_vs_mobilenetv2.png
python g3doc/plots.py FINE_TUNED_MODEL_DIR FROM_SCRATCH_MODEL_DIR  # finetune_vs_scratch.png
"""

from __future__ import annotations

import json
import pathlib
import sys

import cost_tables
import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

FOLDER = pathlib.Path(__file__).parent
LOOKS = (("#1a6fb5", "o"), ("#d9731a", "s"))
AXES = (
    ("pixel1_ms", "Latency on a Pixel 1 phone (ms, log scale)", (5, 10, 20, 50, 100, 200)),
    ("madds_m", "Multiply-adds (millions, log scale)", (10, 20, 50, 100, 200, 500)),
    ("float32", "Latency measured here, float32 file (ms, log scale)", (0.5, 1, 2, 5, 10, 20)),
    ("int8", "Latency measured here, int8 file (ms, log scale)", (0.5, 1, 2, 5, 10, 20)),
)


def draw_networks(path: pathlib.Path) -> None:
    """Writes the picture: top-1 accuracy against latencies and against multiply-adds."""
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 9.2), sharey=True, layout="constrained")
    for panel, (cost, label, ticks) in zip(grid.flat, AXES, strict=True):
        for name, look in zip(cost_tables.PUBLISHED, LOOKS, strict=True):
            _draw_network(panel, cost_tables.with_latencies(name), cost, name, *look)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.set_xlabel(label)
        # Leave room for the last labels.
        panel.set_xlim(right=1.7 * panel.dataLim.x1)
        _set_style(panel)
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


def _draw_network(panel, rows, cost, name, color, marker):
    best = cost_tables.frontier(rows, cost)
    panel.plot([r[cost] for r in best], [r["top1"] for r in best], color=color, linewidth=1.6)
    panel.scatter(
        [r[cost] for r in rows],
        [r["top1"] for r in rows],
        color=color,
        marker=marker,
        s=26,
        label=name,
        zorder=3,
        edgecolor="white",
        linewidth=0.5,
    )
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


def _set_style(panel):
    panel.grid(True, color="0.88")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def read(model_dir: str) -> tuple[list[float], list[float]]:
    """Reads the evaluations of a training: wall seconds since its start, and top-1 in percent.

    Raises:
      SystemExit: there are no evaluations, or they do not belong to one run.
    """
    path = pathlib.Path(model_dir) / "evaluations.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    seconds = [row.get("seconds", 0.0) for row in rows]
    if not rows or any(b <= a for a, b in zip([0.0, *seconds], seconds, strict=False)):
        sys.exit(f"error: {path} holds no evaluations of one uninterrupted training.")
    return seconds, [100 * row["top_1_accuracy"] for row in rows]


def draw_trainings(tuned: str, scratch: str, path: pathlib.Path) -> None:
    """Writes the picture: validation top-1 against wall time."""
    goal = 95
    figure, panel = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    panel.axhline(goal, color="0.6", linewidth=1, linestyle="--")
    ends = []
    names = {"from ImageNet weights": tuned, "from scratch": scratch}
    for (name, model_dir), (color, marker) in zip(names.items(), LOOKS, strict=True):
        seconds, top_1 = read(model_dir)
        panel.plot(seconds, top_1, color=color, marker=marker, markersize=5, label=name)
        panel.annotate(
            f"{top_1[-1]:.1f} %",
            (seconds[-1], top_1[-1]),
            textcoords="offset points",
            xytext=(7, 3),
            color=color,
            fontsize=9,
        )
        ends.append(seconds[-1])
    panel.annotate(
        f"{goal} %", (0, goal), textcoords="offset points", xytext=(4, -11), color="0.4", fontsize=9
    )
    panel.set_xlim(0, 1.12 * max(ends))
    panel.set_ylim(0, 102)
    panel.set_xlabel("Wall time since the start of the program (s, 2 cores)")
    panel.set_ylabel("Validation top-1 (%)")
    panel.set_title(
        "EfficientNet-Lite0 on 11 classes of natural pictures, 40 pictures a class", fontsize=10.5
    )
    _set_style(panel)
    panel.legend(loc="upper left", bbox_to_anchor=(0.02, 0.82), frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """Draws the networks, or the two trainings whose folders the arguments name."""
    if len(argv) == 2:
        draw_trainings(argv[0], argv[1], FOLDER / "finetune_vs_scratch.png")
    elif argv:
        sys.exit((__doc__ or "").strip())
    else:
        draw_networks(FOLDER / "mnasnet_vs_mobilenetv2.png")


if __name__ == "__main__":
    main(sys.argv[1:])
