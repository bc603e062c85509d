"""Tests of checkpoints: which are complete, recovery, averages, the best, evaluations."""

import os
import pathlib
import tempfile

import pytest
from saved_checkpoints import data_file, save, truncate, value_of

from utils.base.errors import UserError
from utils.training import checkpoints, hooks

import tensorflow.compat.v1 as tf

# Which one is meant.


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001", "folder"])
def test_what_stands_for_a_checkpoint(model_dir, ending):
    path = save(model_dir, 1, 2)
    assert checkpoints.find(model_dir if ending == "folder" else path + ending) == path


def test_what_stands_for_none(model_dir):
    for path in (model_dir, model_dir + "/model.ckpt-7", ""):
        assert checkpoints.find(path) is None


# Of this network or not.


def test_shapes_are_those_of_the_variables(model_dir):
    path = save(model_dir, 1)
    with tf.Graph().as_default():
        same, other = tf.get_variable("x", [1000]), tf.get_variable("y", [10])
        checkpoints.check_shapes(path, {"x": same, "missing": other})
        with pytest.raises(UserError, match=r"x has the shape \[1000\] there and \[10\] here"):
            checkpoints.check_shapes(path, {"x": other})
        hooks.ShapesHook(path).begin()
    with tf.Graph().as_default():
        tf.get_variable("x", [10])
        hooks.ShapesHook(None).begin()
        with pytest.raises(UserError, match="of another network"):
            hooks.ShapesHook(path).begin()


