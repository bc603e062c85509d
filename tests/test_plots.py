"""The plot of fine-tuning against training from scratch, drawn from evaluations."""

import json

import plots
import pytest
from PIL import Image


def write(folder, seconds):
    folder.mkdir()
    rows = [
        {"global_step": step, "top_1_accuracy": step / 10, "seconds": second}
        for step, second in enumerate(seconds, start=1)
    ]
    (folder / "evaluations.json").write_text(json.dumps(rows))
    return folder


def test_the_plot_is_drawn(tmp_path):
    tuned, scratch = write(tmp_path / "a", [10, 20.5]), write(tmp_path / "b", [15, 30])
    plots.draw_trainings(tuned, scratch, tmp_path / "plot.png")
    picture = Image.open(tmp_path / "plot.png").convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert {(0x1A, 0x6F, 0xB5), (0xD9, 0x73, 0x1A)} <= colours


@pytest.mark.parametrize("seconds", [[], [10, 5]])
def test_evaluations_that_make_no_curve_are_refused(seconds, tmp_path):
    # A training that was cut off and resumed counts its seconds anew.
    tuned, scratch = write(tmp_path / "a", [10, 20]), write(tmp_path / "b", seconds)
    with pytest.raises(SystemExit, match=r"b/evaluations\.json holds no evaluations of one unint"):
        plots.draw_trainings(tuned, scratch, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
