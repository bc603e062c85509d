"""Tests of writing shards: the same bytes each time, resuming, leaving other files alone."""

import fcntl
import os

import pytest
from built_data import bucket_content, content
from small_shards import (
    DESCRIPTION,
    ITEMS,
    NAMES,
    Maker,
    build,
    build_until_the_last_item,
    keys_written,
    plan,
)

from utils.base.errors import UserError
from utils.building import shards
from utils.building.shards import Shard
from utils.reading import dataset_info, records

import tensorflow.compat.v1 as tf


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What a build without interruption writes."""
    folder = tmp_path_factory.mktemp("clean")
    build(folder)
    return content(folder)


def test_files_and_description(tmp_path):
    info = build(tmp_path)
    assert dataset_info.load(str(tmp_path)) == info
    assert (info.num_train_images, info.num_eval_images, info.num_label_classes) == (50, 10, 3)
    assert info.label_names == NAMES
    assert info.images_by_class == {"train": (17, 17, 16), "validation": (3, 3, 4)}
    assert keys_written(tmp_path, "train") + keys_written(tmp_path, "validation") == [
        i.key for i in ITEMS
    ]
    written = content(tmp_path)
    assert set(written) == {*info.shards, "dataset_info.json", "labels.txt"}
    assert len(info.shards) == 10
    assert info.shard_bytes == {name: len(written[name]) for name in info.shards}
    assert info.shards == {
        name: sum(1 for _ in records.read_records(str(tmp_path / name))) for name in info.shards
    }
    assert written["labels.txt"] == b"ant\nbee\ncow\n"


@pytest.mark.parametrize("num_threads", [1, 3, 16])
def test_the_same_bytes_whatever_the_number_of_threads(tmp_path, clean, num_threads):
    shards.build(str(tmp_path), DESCRIPTION, plan(), Maker(), num_threads=num_threads)
    assert content(tmp_path) == clean


@pytest.mark.parametrize("fail_at", [0, 13, 35, 59])
def test_an_interrupted_build_is_resumed(tmp_path, clean, fail_at):
    first = Maker(fail_at=f"item {fail_at}")
    with pytest.raises(RuntimeError):
        build(tmp_path, first)
    assert not [name for name in content(tmp_path) if ".tmp-" not in name]
    finished = [name for name in content(tmp_path) if name.endswith(".tmp-done")]
    assert not shards.is_finished(str(tmp_path), DESCRIPTION)
    second = Maker()
    build(tmp_path, second)
    assert content(tmp_path) == clean
    kept = {i.key for s in plan() if f"{s.name}.tmp-done" in finished for i in s.items}
    assert len(finished) == 0 or kept
    assert sorted(second.made) == sorted({i.key for i in ITEMS} - kept)


def test_killed_while_publishing(tmp_path, clean, monkeypatch):
    """Some files have their names already, the description is not there."""
    rename = tf.io.gfile.rename

    def break_off(source, target, overwrite=False):
        if target.endswith("train-00003-of-00008"):
            raise tf.errors.AbortedError(None, None, "broken off")
        rename(source, target, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", break_off)
        with pytest.raises(UserError, match="cannot be written: broken off"):
            build(tmp_path)
    assert "train-00000-of-00008" in content(tmp_path)
    assert "dataset_info.json" not in content(tmp_path)
    maker = Maker()
    build(tmp_path, maker)
    assert maker.made == []
    assert content(tmp_path) == clean


def test_a_changed_item_is_made_again_and_the_others_are_kept(tmp_path, clean):
    build_until_the_last_item(tmp_path)
    changed = [item._replace(stamp=(1, 2)) if n == 3 else item for n, item in enumerate(ITEMS)]
    second = Maker()
    build(tmp_path, second, plan(changed))
    first_shard = {item.key for item in plan()[0].items}
    assert first_shard <= set(second.made)
    assert len(second.made) < len(ITEMS)
    assert content(tmp_path) == clean


@pytest.mark.parametrize("other", ["items", "count", "description"])
def test_other_arguments_start_again(tmp_path, tmp_path_factory, clean, other):
    with pytest.raises(RuntimeError):
        build(tmp_path, Maker(fail_at="item 49"))
    assert any(name.endswith(".tmp-done") for name in content(tmp_path))
    description = DESCRIPTION
    wanted = plan()
    if other == "items":
        wanted = plan(ITEMS[1:])
    elif other == "count":
        wanted = plan(count=5)
    else:
        description = shards.describe("plants", shards.builder("test", seed=1), NAMES)
    build(tmp_path, None, wanted, description)
    fresh = tmp_path_factory.mktemp("fresh")
    build(fresh, None, wanted, description)
    assert content(tmp_path) == content(fresh)
    assert content(tmp_path) != clean


def test_a_finished_file_that_was_cut_is_written_again(tmp_path, clean):
    build_until_the_last_item(tmp_path)
    path = tmp_path / "train-00000-of-00008.tmp-done"
    path.write_bytes(path.read_bytes()[:-5])
    build(tmp_path)
    assert content(tmp_path) == clean


@pytest.mark.parametrize("name", ["train-00000-of-00008", "train-00000-of-00001", "validation-x"])
def test_files_of_others_are_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UserError, match="not of this build") as error:
        build(tmp_path)
    assert name in str(error.value)
    assert content(tmp_path) == {name: b"precious"}


def test_a_finished_data_set_is_not_built_again(tmp_path, clean):
    build(tmp_path)
    maker = Maker()
    build(tmp_path, maker)
    assert maker.made == []
    assert content(tmp_path) == clean


def test_a_second_build_in_the_same_folder_is_refused(tmp_path):
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="Another build"):
        build(tmp_path)
    os.close(other)
    build(tmp_path)


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--output_dir"):
        build(tmp_path / "file" / "below")


def test_a_full_disk(tmp_path, file_size_limit):
    """A limit on the size of files fails like a disk without space."""
    with (
        file_size_limit(1000),
        pytest.raises(UserError, match=r"cannot be written: .*too large") as error,
    ):
        build(tmp_path)
    assert f"--output_dir={tmp_path}" in str(error.value)
    assert content(tmp_path) == {}


def test_in_a_bucket(clean):
    """A remote file system: TensorFlow's in-memory one."""
    folder = "ram://test_shards/in_a_bucket"
    with pytest.raises(RuntimeError):
        shards.build(folder, DESCRIPTION, plan(), Maker(fail_at="item 45"), num_threads=2)
    shards.build(folder, DESCRIPTION, plan(), Maker(), num_threads=2)
    assert bucket_content(folder) == clean
    tf.io.gfile.remove(f"{folder}/train-00004-of-00008")
    assert not shards.is_finished(folder, DESCRIPTION)
    shards.build(folder, DESCRIPTION, plan(), Maker(), num_threads=2)
    assert bucket_content(folder) == clean


def test_an_empty_shard_list_gives_an_empty_split(tmp_path):
    only_train = [Shard("train-00000-of-00001", ITEMS[:3])]
    info = build(tmp_path, plan_=only_train)
    assert (info.num_train_images, info.num_eval_images) == (3, 0)