# Complete or not.


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("model.ckpt-12", 12),
        ("/a/run-5/model.ckpt-437898", 437898),
        ("/a/run-5/model.ckpt", 0),
        ("model.ckpt-0", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_step_of(path, step):
    assert checkpoints.step_of(path) == step


def test_a_whole_checkpoint_is_complete(model_dir):
    assert checkpoints.is_complete(save(model_dir, 1))


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_checkpoint_is_not_complete(model_dir, suffix, damage):
    path = save(model_dir, 1)
    file = pathlib.Path(path + suffix)
    if damage == "missing":
        file.unlink()
    else:
        truncate(file, 0.5 if damage == "truncated" else 0)
    assert not checkpoints.is_complete(path)


def test_latest(model_dir):
    assert checkpoints.latest(model_dir) is None
    assert checkpoints.latest(os.path.join(model_dir, "nowhere")) is None
    path = save(model_dir, 1, 2)
    assert checkpoints.latest(model_dir) == path


# Recovery.


def test_nothing_to_recover(model_dir):
    assert checkpoints.recover(model_dir) is None
    assert os.listdir(model_dir) == []


def test_a_complete_newest_checkpoint_is_kept(model_dir):
    path = save(model_dir, 1, 2)
    before = sorted(os.listdir(model_dir))
    assert checkpoints.recover(model_dir) == path
    assert sorted(os.listdir(model_dir)) == before


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_truncated_newest_checkpoint_is_passed_over(model_dir, suffix):
    save(model_dir, 9, 10, 100)
    newest = os.path.join(model_dir, "model.ckpt-100")
    truncate(pathlib.Path(newest + suffix))
    recovered = checkpoints.recover(model_dir)
    assert recovered == os.path.join(model_dir, "model.ckpt-10")  # 10 comes after 9
    assert checkpoints.latest(model_dir) == recovered
    assert value_of(recovered) == 10
    state = tf.train.get_checkpoint_state(model_dir)
    assert [os.path.basename(p) for p in state.all_model_checkpoint_paths] == [
        "model.ckpt-100", "model.ckpt-9", "model.ckpt-10"
    ]  # fmt: skip  # the damaged one is the first that training removes


def test_a_newest_checkpoint_without_its_data_is_passed_over(model_dir):
    newest = save(model_dir, 1, 2)
    data_file(newest).unlink()
    assert checkpoints.step_of(checkpoints.recover(model_dir)) == 1


def test_two_truncated_checkpoints_are_passed_over(model_dir):
    save(model_dir, 1, 2, 3)
    for step in (2, 3):
        truncate(data_file(os.path.join(model_dir, f"model.ckpt-{step}")))
    assert checkpoints.step_of(checkpoints.recover(model_dir)) == 1


def test_without_a_state_file_the_newest_complete_one_is_found(model_dir):
    newest = save(model_dir, 1, 2)
    os.remove(os.path.join(model_dir, "checkpoint"))
    assert checkpoints.recover(model_dir) == newest
    assert checkpoints.latest(model_dir) == newest


@pytest.mark.parametrize("with_state", [True, False])
def test_where_none_is_complete_training_starts_from_the_beginning(model_dir, with_state):
    save(model_dir, 1, 2)
    for step in (1, 2):
        truncate(data_file(os.path.join(model_dir, f"model.ckpt-{step}")))
    if not with_state:  # as after a kill within the very first save
        os.remove(os.path.join(model_dir, "checkpoint"))
    assert checkpoints.recover(model_dir) is None
    assert checkpoints.latest(model_dir) is None


def test_leftovers_of_a_kill_are_removed(model_dir):
    path = save(model_dir, 1)
    leftover = pathlib.Path(model_dir) / "model.ckpt-2_temp"
    leftover.mkdir()
    (leftover / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    other = pathlib.Path(model_dir) / "my_temp"
    other.mkdir()
    unfinished = ("model.ckpt-2.index.tempstate123", "model.ckpt-2.data-00000-of-00001.tempstate45")
    for name in unfinished:
        (pathlib.Path(model_dir) / name).write_bytes(b"half")
    assert checkpoints.recover(model_dir) == path
    assert not leftover.exists()
    assert not {*unfinished} & {*os.listdir(model_dir)}
    assert other.exists()


def test_a_training_goes_on_from_a_recovered_checkpoint(model_dir):
    save(model_dir, 1, 2)
    truncate(data_file(os.path.join(model_dir, "model.ckpt-2")))
    recovered = checkpoints.recover(model_dir)
    x = tf.get_variable("x", [1000], initializer=tf.zeros_initializer())
    assert checkpoints.step_of(recovered) == 1
    with tf.train.SingularMonitoredSession(checkpoint_dir=model_dir) as session:
        assert session.run(x)[0] == 1


def kill_before_the_state_file(model_dir, *steps):
    """Saves checkpoints; the state file then names the first alone, as after a kill."""
    path = save(model_dir, *steps)
    checkpoints.write_state(model_dir, [f"model.ckpt-{steps[0]}"])
    return path


def test_a_complete_checkpoint_newer_than_the_state_file_is_taken(model_dir):
    newest = kill_before_the_state_file(model_dir, 58, 60)
    assert checkpoints.latest(model_dir) == newest
    assert checkpoints.recover(model_dir) == newest
    assert tf.train.latest_checkpoint(model_dir) == newest  # what the estimator loads


def test_an_incomplete_checkpoint_newer_than_the_state_file_is_not_taken(model_dir):
    older, newest = kill_before_the_state_file(model_dir, 58), save(model_dir, 60)
    checkpoints.write_state(model_dir, ["model.ckpt-58"])
    truncate(data_file(newest))
    assert checkpoints.latest(model_dir) == older
    assert checkpoints.recover(model_dir) == older


def test_checkpoints_of_killed_saves_are_counted_and_removed(model_dir):
    save(model_dir, 1, 2, 3, 7, 9)
    truncate(data_file(os.path.join(model_dir, "model.ckpt-9")))
    # A kill before the removal of 1, one before the state file knew 7, one within the save of 9.
    checkpoints.write_state(model_dir, ["model.ckpt-2", "model.ckpt-3"])
    assert checkpoints.step_of(checkpoints.recover(model_dir, keep=3)) == 7
    assert saved_steps(model_dir) == [2, 3, 7]
    state = tf.train.get_checkpoint_state(model_dir)
    assert [checkpoints.step_of(p) for p in state.all_model_checkpoint_paths] == [2, 3, 7]


def test_checkpoints_that_an_earlier_training_kept_on_purpose_stay(model_dir):
    save(model_dir, 1, 2, 3, 4)
    checkpoints.write_state(model_dir, [f"model.ckpt-{step}" for step in (1, 2, 3)])
    assert checkpoints.step_of(checkpoints.recover(model_dir, keep=2)) == 4
    assert saved_steps(model_dir) == [2, 3, 4]
    os.remove(os.path.join(model_dir, "checkpoint"))
    checkpoints.recover(model_dir, keep=2)
    assert saved_steps(model_dir) == [2, 3, 4]


def test_parts_that_a_kill_left_are_removed(model_dir):
    path = save(model_dir, 1, 2)
    expected = sorted(os.listdir(model_dir))
    for name in ("model.ckpt-3.data-00000-of-00001", "checkpoint.tmp01234"):
        (pathlib.Path(model_dir) / name).write_bytes(b"half")
    assert checkpoints.recover(model_dir) == path
    assert sorted(os.listdir(model_dir)) == expected


# The state file is damaged.

DAMAGED_STATES = [b"", b"\xff\xfe\x80", b"\0\1 garbage", b'model_checkpoint_path: "model.ck']


@pytest.mark.parametrize("content", DAMAGED_STATES)
def test_a_damaged_state_file_hides_no_checkpoint(model_dir, content):
    newest = save(model_dir, 1, 2)
    state = pathlib.Path(model_dir, "checkpoint")
    state.write_bytes(content)
    assert checkpoints.has_any(model_dir)
    assert checkpoints.find(model_dir) == newest
    assert list(checkpoints.follow(model_dir, timeout=0)) == [newest]
    assert state.read_bytes() == content  # readers write nothing
    assert checkpoints.recover(model_dir) == newest
    assert tf.train.latest_checkpoint(model_dir) == newest


@pytest.mark.parametrize("content", DAMAGED_STATES)
def test_a_damaged_state_file_alone_is_a_start_from_the_beginning(model_dir, content):
    pathlib.Path(model_dir, "checkpoint").write_bytes(content)
    assert list(checkpoints.follow(model_dir, timeout=0)) == []
    assert checkpoints.recover(model_dir) is None
    assert tf.train.latest_checkpoint(model_dir) is None


def test_new_checkpoints_are_followed_once_each(model_dir):
    first = save(model_dir, 1)
    paths = checkpoints.follow(model_dir, timeout=0)
    assert next(paths) == first
    second = save(model_dir, 1, 2)
    assert list(paths) == [second]


# Files that may be good cannot be read.


@pytest.fixture
def folder_of_somebody():
    """A folder of a user who needs permissions: as root the test runs as somebody else."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if was_root:
                os.seteuid(0)


def states(folder):
    """Returns what tells whether a file was replaced or changed; reading it may change the rest."""
    found = {path.name: path.lstat() for path in pathlib.Path(folder).iterdir()}
    return {n: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for n, s in found.items()}


def check_that_nothing_is_given_up(folder, name):
    """Training stops with a sentence that names the file, and touches nothing."""
    before = states(folder)
    with pytest.raises(UserError, match=f"{folder}/{name} cannot be read .*: make it readable"):
        checkpoints.recover(folder)
    assert states(folder) == before


FILES = ["model.ckpt-2.index", "model.ckpt-2.data-00000-of-00001", "checkpoint"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_permission_is_not_given_up(folder_of_somebody, name):
    save(folder_of_somebody, 1, 2)
    path = pathlib.Path(folder_of_somebody, name)
    path.chmod(0)
    check_that_nothing_is_given_up(folder_of_somebody, name)
    path.chmod(0o600)
    assert checkpoints.step_of(checkpoints.recover(folder_of_somebody)) == 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_fails_to_be_read_is_not_given_up(model_dir, name):
    save(model_dir, 1, 2)
    path = pathlib.Path(model_dir, name)
    path.rename(path.with_name("kept"))
    path.symlink_to("/proc/self/mem")  # it opens, but reading it is an input/output error
    check_that_nothing_is_given_up(model_dir, name)
    path.unlink()
    path.with_name("kept").rename(path)
    assert checkpoints.step_of(checkpoints.recover(model_dir)) == 2


def test_a_folder_that_cannot_be_listed_is_not_empty(folder_of_somebody):
    save(folder_of_somebody, 1)
    inner = pathlib.Path(folder_of_somebody, "inner")
    inner.mkdir()
    save(str(inner), 1)
    inner.chmod(0o300)
    with pytest.raises(UserError, match=f"{inner} cannot be read"):
        checkpoints.recover(str(inner))
    inner.chmod(0o700)
    assert checkpoints.recover(str(inner)) is not None


# Saving.


def train(model_dir, steps, save_steps):
    step = tf.train.get_or_create_global_step()
    increment = tf.assign_add(step, 1)
    all_hooks = [hooks.SaverHook(model_dir, save_steps)]
    with tf.train.SingularMonitoredSession(all_hooks, checkpoint_dir=model_dir) as session:
        for _ in range(steps):
            session.run(increment)


def saved_steps(model_dir):
    return sorted(
        checkpoints.step_of(name[: -len(".index")])
        for name in os.listdir(model_dir)
        if name.endswith(".index")
    )


def test_saver_hook_saves_every_so_often_and_at_the_end_without_the_graph(model_dir):
    train(model_dir, 7, 3)
    assert saved_steps(model_dir) == [3, 6, 7]
    assert not [name for name in os.listdir(model_dir) if name.endswith((".pbtxt", ".tmp"))]
    with tf.Graph().as_default():
        train(model_dir, 2, 3)
    assert saved_steps(model_dir) == [3, 6, 7, 9]  # counted from where it went on


# Averages.


# The best, and evaluations.


def test_the_state_file_of_a_folder_given_by_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("work/model")
    for name in ("model.ckpt-1", "model.ckpt-2"):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.train.get_or_create_global_step()
            session.run(tf.global_variables_initializer())
            path = os.path.join("work", "model", name)
            tf.train.Saver().save(session, path, latest_filename="other")
    checkpoints.write_state("work/model", ["model.ckpt-1", "model.ckpt-2"])
    assert checkpoints.latest("work/model") == "work/model/model.ckpt-2"
    assert checkpoints.latest(str(tmp_path / "work" / "model")).endswith("model.ckpt-2")
