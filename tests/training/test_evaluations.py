"""Tests of `utils.training.evaluations`: what is recorded, and the best checkpoint."""

import json
import os
import pathlib

import pytest
from saved_checkpoints import save, value_of

from utils.base.errors import UserError
from utils.config import settings
from utils.training import checkpoints, evaluations


def metrics(step, accuracy):
    return {"global_step": step, "top_1_accuracy": accuracy, "images": 10}


def test_the_best_is_archived(model_dir):
    save(model_dir, 1, 2, 3, 4)
    paths = {step: os.path.join(model_dir, f"model.ckpt-{step}") for step in (1, 2, 3, 4)}
    assert evaluations.best(model_dir) is None
    archived = [
        evaluations.archive_if_best(model_dir, paths[step], metrics(step, accuracy))
        for step, accuracy in ((1, 0.2), (2, 0.5), (3, 0.4), (4, 0.5))
    ]
    assert archived == [True, True, False, False]
    best = evaluations.best(model_dir)
    assert best["global_step"] == 2
    assert best["top_1_accuracy"] == 0.5
    assert value_of(best["checkpoint"]) == 2
    archive = os.path.join(model_dir, "archive")
    assert checkpoints.latest(archive) == best["checkpoint"]
    assert sorted(os.listdir(archive)) == [
        "best.json",
        "checkpoint",
        "model.ckpt-2.data-00000-of-00001",
        "model.ckpt-2.index",
    ]


def test_an_archived_checkpoint_stays_when_training_removes_its_own(model_dir):
    path = save(model_dir, 1)
    evaluations.archive_if_best(model_dir, path, metrics(1, 0.2))
    for name in os.listdir(model_dir):
        if name.startswith("model.ckpt"):
            os.remove(os.path.join(model_dir, name))
    assert value_of(evaluations.best(model_dir)["checkpoint"]) == 1


def test_the_archive_moves_with_its_folder(model_dir, tmp_path_factory):
    path = save(model_dir, 1)
    evaluations.archive_if_best(model_dir, path, metrics(1, 0.2))
    moved = str(tmp_path_factory.mktemp("elsewhere") / "model")
    os.rename(model_dir, moved)
    best = evaluations.best(moved)
    assert value_of(best["checkpoint"]) == 1
    assert checkpoints.latest(os.path.join(moved, "archive")) == best["checkpoint"]


def test_a_step_whose_number_begins_like_anothers_is_another(model_dir):
    save(model_dir, 10, 1)
    paths = [os.path.join(model_dir, f"model.ckpt-{step}") for step in (10, 1)]
    evaluations.archive_if_best(model_dir, paths[0], metrics(10, 0.2))
    evaluations.archive_if_best(model_dir, paths[1], metrics(1, 0.3))
    names = [n for n in os.listdir(os.path.join(model_dir, "archive")) if n.startswith("model")]
    assert sorted(names) == ["model.ckpt-1.data-00000-of-00001", "model.ckpt-1.index"]


def test_the_best_of_zero_is_kept(model_dir):
    path = save(model_dir, 1)
    assert evaluations.archive_if_best(model_dir, path, metrics(1, 0.0))
    assert not evaluations.archive_if_best(model_dir, path, metrics(1, 0.0))


def test_evaluations_are_recorded_once_a_step(model_dir):
    assert evaluations.read(model_dir) == []
    for step, accuracy in ((1, 0.2), (2, 0.4), (2, 0.5)):
        evaluations.record(model_dir, metrics(step, accuracy))
    assert evaluations.read(model_dir) == [metrics(1, 0.2), metrics(2, 0.5)]
    content = (pathlib.Path(model_dir) / "evaluations.json").read_text()
    assert json.loads(content) == evaluations.read(model_dir)
    assert os.listdir(model_dir) == ["evaluations.json"]


