"""Tests of what a data set's files are: how items are cut into files, when a folder is finished."""

import pytest
from built_data import content
from small_shards import DESCRIPTION, ITEMS, NAMES, build

from utils.base import folder_lock
from utils.base.errors import UserError
from utils.building import shards


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


def test_killed_while_cleaning_up(tmp_path):
    build(tmp_path)
    clean = content(tmp_path)
    (tmp_path / "train-00001-of-00008.tmp-made").write_text("{}")
    (tmp_path / "labels.txt.tmp-12345678").write_text("x")
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
    assert content(tmp_path) == clean


def test_killed_before_it_let_the_folder_go(tmp_path):
    build(tmp_path)
    clean = content(tmp_path)
    (tmp_path / folder_lock.FILE_NAME).write_text("")
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
    assert content(tmp_path) == clean


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


def test_another_version_made_the_same_data_set(tmp_path):
    builder = shards.builder("test").replace(shards.__version__, "0.0.1")
    build(tmp_path, description=shards.describe("animals", builder, NAMES))
    assert shards.is_finished(str(tmp_path), DESCRIPTION)
