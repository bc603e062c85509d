"""Draws finetune_vs_scratch.png from the evaluations of two trainings.

python g3doc/plot_finetune_vs_scratch.py FINE_TUNED_MODEL_DIR FROM_SCRATCH_MODEL_DIR [OUTPUT.png]
"""

from __future__ import annotations

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

FOLDER = pathlib.Path(__file__).parent
GOAL = 95
LOOKS = (("from ImageNet weights", "#1a6fb5", "o"), ("from scratch", "#d9731a", "s"))


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


def draw(tuned: str, scratch: str, path: str | pathlib.Path) -> None:
    """Writes the picture: validation top-1 against wall time."""
    figure, panel = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    panel.axhline(GOAL, color="0.6", linewidth=1, linestyle="--")
    ends = []
    for model_dir, (name, color, marker) in zip((tuned, scratch), LOOKS, strict=True):
        seconds, top_1 = read(model_dir)
        panel.plot(seconds, top_1, color=color, marker=marker, markersize=5, label=name)
        panel.annotate(
            f"{top_1[-1]:.1f} %", (seconds[-1], top_1[-1]), textcoords="offset points",
            xytext=(7, 3), color=color, fontsize=9,
        )  # fmt: skip
        ends.append(seconds[-1])
    panel.annotate(
        f"{GOAL} %", (0, GOAL), textcoords="offset points", xytext=(4, -11), color="0.4", fontsize=9
    )
    panel.set_xlim(0, 1.12 * max(ends))
    panel.set_ylim(0, 102)
    panel.set_xlabel("Wall time since the start of the program (s, 2 cores)")
    panel.set_ylabel("Validation top-1 (%)")
    panel.set_title(
        "EfficientNet-Lite0 on 11 classes of natural pictures, 40 pictures a class", fontsize=10.5
    )
    panel.grid(True, color="0.88")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="upper left", bbox_to_anchor=(0.02, 0.82), frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """Draws what the arguments name; without two model folders, prints how to call the script."""
    if len(argv) not in (2, 3):
        sys.exit((__doc__ or "").strip())
    draw(argv[0], argv[1], argv[2] if len(argv) == 3 else FOLDER / "finetune_vs_scratch.png")


if __name__ == "__main__":
    main(sys.argv[1:])
