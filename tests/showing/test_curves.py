"""The curves of a training, from event files as TensorFlow writes them."""

import json

import pytest

from utils.showing import figures

import tensorflow.compat.v1 as tf


def write_events(folder, suffix, start, rows):
    """Writes an event file; rows are (step, seconds after the start, tag, value)."""
    path = str(folder / f"events.out.tfevents.{suffix}")
    with tf.io.TFRecordWriter(path) as writer:
        for step, seconds, tag, value in rows:
            shown = tf.Summary.Value(tag=tag)
            if isinstance(value, float):
                shown.simple_value = value
            else:
                shown.tensor.CopyFrom(tf.make_tensor_proto(value))
            event = tf.Event(step=step, wall_time=start + seconds, summary={"value": [shown]})
            writer.write(event.SerializeToString())
    return path


def write_evaluations(folder, *rows):
    fields = ("global_step", "top_1_accuracy", "top_5_accuracy", "cross_entropy", "seconds")
    content = [dict(zip(fields, row, strict=True)) for row in rows]
    (folder / "evaluations.json").write_text(json.dumps(content))


def test_a_folder_without_a_training(tmp_path):
    assert figures.read_curves(str(tmp_path)) is None


def test_the_points_of_a_run(tmp_path):
    write_events(
        tmp_path,
        "100",
        100,
        [
            (1, 0, "loss", 3.0),
            (1, 0, "learning_rate", 0.25),
            (11, 8, "loss", 2.0),
            (11, 8, "other", 7.0),
        ],
    )
    write_evaluations(tmp_path, (6, 0.5, 0.75, 2.5, 99.0))
    found = figures.read_curves(str(tmp_path))
    assert found["series"] == {"loss": [(1, 0, 3), (11, 8, 2)], "learning_rate": [(1, 0, 0.25)]}
    assert found["evaluations"] == [
        {"step": 6, "seconds": 4, "top_1": 0.5, "top_5": 0.75, "cross_entropy": 2.5}
    ]


def test_a_resumed_run_goes_on_without_the_pause(tmp_path):
    """What was trained after the last checkpoint, and trained again, counts once."""
    write_events(
        tmp_path,
        "100",
        100,
        [
            (0, 0, "loss", 5.0),
            (10, 10, "loss", 4.0),
            (20, 20, "loss", 3.0),
        ],
    )
    write_events(tmp_path, "900", 90_000, [(15, 0, "loss", 3.5), (25, 10, "loss", 2.5)])
    found = figures.read_curves(str(tmp_path))["series"]["loss"]
    assert found == [(0, 0, 5), (10, 10, 4), (15, 20, 3.5), (25, 30, 2.5)]


def test_values_of_a_tpu(tmp_path):
    """Its host writes summaries of TensorFlow 2, of vectors."""
    write_events(tmp_path, "1", 0, [(5, 1, "loss", [2.0, 4.0])])
    assert figures.read_curves(str(tmp_path))["series"] == {"loss": [(5, 0, 3)]}


def test_a_file_that_a_kill_cut_off(tmp_path):
    path = write_events(tmp_path, "1", 0, [(5, 1, "loss", 2.0), (6, 2, "loss", 1.0)])
    with open(path, "rb") as f:
        content = f.read()
    with open(path, "wb") as f:
        f.write(content[:-7])
    assert figures.read_curves(str(tmp_path))["series"] == {"loss": [(5, 0, 2)]}


def test_numbers_that_no_chart_can_show(tmp_path):
    write_events(tmp_path, "1", 0, [(5, 1, "loss", float("nan")), (6, 2, "loss", 1.0)])
    assert figures.read_curves(str(tmp_path))["series"] == {"loss": [(6, 0, 1)]}


def test_a_long_training_has_few_points(tmp_path):
    rows = [(step, step, "loss", float(step % 2)) for step in range(4000)]
    write_events(tmp_path, "1", 0, rows)
    found = figures.read_curves(str(tmp_path))["series"]["loss"]
    assert len(found) == figures.MOST_CURVE_POINTS
    assert found[-1][:2] == (3999, 3999)
    assert all(value == pytest.approx(0.5) for *_, value in found)


def test_evaluations_without_event_files(tmp_path):
    write_evaluations(tmp_path, (20, 0.5, 0.75, 2.5, 9.5), (10, 0.25, 0.5, 3, 4.5))
    found = figures.read_curves(str(tmp_path))
    assert found["series"] == {}
    assert [(one["step"], one["seconds"]) for one in found["evaluations"]] == [(10, 4.5), (20, 9.5)]


def test_the_curves_of_a_real_training(trained):
    found = figures.read_curves(trained)
    assert set(found["series"]) == set(figures.CURVE_TAGS)
    assert [one["step"] for one in found["evaluations"]] == [10, 20]
    for points in found["series"].values():
        assert [step for step, *_ in points] == sorted({step for step, *_ in points})
        assert [seconds for _, seconds, _ in points] == sorted(seconds for _, seconds, _ in points)
