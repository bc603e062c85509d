"""Tests of several tasks that build one data set: the same bytes, any order, any interruption."""

import contextlib
import fcntl
import functools
import logging
import os
import random
import time
from concurrent import futures

import pytest
from built_data import bucket_content, content
from small_shards import (
    DESCRIPTION,
    ITEMS,
    NAMES,
    Maker,
    build,
    build_until_the_last_item,
    keys_of,
    plan,
)

from utils.base import folder_lock
from utils.base.errors import UserError
from utils.building import shards
from utils.building.task_folders import Task
from utils.reading import records
from utils.reading.dataset_info import DatasetInfo

import tensorflow.compat.v1 as tf

BAD = {"item 4"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What a build on one machine writes."""
    folder = tmp_path_factory.mktemp("clean")
    build(folder)
    return content(folder)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """What a build on one machine writes of items of which one is unreadable."""
    folder = tmp_path_factory.mktemp("lacking")
    build(folder, Maker(bad=BAD), max_bad_share=1)
    return content(folder)


def run(folder, number, make=None, count=4, **more):
    """Runs one task; returns what it published, if anything."""
    return build(folder, make, task=Task(number, count), **more)


def run_all(folder, **more):
    """Runs all tasks in turn; returns what the last one published."""
    return [run(folder, number, **more) for number in range(4)][-1]


def in_threads(*functions):
    """Runs functions side by side; returns what they return, or raises what one of them raises."""
    with futures.ThreadPoolExecutor(len(functions)) as pool:
        started = [pool.submit(function) for function in functions]
    return [future.result() for future in started]


# The same bytes.


@pytest.mark.parametrize("order", [[0], [0, 1, 2, 3], [3, 1, 0, 2], list(range(12))])
def test_tasks_build_what_one_machine_builds(tmp_path, clean, order):
    makers = []
    for number in order:
        with pytest.raises(UserError, match="has no files"):
            records.list_files(str(tmp_path), "train-")
        makers.append(Maker())
        info = run(tmp_path, number, makers[-1], len(order))
        assert (info is None) == (number != order[-1])
    assert content(tmp_path) == clean
    assert sorted(key for maker in makers for key in maker.made) == sorted(i.key for i in ITEMS)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    names = [shard.name for shard in plan()]
    for number, maker in zip(order, makers, strict=True):
        assert set(maker.made) == keys_of(*names[number :: len(order)])


@pytest.mark.parametrize("attempt", range(5))
def test_tasks_side_by_side(tmp_path, clean, attempt):
    """Several may believe to be the last one; the first of these publishes."""
    infos = in_threads(*[functools.partial(run, tmp_path, number) for number in range(4)])
    assert any(infos)
    assert content(tmp_path) == clean


def test_in_a_bucket(clean):
    """A remote file system: TensorFlow's in-memory one."""
    folder = "ram://test_tasks/in_a_bucket"
    with pytest.raises(RuntimeError):
        run(folder, 1, Maker(fail_at="item 59"))
    for number in (3, 1, 0):
        assert run(folder, number) is None
    with pytest.raises(UserError, match="3 of 4 tasks are done: task 2 is missing"):
        build(folder, finish=True)
    assert run(folder, 2)
    assert bucket_content(folder) == clean


# What a task says.


def test_each_task_says_what_is_missing(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        run(tmp_path, 2)
        assert "Task 2/4 is done: 2 of the data set's 10 files, with 12 images." in caplog.text
        assert "1 of 4 tasks are done: tasks 0, 1, 3 are missing; the last" in caplog.text
        run(tmp_path, 0)
        run(tmp_path, 3)
        assert caplog.text.endswith(
            "3 of 4 tasks are done: task 1 is missing; the last one publishes the data set.\n"
        )
        run(tmp_path, 1)
    assert caplog.text.endswith("50 images for training, 10 for evaluation, 3 classes.\n")


def test_many_missing_tasks_are_not_all_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        run(tmp_path, 0, count=5000)
    assert "tasks 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4989 more are missing" in caplog.text


# Interruptions.


def test_an_interrupted_task_is_run_again(tmp_path, clean, caplog):
    folder = tmp_path / "tasks.tmp" / "1-of-4"
    for number in (0, 2, 3):
        run(tmp_path, number)
    with pytest.raises(RuntimeError):
        run(tmp_path, 1, Maker(fail_at="item 59"))
    finished = [name[: -len(".tmp-done")] for name in os.listdir(folder) if ".tmp-done" in name]
    with pytest.raises(
        UserError, match="task 1 is missing; run each missing one, such as --task=1/4"
    ):
        build(tmp_path, finish=True)
    maker = Maker()
    with caplog.at_level(logging.INFO, "absl"):
        assert run(tmp_path, 1, maker)
    assert set(maker.made) == keys_of(*[s.name for s in plan()[1::4]]) - keys_of(*finished)
    assert ("Resuming: " in caplog.text) == bool(finished)
    assert content(tmp_path) == clean


def test_a_task_that_is_done_is_not_run_again(tmp_path, clean, caplog):
    run(tmp_path, 1)
    before = content(tmp_path)
    maker = Maker()
    with caplog.at_level(logging.INFO, "absl"):
        assert run(tmp_path, 1, maker) is None
    assert maker.made == []
    assert "Task 1/4 is done already." in caplog.text
    assert content(tmp_path) == before
    run_all(tmp_path)
    assert content(tmp_path) == clean


def test_a_lost_file_of_a_task_is_built_again(tmp_path, clean):
    run(tmp_path, 0)
    run(tmp_path, 1)
    run(tmp_path, 2)
    lost = tmp_path / "tasks.tmp/1-of-4/train-00005-of-00008.tmp-done"
    lost.write_bytes(lost.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"1-of-4/train-00005.* was changed.* --task=1/4 again"):
        run(tmp_path, 3)
    maker = Maker()
    assert run(tmp_path, 1, maker)
    assert set(maker.made) == keys_of("train-00005-of-00008")
    assert content(tmp_path) == clean


@pytest.mark.parametrize("again", ["finish", "task"])
@pytest.mark.parametrize("moment", ["train-00000-of-00008", "train-00003-of-00008", "validation-"])
def test_killed_while_publishing(tmp_path, clean, monkeypatch, moment, again):
    run(tmp_path, 0)
    run(tmp_path, 1)
    run(tmp_path, 3)
    rename = tf.io.gfile.rename

    def break_off(source, target, overwrite=False):
        if target.startswith(str(tmp_path / moment)):
            raise tf.errors.AbortedError(None, None, "broken off")
        rename(source, target, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", break_off)
        with pytest.raises(UserError, match="cannot be written: broken off"):
            run(tmp_path, 2)
    assert "dataset_info.json" not in content(tmp_path)
    maker = Maker()
    assert build(tmp_path, maker, finish=True) if again == "finish" else run(tmp_path, 0, maker)
    assert maker.made == []
    assert content(tmp_path) == clean


def test_killed_before_the_description_was_written(tmp_path, clean, monkeypatch):
    def break_off(info, folder):
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(DatasetInfo, "write", break_off)
        with pytest.raises(RuntimeError):
            run_all(tmp_path)
    assert build(tmp_path, finish=True)
    assert content(tmp_path) == clean


def test_killed_before_the_folders_were_removed(tmp_path, clean):
    build(tmp_path)
    (tmp_path / "tasks.tmp" / "0-of-4").mkdir(parents=True)
    (tmp_path / "tasks.tmp" / "publishing").write_text("x")
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
    assert content(tmp_path) == clean
    assert not (tmp_path / "tasks.tmp").exists()


def test_the_last_task_waits_while_another_publishes(tmp_path, clean, caplog):
    for number in range(3):
        run(tmp_path, number)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with caplog.at_level(logging.INFO, "absl"), futures.ThreadPoolExecutor(1) as pool:
        last = pool.submit(run, tmp_path, 3)
        while "Waiting for another task, which publishes the data set." not in caplog.text:
            assert not last.done()
            time.sleep(0.01)
        assert "dataset_info.json" not in content(tmp_path)
        os.close(other)
        assert last.result()
    assert content(tmp_path) == clean


@pytest.mark.parametrize("attempt", range(5))
def test_several_publish_at_once_without_a_lock(tmp_path, lacking, monkeypatch, attempt):
    """A bucket's lock may fail to keep programs apart that start in the same moment."""

    def slow(function):
        def slowly(*arguments, **more):
            time.sleep(random.uniform(0, 0.01))
            return function(*arguments, **more)

        return slowly

    with pytest.raises(UserError, match="1 of 60 pictures"):
        run_all(tmp_path, make=Maker(bad=BAD), max_bad_share=0)
    monkeypatch.setattr(folder_lock, "hold", lambda *unused: contextlib.nullcontext())
    for name in ("rename", "stat"):
        monkeypatch.setattr(tf.io.gfile, name, slow(getattr(tf.io.gfile, name)))

    def publish():
        time.sleep(random.uniform(0, 0.05))
        return build(tmp_path, finish=True, max_bad_share=1)

    infos = in_threads(publish, publish, publish)
    assert infos[0] and infos == infos[:1] * 3
    assert content(tmp_path) == lacking


# Unreadable items.


def test_unreadable_items_add_up(tmp_path, caplog):
    bad = {"item 4", "item 24", "item 55"}
    with caplog.at_level(logging.INFO, "absl"):
        whole = build(tmp_path / "whole", Maker(bad=bad), max_bad_share=0.05)
        said = [line.partition("] ")[2] for line in caplog.text.splitlines()]
        caplog.clear()
        info = run_all(tmp_path / "tasks", make=Maker(bad=bad), max_bad_share=0.05)
    assert info == whole
    assert content(tmp_path / "tasks") == content(tmp_path / "whole")
    for line in said:
        assert line.replace("whole", "tasks") in caplog.text


def test_too_many_unreadable_items_of_all_tasks(tmp_path, lacking):
    """No task can see it alone; --finish with a higher limit reads nothing again."""
    for number in range(3):
        run(tmp_path, number, Maker(bad=BAD), max_bad_share=0)
    with pytest.raises(UserError, match=r"1 of 60 .* item 4 .*--max_bad_share=0\."):
        run(tmp_path, 3, Maker(bad=BAD), max_bad_share=0)
    assert not [name for name in content(tmp_path) if name.startswith("train-")]
    assert (tmp_path / "unreadable.txt").read_text().startswith("item 4\t")
    assert build(tmp_path, finish=True, max_bad_share=0.1)
    assert content(tmp_path) == lacking


def test_an_item_that_has_become_readable_is_read_again(tmp_path, clean):
    with pytest.raises(UserError, match="1 of 60"):
        run_all(tmp_path, make=Maker(bad=BAD), max_bad_share=0)
    maker = Maker()
    assert run(tmp_path, 0, maker)
    assert set(maker.made) == keys_of("train-00000-of-00008")
    assert content(tmp_path) == clean


# Refusals.


def test_the_same_task_twice_at_once(tmp_path, clean):
    run(tmp_path, 1)
    other = os.open(tmp_path / "tasks.tmp" / "1-of-4", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"Another run of --task=1/4 is writing to"):
        run(tmp_path, 1)
    run(tmp_path, 0)
    os.close(other)
    run_all(tmp_path)
    assert content(tmp_path) == clean


def test_another_number_of_tasks(tmp_path, clean):
    run(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"being built by 4 tasks and not by 3: .*tasks\.tmp"):
        run(tmp_path, 0, count=3)
    assert content(tmp_path) == before
    run_all(tmp_path)
    assert content(tmp_path) == clean


def test_finish_without_tasks(tmp_path):
    with pytest.raises(UserError, match="has no files of tasks to publish"):
        build(tmp_path / "new", finish=True)
    assert not (tmp_path / "new").exists()


def test_finish_without_two_of_the_tasks(tmp_path):
    run(tmp_path, 1)
    run(tmp_path, 3)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"2 of 4 tasks are done: tasks 0, 2 are missing; .*=0/4"):
        build(tmp_path, finish=True)
    assert content(tmp_path) == before


def more_of_ants():
    """The files of the data set with one picture more."""
    more = [*ITEMS[:50], ITEMS[0]._replace(key="new")]
    return shards.split("train", more, 8) + shards.split("validation", ITEMS[50:], 2)


OTHERS = {
    "a picture more": (
        more_of_ants(), DESCRIPTION,
        "class 'ant' has 18 pictures for train here and 17 there",
    ),
    "another picture": (
        plan([ITEMS[0]._replace(key="new"), *ITEMS[1:]]), DESCRIPTION,
        "the pictures of class 'ant' for train have other names or sizes here than there",
    ),
    "another size": (
        plan([*ITEMS[:-1], ITEMS[-1]._replace(stamp=(5, 7))]), DESCRIPTION,
        "the pictures of class 'cow' for validation have other names or sizes",
    ),
    "another class": (
        None, shards.describe("animals", shards.builder("test"), ("ant", "bee", "dog")),
        "the class 'dog' is only here",
    ),
    "other flags": (
        None, shards.describe("animals", shards.builder("test", seed=1), NAMES),
        "the command is 'mnasnet-data test .* --seed=1' here and 'mnasnet-data test [^ ]*' there",
    ),
    "another name": (
        None, shards.describe("plants", shards.builder("test"), NAMES),
        "which --name sets, is 'plants' here and 'animals' there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("difference", OTHERS)
def test_a_task_of_other_input_is_refused(tmp_path, clean, difference):
    other_plan, description, words = OTHERS[difference]
    run(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        run(tmp_path, 0, plan_=other_plan, description=description)
    assert str(error.value).startswith(f"Task 1/4 of --output_dir={tmp_path} was given other")
    assert f"delete {tmp_path}/tasks.tmp to start again" in str(error.value)
    assert content(tmp_path) == before
    run(tmp_path, 0)
    before = content(tmp_path)
    with pytest.raises(UserError, match=words):  # wrong flags do not undo what a task has done
        run(tmp_path, 0, plan_=other_plan, description=description)
    assert content(tmp_path) == before
    run_all(tmp_path)
    assert content(tmp_path) == clean


@pytest.mark.parametrize("difference", OTHERS)
def test_finish_of_other_input_is_refused(tmp_path, lacking, difference):
    other_plan, description, words = OTHERS[difference]
    with pytest.raises(UserError, match="1 of 60"):
        run_all(tmp_path, make=Maker(bad=BAD), max_bad_share=0)
    before = content(tmp_path)
    with pytest.raises(UserError, match=words):
        build(tmp_path, None, other_plan, description, finish=True, max_bad_share=1)
    assert content(tmp_path) == before
    assert build(tmp_path, finish=True, max_bad_share=1)
    assert content(tmp_path) == lacking


def test_times_of_change_may_differ(tmp_path, clean):
    """Each machine may have a copy of the pictures of its own."""
    for number in range(4):
        items = [item._replace(stamp=(100, number)) for item in ITEMS]
        info = run(tmp_path, number, plan_=plan(items))
    assert info and content(tmp_path) == clean


def test_a_lone_task_of_changed_input_starts_again(tmp_path, tmp_path_factory):
    run(tmp_path, 1)
    fresh = tmp_path_factory.mktemp("fresh")
    build(fresh, plan_=more_of_ants())
    maker = Maker()
    run(tmp_path, 1, maker, plan_=more_of_ants())
    assert maker.made
    run_all(tmp_path, plan_=more_of_ants())
    assert content(tmp_path) == content(fresh)


@pytest.mark.parametrize("name", ["train-00000-of-00008", "validation-x"])
def test_files_of_others_are_left_alone(tmp_path, name):
    run(tmp_path, 0)
    (tmp_path / name).write_bytes(b"precious")
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"holds {name}, which is not of this build"):
        run(tmp_path, 1)
    assert content(tmp_path) == before


# Next to a build on one machine.


def test_a_build_on_one_machine_that_was_interrupted(tmp_path):
    build_until_the_last_item(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match="of a build without tasks: resume that build without"):
        run(tmp_path, 0)
    assert content(tmp_path) == before


def test_a_build_on_one_machine_among_tasks_is_refused(tmp_path, clean):
    run(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"being built by 4 tasks.*0/4 to --task=3/4.*--finish"):
        build(tmp_path)
    assert content(tmp_path) == before
    run_all(tmp_path)
    assert content(tmp_path) == clean


def test_a_data_set_that_lost_a_file_is_repaired_without_tasks(tmp_path, clean):
    run_all(tmp_path)
    (tmp_path / "train-00001-of-00008").unlink()
    for what in ({"task": Task(1, 4)}, {"finish": True}):
        with pytest.raises(UserError, match=r"lacks train-00001-of-00008: run .* without --task"):
            build(tmp_path, **what)
    build(tmp_path)
    assert content(tmp_path) == clean


@pytest.mark.parametrize("name", ["task.json", "done.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}'])
def test_a_damaged_file_of_a_task_is_named(tmp_path, clean, name, text):
    run(tmp_path, 0)
    path = tmp_path / "tasks.tmp/0-of-4" / name
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path} is not .*: remove it"):
        for number in range(1, 4):
            run(tmp_path, number)
    path.unlink()
    run_all(tmp_path)
    assert content(tmp_path) == clean


def test_a_full_disk(tmp_path, clean, file_size_limit):
    """A limit on the size of files fails like a disk without space."""
    run(tmp_path, 0)
    with file_size_limit(1000), pytest.raises(UserError, match=r"cannot be written: .*too large"):
        run(tmp_path, 1)
    run_all(tmp_path)
    assert content(tmp_path) == clean
