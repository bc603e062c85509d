"""Tests of the names of classes: how those of a model and of a data set are compared."""

import unicodedata

import pytest

from utils.base import files
from utils.reading import dataset_info
from utils.reading.dataset_info import Comparison

LINES = [line.split("\t") for line in files.read_text(dataset_info.IMAGENET_FILE).splitlines()]
SYNSETS, NAMES = zip(*LINES, strict=True)
DECOMPOSED = unicodedata.normalize("NFD", "Grävensteiner")


@pytest.mark.parametrize(
    ("of_model", "of_data", "order"),
    [
        (["cat", "dog"], ["cat", "dog"], None),
        ([], ["cat", "dog"], None),
        (["cat", "dog"], [], None),
        (["Boskoop", "Grävensteiner"], ["Boskoop", DECOMPOSED], None),
        (["golden retriever", "cat"], ["Golden_Retriever", "Cat"], None),
        (["cat", "dog", "fox"], ["fox", "cat", "dog"], (2, 0, 1)),
        (["cat", "dog", "fox"], ["cat", "fox"], (0, 2)),
        (["cat", "dog", "fox"], ["cat", "dog"], (0, 1)),
        (["Cardigan", "cardigan"], ["cardigan", "Cardigan"], (1, 0)),
        (["Boskoop", "Grävensteiner"], [DECOMPOSED, "Boskoop"], (1, 0)),
        # ImageNet, of which two classes are called polecat and two maillot.
        (NAMES, SYNSETS, None),
        (NAMES, [name.split(", ")[0] for name in NAMES], None),
        (NAMES, ["goldfish", "tench"], (1, 0)),
        (SYNSETS, ["English springer", "n01440764"], (217, 0)),
    ],
)
def test_names_of_the_same_classes(of_model, of_data, order):
    assert dataset_info.compare_names(of_model, of_data) == Comparison(order)


@pytest.mark.parametrize(
    ("of_model", "of_data", "named"),
    [
        (["cat", "dog", "fox"], ["a fox", "kitten", "puppy"], ["'a fox'", "'cat'"]),
        (["cat", "dog", "fox"], ["cat", "fox", "wolf"], ["'wolf'", "'dog'"]),
        (["cat", "dog"], ["cat", "dog", "fox"], ["'fox'"]),
        (["apple", "pear"], ["Apple", "apple"], ["'Apple'"]),
        (NAMES, ["tench", "polecat"], ["'polecat'"]),
    ],
)
def test_names_of_other_classes(of_model, of_data, named):
    found = dataset_info.compare_names(of_model, of_data)
    assert found.order is None
    for name in named:
        assert name in found.difference


def test_classes_of_very_unequal_size():
    assert dataset_info.unequal_sizes(["a", "b", "c"], [10, 0, 100]) is None
    said = dataset_info.unequal_sizes(["a", "b", "c"], [10, 0, 101])
    assert "10 ('a')" in said and "101 ('c')" in said
    assert "1 (class 1)" in dataset_info.unequal_sizes([], [99, 1])