BEST = {**metrics(1, 0.5), "checkpoint": "model.ckpt-1"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("evaluations.json", content)
            for content in (
                "",
                "[",
                "null",
                "{}",
                "3",
                "[3]",
                "[{}]",
                '["global_step"]',
                json.dumps([metrics(1, 0.5)])[:-9],
                json.dumps([metrics("1", 0.5)]),
                json.dumps([metrics(1, None)]),
                json.dumps([metrics(1, True)]),
                json.dumps([metrics(1, float("nan"))]),
            )
        ),
        *(
            ("archive/best.json", content)
            for content in (
                "",
                "{",
                "null",
                "[]",
                "{}",
                json.dumps(BEST)[:-9],
                json.dumps(metrics(1, 0.5)),
                json.dumps({**BEST, "checkpoint": 3}),
                json.dumps({**BEST, "checkpoint": "../model.ckpt-1"}),
                json.dumps({**BEST, "top_1_accuracy": "0.5"}),
                json.dumps({**BEST, "global_step": 1.5}),
            )
        ),
    ],
)
def test_a_damaged_record_is_named_and_stays(model_dir, name, content):
    path = pathlib.Path(model_dir, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    checkpoint = save(model_dir, 2)
    with pytest.raises(UserError) as error:
        evaluations.record(model_dir, metrics(2, 0.6))
        evaluations.archive_if_best(model_dir, checkpoint, metrics(2, 0.6))
    text = str(error.value)
    assert text.startswith(f"{path} is not a ") and "or remove it" in text and "\n" not in text
    assert path.read_text() == content


# What the published program archived.


def write_published_archive(model_dir, content):
    """The archive of step 2, with the best_eval.txt that is given."""
    archive = pathlib.Path(model_dir, "archive")
    archive.mkdir()
    save(str(archive), 2)
    (archive / "best_eval.txt").write_bytes(content)
    return archive


@pytest.mark.parametrize(
    "content",
    [
        "0.75",
        " 0.75\n",
        "{'loss': 1.5, 'top_1_accuracy': 0.75, 'top_5_accuracy': 0.9, 'global_step': 2}",
        "{'global_step': np.int64(2), 'top_1_accuracy': np.float32(0.75), 'loss': nan}",
        '{"top_1_accuracy":0.75}',
    ],
)
def test_the_best_of_the_published_program_counts(model_dir, content):
    archive = write_published_archive(model_dir, content.encode())
    best = evaluations.best(model_dir)
    assert (best["top_1_accuracy"], best["global_step"]) == (0.75, 2)
    assert value_of(best["checkpoint"]) == 2
    worse = save(model_dir, 3)
    assert not evaluations.archive_if_best(model_dir, worse, metrics(3, 0.7))
    assert evaluations.best(model_dir) == best
    better = save(model_dir, 4)
    assert evaluations.archive_if_best(model_dir, better, metrics(4, 0.8))
    assert evaluations.best(model_dir)["global_step"] == 4
    assert sorted(path.name for path in archive.iterdir()) == [
        "best.json",
        "checkpoint",
        "model.ckpt-4.data-00000-of-00001",
        "model.ckpt-4.index",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"best", b"75.2", b"-1", b"nan", b"{'loss': 1.5}", b"0.7 0.8", b"\xff\xfe"]
)
def test_an_unreadable_best_of_the_published_program_is_named(model_dir, content):
    archive = write_published_archive(model_dir, content)
    with pytest.raises(UserError) as error:
        evaluations.best(model_dir)
    text = str(error.value)
    assert text.startswith(f"{archive}/best_eval.txt ") and "or remove it" in text
    assert "\n" not in text


def test_a_published_archive_without_a_checkpoint_keeps_nothing(model_dir):
    archive = write_published_archive(model_dir, b"0.75")
    for path in archive.glob("model.ckpt*"):
        path.unlink()
    assert evaluations.best(model_dir) is None


@pytest.mark.parametrize(("classes", "shown"), [(5, ""), (6, " top-5 99.00 %,")])
def test_the_log_leaves_out_top_5_where_any_answer_is_among_them(caplog, classes, shown):
    found = {"top_5_accuracy": 0.99, "cross_entropy": 1, "skipped_images": 0}
    with caplog.at_level("INFO", "absl"):
        evaluations.log({**metrics(7, 0.5), **found}, 2.5, classes)
    assert caplog.messages == [f"Step 7: top-1 50.00 %,{shown} loss 1.0000 on 10 images in 2.5 s."]


@pytest.mark.parametrize(
    ("step", "changes", "is_said"),
    [
        (30, {}, True),
        (500, {}, False),
        (0, {}, False),
        (30, {"batch_norm_momentum": 0.9}, False),
        (30, {"freeze_backbone": True}, False),
        (30, {"model_spec": {"batch_norm_momentum": 0.9}}, False),
    ],
)
def test_statistics_that_cannot_have_settled_are_said(model_dir, caplog, step, changes, is_said):
    params = {**settings.default_params(), "model_dir": model_dir, "train_steps": 1000, **changes}
    evaluations.log_unsettled(params, step)
    for flag in ("--batch_norm_momentum=0.99", "--moving_average_decay=0.9999", "74 %"):
        assert (flag in caplog.text) == is_said


def test_statistics_are_said_at_the_first_and_the_last_evaluation(model_dir, caplog):
    evaluations.record(model_dir, metrics(10, 0.2))
    params = {**settings.default_params(), "model_dir": model_dir}
    evaluations.log_unsettled({**params, "train_steps": 40}, 30)
    assert not caplog.text
    evaluations.log_unsettled({**params, "train_steps": 30}, 30)
    assert "30 steps" in caplog.text
