"""Builds a data set of sixty tiny records in ten files; its maker fails where a test wants it."""

import pytest
from built_data import features

from utils.building import shards
from utils.building.shards import Item, Made
from utils.reading import examples
from utils.reading.pictures import Unreadable

NAMES = ("ant", "bee", "cow")
DESCRIPTION = shards.describe("animals", shards.builder("test"), NAMES)
ITEMS = [Item(f"item {n}", n % 3 + 1) for n in range(60)]


def plan(items=tuple(ITEMS), count=8):
    """The files of 50 items for training and all further items for validation."""
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


def build(folder, make=None, plan_=None, description=DESCRIPTION, num_threads=2, **more):
    """Builds the data set; returns its description."""
    return shards.build(
        str(folder), description, plan_ or plan(), make or Maker(), num_threads=num_threads, **more
    )


def build_until_the_last_item(folder):
    """Builds the data set in order up to the last item, which fails: all other files are done."""
    with pytest.raises(RuntimeError):
        build(folder, Maker(fail_at=ITEMS[-1].key), num_threads=1)


def keys_of(*names):
    """The keys of the items in files of these names."""
    return {item.key for shard in plan() if shard.name in names for item in shard.items}


def keys_written(folder, split):
    """The keys of the items in the records of a split, in order."""
    encoded = [made["image/encoded"] for made in features(folder, split)]
    return [picture[: len(picture) // 50].decode() for picture in encoded]
