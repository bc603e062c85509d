"""Tests of reading YAML: what is read, and that all that is not is a sentence with its source."""

import pytest

from utils.base.errors import UserError
from utils.config import strict_yaml


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5]\n", {"a": 1, "b": ["x", 2.5]}),
        ('{"a": null, "b": true}', {"a": None, "b": True}),
        ("run: 2026-01-01", {"run": "2026-01-01"}),
        ("run: 2026-99-99", {"run": "2026-99-99"}),
        ("a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}),
        ("a: &x {c: 1, d: 2}\nb: {<<: *x, c: 3}\n", {"a": {"c": 1, "d": 2}, "b": {"c": 3, "d": 2}}),
        ("a: {x: 1}\nb: {x: 2}\n", {"a": {"x": 1}, "b": {"x": 2}}),
    ],
)
def test_what_is_read(text, content):
    assert strict_yaml.load(text, "a.yaml") == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [\n", "line 2, column 1"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: a is given twice"),
        ("a: !!int x", "line 1, column 4: 'x' cannot be read as int"),
        ("a: " + "[" * 2000, "nested too deeply"),
        ("a: &x [*x]", "line 1, column 4: it contains itself"),
        ("a: " + "9" * 5001, "cannot be read as int"),
    ],
)
def test_what_cannot_be_read_names_the_place(text, words):
    with pytest.raises(UserError, match=f"^a.yaml is not valid YAML: .*{words}") as error:
        strict_yaml.load(text, "a.yaml")
    assert "\n" not in str(error.value)
