"""Tests of items that give no record: what is listed, what is refused, what is read again."""

import pytest
from built_data import content
from small_shards import ITEMS, Maker, build, keys_of, keys_written, plan

from utils.base.errors import UserError
from utils.building.shards import Item
from utils.reading.dataset_info import DatasetInfo


def test_unreadable_items_are_listed_and_counted(tmp_path):
    info = build(tmp_path, Maker(bad={"item 4", "item 55"}), max_bad_share=2 / 60)
    assert (info.num_train_images, info.num_eval_images) == (49, 9)
    assert "item 4" not in keys_written(tmp_path, "train")
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
    # A higher limit takes the files that lack nothing, and writes the others again.
    maker = Maker(bad=bad)
    info = build(tmp_path, maker, max_bad_share=0.1)
    lacking = {s.name for s in plan() if bad & {item.key for item in s.items}}
    assert len(lacking) == 3
    assert set(maker.made) == keys_of(*lacking)
    assert info.num_train_images + info.num_eval_images == 57
    assert (tmp_path / "unreadable.txt").read_text().count("\n") == 3


def test_an_item_that_has_become_readable_is_made_again(tmp_path):
    """Its stamp is the same, as after a change of its permissions, and in a bucket always."""
    with pytest.raises(UserError, match="1 of 60"):
        build(tmp_path, Maker(bad={"item 4"}))
    maker = Maker()
    build(tmp_path, maker)
    (name,) = [shard.name for shard in plan() if ITEMS[4] in shard.items]
    assert set(maker.made) == keys_of(name)
    made = content(tmp_path)
    build(tmp_path / "clean")
    assert made == content(tmp_path / "clean")


def test_a_class_of_which_nothing_is_readable(tmp_path):
    items = [Item(f"item {n}", 1 + (n in (7, 55))) for n in range(60)]
    with pytest.raises(UserError, match="'bee' is readable for validation"):
        build(tmp_path, Maker(bad={"item 55"}), plan(items), max_bad_share=0.5)


def test_a_lower_limit_after_publishing_began_is_no_dead_end(tmp_path, monkeypatch):
    """Published files that lack items are written again, not taken for another data set's."""
    bad = {"item 4", "item 55"}

    def break_off(info, folder):
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(DatasetInfo, "write", break_off)
        with pytest.raises(RuntimeError):
            build(tmp_path, Maker(bad=bad), max_bad_share=0.1)
    assert "train-00000-of-00008" in content(tmp_path)
    with pytest.raises(UserError, match="2 of 60"):
        build(tmp_path, Maker(bad=bad))
    info = build(tmp_path, Maker(bad=bad), max_bad_share=0.1)
    assert info.num_train_images + info.num_eval_images == 58
