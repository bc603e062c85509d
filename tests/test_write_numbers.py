"""Tests of the page of published numbers and of its picture."""

import pathlib

import plots
import pytest
import write_numbers
from PIL import Image

from g3doc import cost_tables

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def content():
    return write_numbers.markdown()


def test_numbers_md_is_up_to_date(content):
    assert (ROOT / "g3doc/numbers.md").read_text() == content


def test_every_published_row_is_there(content):
    for row in cost_tables.texts(cost_tables.A1):
        start = " | ".join(
            row[name]
            for name in ("image_size", "depth_multiplier", "top1", "top5", "pixel1_ms", "params_m")
        )
        assert content.count(f"| {start} |") == 1


@pytest.mark.parametrize("model", cost_tables.PUBLISHED)
def test_every_published_accuracy_has_measured_latencies(model):
    rows = cost_tables.with_latencies(model)
    assert len(rows) == len(cost_tables.published(model)) > 20
    assert all(row[kind] > 0 for row in rows for kind in cost_tables.KINDS)
    machine = cost_tables.measurement()["machine"]
    assert machine["processor"] and machine["threads"] == 1


def test_gains_are_taken_at_the_same_cost():
    theirs = [{"ms": 1, "top1": 50}, {"ms": 4, "top1": 60}, {"ms": 3, "top1": 40}]
    ours = [{"ms": 2, "top1": 58}, {"ms": 4, "top1": 59}, {"ms": 3, "top1": 57}]
    # Half of the way from 1 to 4 on a log scale; 3 is worse than a cheaper one of ours.
    assert write_numbers.gains("ms", ours, theirs) == pytest.approx([58 - 55, 59 - 60])
    # Neither cheaper nor more costly than all of theirs.
    assert write_numbers.gains("ms", [{"ms": 5, "top1": 70}, {"ms": 0.5, "top1": 1}], theirs) == []


def test_picture_is_drawn_from_the_tables(tmp_path):
    """The same pixels from the same version of matplotlib, the same things from another."""
    path = tmp_path / "drawn.png"
    plots.draw_networks(path)
    drawn, kept = Image.open(path), Image.open(ROOT / "g3doc/mnasnet_vs_mobilenetv2.png")
    assert drawn.size == kept.size and drawn.size[0] > 1200
    colors = {color: count for count, color in drawn.convert("RGB").getcolors(1 << 20)}
    # Both models' colors, on points and lines.
    assert colors[(0x1A, 0x6F, 0xB5)] > 1000 and colors[(0xD9, 0x73, 0x1A)] > 1000
    if drawn.info["Software"] == kept.info["Software"]:
        assert drawn.tobytes() == kept.tobytes()
