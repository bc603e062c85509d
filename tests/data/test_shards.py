"""Tests of writing shards: the same bytes each time, going on, other people's files left alone."""

import fcntl
import logging
import os
import pathlib
import resource

import pytest
import tensorflow.compat.v1 as tf

from utils.base.errors import UserError
from utils.data import shards
from utils.data.pictures import Unreadable
from utils.data.shards import Item, Made, Shard
from utils.reading import dataset_info, examples, records

NAMES = ("ant", "bee", "cow")
DESCRIPTION = shards.describe("animals", shards.builder("test"), NAMES)
ITEMS = [Item(f"item {n}", n % 3 + 1) for n in range(60)]


def plan(items=tuple(ITEMS), count=8):
    return shards.split("train", items[:50], count) + shards.split("validation", items[50:], 2)


class Maker:
    """Makes records of the items' names; keeps those it was asked for."""

    def __init__(self, bad=(), fail_at=None, error=RuntimeError):
        self.made, self.bad, self.fail_at, self.error = [], bad, fail_at, error

    def __call__(self, item):
        if item.key == self.fail_at:
            raise self.error(item.key)
        self.made.append(item.key)
        if item.key in self.bad:
            raise Unreadable("the file is truncated")
        return Made(examples.example(item.key.encode() * 50, item.label))


def build(folder, make=None, shards_=None, description=DESCRIPTION, **more):
    return shards.build(
        str(folder), description, shards_ or plan(), make or Maker(), num_threads=2, **more
    )


