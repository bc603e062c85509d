"""Tests of building again the files that a finished data set lacks."""

import logging

import pytest
from built_data import content
from small_shards import DESCRIPTION, ITEMS, Maker, build, build_until_the_last_item, keys_of, plan

from utils.base.errors import UserError
from utils.building import shards


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What a build without interruption writes."""
    folder = tmp_path_factory.mktemp("clean")
    build(folder)
    return content(folder)


def spoil(folder, how):
    """Removes or cuts one file; returns the name of its shard."""
    path = folder / "train-00002-of-00008"
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    return path.name


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_finished_data_set_that_lacks_a_file_is_repaired(tmp_path, clean, caplog, how):
    build(tmp_path)
    name = spoil(tmp_path, how)
    times = {n: (tmp_path / n).stat().st_mtime_ns for n in clean if n != name}
    with caplog.at_level(logging.INFO, "absl"):
        assert not shards.is_finished(str(tmp_path), DESCRIPTION)
    assert f"lacks 1 of its 10 files, such as {name}" in caplog.text
    maker = Maker()
    build(tmp_path, maker)
    assert set(maker.made) == keys_of(name)
    assert content(tmp_path) == clean
    assert times == {n: (tmp_path / n).stat().st_mtime_ns for n in times}
    assert shards.is_finished(str(tmp_path), DESCRIPTION)


def test_an_interrupted_repair_is_resumed(tmp_path, clean):
    build(tmp_path)
    spoil(tmp_path, "removed")
    (tmp_path / "validation-00001-of-00002").unlink()
    build_until_the_last_item(tmp_path)
    assert not shards.is_finished(str(tmp_path), DESCRIPTION)
    build(tmp_path)
    assert content(tmp_path) == clean


def test_a_data_set_is_repaired_although_pictures_of_other_files_are_unreadable(tmp_path):
    build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=0.1)
    before = content(tmp_path)
    spoil(tmp_path, "removed")
    build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=0.1)
    assert content(tmp_path) == before


@pytest.mark.parametrize("change", ["other records", "fewer records", "other files", "classes"])
def test_changed_input_repairs_nothing(tmp_path, change):
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