def content(folder):
    """{path: bytes} of all files."""
    paths = sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What a build without interruption writes."""
    folder = tmp_path_factory.mktemp("clean")
    build(folder)
    return content(folder)


def keys(folder, prefix):
    return [
        records.unpack(record, path, number)[0][: len("item 00")].rstrip(b"i").decode()
        for path in records.list_files(str(folder), prefix)
        for number, record in enumerate(records.read_records(path))
    ]


@pytest.mark.parametrize(("num_items", "count"), [(10, 3), (1, 1), (7, 7), (3, 8), (0, 4)])
def test_split_keeps_order_and_sizes(num_items, count):
    found = shards.split("train", ITEMS[:num_items], count)
    assert [item for shard in found for item in shard.items] == ITEMS[:num_items]
    sizes = [len(shard.items) for shard in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == max(1, min(num_items, count))
    assert [s.name for s in found] == [
        f"train-{n:05d}-of-{len(found):05d}" for n in range(len(found))
    ]


def test_files_and_description(tmp_path):
    info = build(tmp_path)
    assert dataset_info.load(str(tmp_path)) == info
    assert (info.num_train_images, info.num_eval_images, info.num_label_classes) == (50, 10, 3)
    assert info.label_names == NAMES
    assert keys(tmp_path, "train-") + keys(tmp_path, "validation-") == [i.key for i in ITEMS]
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
def test_an_interrupted_build_goes_on(tmp_path, clean, fail_at):
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


def test_killed_while_cleaning_up(tmp_path, clean):
    build(tmp_path)
    (tmp_path / "train-00001-of-00008.tmp-made").write_text("{}")
    (tmp_path / "labels.txt.tmp-12345678").write_text("x")
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
    assert content(tmp_path) == clean


def test_a_changed_item_is_made_again_and_the_others_are_kept(tmp_path, clean):
    with pytest.raises(RuntimeError):
        build(tmp_path, Maker(fail_at="item 59"))
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
    with pytest.raises(RuntimeError):
        build(tmp_path, Maker(fail_at="item 59"))
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


def test_a_finished_data_set_is_told_from_another(tmp_path, caplog):
    assert not shards.is_finished(str(tmp_path / "new"), DESCRIPTION)
    build(tmp_path)
    before = content(tmp_path)
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
    for other in (
        shards.describe("plants", shards.builder("test"), NAMES),
        shards.describe("animals", shards.builder("test", seed=1), NAMES),
        shards.describe("animals", shards.builder("fake"), NAMES),
    ):
        with pytest.raises(UserError, match="another data set"):
            shards.is_finished(str(tmp_path), other)
    assert content(tmp_path) == before


def spoil(folder, how):
    """Removes or cuts one file; returns the name of its shard."""
    path = folder / "train-00002-of-00008"
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    return path.name


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_finished_data_set_that_lacks_a_file_is_mended(tmp_path, clean, caplog, how):
    build(tmp_path)
    name = spoil(tmp_path, how)
    times = {n: (tmp_path / n).stat().st_mtime_ns for n in clean if n != name}
    with caplog.at_level(logging.INFO, "absl"):
        assert not shards.is_finished(str(tmp_path), DESCRIPTION)
    assert f"lacks 1 of its 10 files, such as {name}" in caplog.text
    maker = Maker()
    build(tmp_path, maker)
    assert set(maker.made) == {i.key for s in plan() if s.name == name for i in s.items}
    assert content(tmp_path) == clean
    assert times == {n: (tmp_path / n).stat().st_mtime_ns for n in times}
    assert shards.is_finished(str(tmp_path), DESCRIPTION)


def test_mending_is_interrupted_and_goes_on(tmp_path, clean):
    build(tmp_path)
    spoil(tmp_path, "removed")
    (tmp_path / "validation-00001-of-00002").unlink()
    with pytest.raises(RuntimeError):
        build(tmp_path, Maker(fail_at="item 59"))
    assert not shards.is_finished(str(tmp_path), DESCRIPTION)
    build(tmp_path)
    assert content(tmp_path) == clean


def test_a_data_set_is_mended_although_pictures_of_other_files_are_unreadable(tmp_path):
    build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=0.1)
    before = content(tmp_path)
    spoil(tmp_path, "removed")
    build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=0.1)
    assert content(tmp_path) == before


@pytest.mark.parametrize("change", ["other records", "fewer records", "other files", "classes"])
def test_changed_input_mends_nothing(tmp_path, change):
    build(tmp_path)
    name = spoil(tmp_path, "removed")
    before = {n: b for n, b in content(tmp_path).items() if ".tmp-" not in n}
    maker, wanted, description = Maker(), plan(), DESCRIPTION
    if change == "other records":
        wanted = plan([i._replace(key=i.key + " of another length") for i in ITEMS])
    elif change == "fewer records":
        maker = Maker(bad={item.key for s in plan() if s.name == name for item in s.items[:1]})
    elif change == "other files":
        wanted = plan(count=5)
    else:
        description = shards.describe("animals", shards.builder("test"), ("ant", "bee", "dog"))
    with pytest.raises(UserError, match=rf"lacks {name}, .* delete the folder"):
        build(tmp_path, maker, wanted, description)
    assert {n: b for n, b in content(tmp_path).items() if ".tmp-" not in n} == before


def test_a_finished_data_set_is_not_built_again(tmp_path, clean):
    build(tmp_path)
    maker = Maker()
    build(tmp_path, maker)
    assert maker.made == []
    assert content(tmp_path) == clean


def test_another_version_made_the_same_data_set(tmp_path):
    builder = shards.builder("test").replace(shards.__version__, "0.0.1")
    build(tmp_path, description=shards.describe("animals", builder, NAMES))
    assert shards.is_finished(str(tmp_path), DESCRIPTION)


def test_unreadable_items_are_listed_and_counted(tmp_path):
    info = build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=2 / 60)
    assert (info.num_train_images, info.num_eval_images) == (49, 9)
    assert "item 4" not in keys(tmp_path, "train-")
    assert (tmp_path / "unreadable.txt").read_text() == (
        "item 4\tthe file is truncated\nitem 55\tthe file is truncated\n"
    )


def test_too_many_unreadable_items_publish_nothing(tmp_path):
    bad = {"item 4", "item 9", "item 55"}
    with pytest.raises(UserError) as error:
        build(tmp_path, Maker(bad=bad), max_bad_share=2 / 60)
    for words in ("3 of 60", "5.0%", "item 4", "truncated", "--max_bad_share", "unreadable.txt"):
        assert words in str(error.value)
    assert (tmp_path / "unreadable.txt").read_text().count("\n") == 3
    names = set(content(tmp_path)) - {"unreadable.txt"}
    assert all(".tmp-" in name for name in names)
    # A higher limit takes what is there; only the bad ones are tried again.
    maker = Maker(bad=bad)
    info = build(tmp_path, maker, max_bad_share=0.1)
    assert set(maker.made) == bad
    assert info.num_train_images + info.num_eval_images == 57
    assert (tmp_path / "unreadable.txt").read_text().count("\n") == 3


def test_an_item_that_has_become_readable_is_made_again(tmp_path, clean):
    """Its stamp is the same, as after a change of its permissions."""
    with pytest.raises(UserError, match="1 of 60"):
        build(tmp_path, Maker(bad={"item 4"}))
    maker = Maker()
    build(tmp_path, maker)
    (name,) = [shard.name for shard in plan() if ITEMS[4] in shard.items]
    assert set(maker.made) == {i.key for s in plan() if s.name == name for i in s.items}
    assert content(tmp_path) == clean


def test_a_class_of_which_nothing_is_readable(tmp_path):
    items = [Item(f"item {n}", 1 + (n in (7, 55))) for n in range(60)]
    with pytest.raises(UserError, match="'bee' is readable for validation"):
        build(tmp_path, Maker(bad={"item 55"}), plan(items), max_bad_share=0.5)


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


def test_a_full_disk(tmp_path):
    """A limit on the size of files fails like a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*too large") as error:
            build(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
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


def bucket_content(folder):
    found = {}
    for name in tf.io.gfile.listdir(folder):
        with tf.io.gfile.GFile(f"{folder}/{name}", "rb") as f:
            found[name] = f.read()
    return found


def test_an_empty_shard_list_gives_an_empty_split(tmp_path):
    only_train = [Shard("train-00000-of-00001", ITEMS[:3])]
    info = build(tmp_path, shards_=only_train)
    assert (info.num_train_images, info.num_eval_images) == (3, 0)
