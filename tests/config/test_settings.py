"""Tests of the table of settings, and that each setting is read somewhere."""

import pathlib
import re

import pytest

from utils.base.errors import UserError
from utils.config import settings

ROOT = pathlib.Path(__file__).parents[2]
READS = re.compile(r"(?:params|given)(?:\.get\(|\[)([^\])]*)")


def test_every_setting_is_read_and_every_name_that_is_read_is_a_setting():
    """A misspelt key is a KeyError only when its line runs."""
    named, read = set(), set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")]:
        if path.name != "settings.py":
            text = path.read_text()
            named.update(re.findall(r'"(\w+)"', text))
            read.update(re.findall(r'"(\w+)"', " ".join(READS.findall(text))))
    assert set(settings.SETTINGS) - named == set()
    assert read - set(settings.SETTINGS) == {"batch_size", "context"}  # of TPUEstimator


def test_the_table():
    flags = [*settings.SETTINGS, *(s.alias for s in settings.SETTINGS.values() if s.alias)]
    assert len(set(flags)) == len(flags) > 80
    assert list(settings.default_params()) == list(settings.SETTINGS)
    assert set(settings.CARRIED) < set(settings.SETTINGS)
    for name, setting in settings.SETTINGS.items():
        assert setting.help.endswith("."), name
        if setting.default is not None:
            assert type(setting.default) is setting.kind, name
            assert settings.convert(name, setting.default, name) == setting.default


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("use_tpu", "true", True),
        ("use_tpu", " no ", False),
        ("use_tpu", False, False),
        ("train_steps", "1e3", 1000),
        ("train_steps", 100.0, 100),
        ("tf_random_seed", "9007199254740993", 9007199254740993),
        ("base_learning_rate", "1e-3", 0.001),
        ("dropout_rate", 0, 0.0),
        ("dropout_rate", None, None),
        ("tpu", 5, "5"),
        ("eval_master", "", ""),
        ("model_spec", {"stages": []}, {"stages": []}),
        ("min_depth", "0", None),
        ("batch_norm_epsilon", 0, None),
    ],
)
def test_conversion(name, value, expected):
    converted = settings.convert(name, value, f"--{name}={value}")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("use_tpu", "maybe", "true or false"),
        ("train_steps", "1.5", "a whole number"),
        ("train_steps", True, "a whole number"),
        ("train_steps", [1], "a whole number"),
        ("base_learning_rate", "nan", "a number"),
        ("model_dir", ["x"], "a text"),
        ("model_spec", 3, "a file name or a mapping"),
        ("mode", "test", "train_and_eval, train, eval, export_only"),
        ("model_dir", "a\0b", "cannot be printed"),
        ("model_dir", "a\udcff", "cannot be printed"),
    ],
)
def test_what_cannot_be_converted_is_a_users_error(name, value, expected):
    with pytest.raises(UserError) as error:
        settings.convert(name, value, f"--{name}=VALUE")
    assert f"--{name}=VALUE" in str(error.value) and expected in str(error.value)


def test_limits_hold_at_their_edges():
    def is_accepted(name, value):
        try:
            return settings.convert(name, value, name) is not None
        except UserError:
            return False

    for name, setting in settings.SETTINGS.items():
        if setting.kind not in (int, float):
            continue
        minimum, maximum, above, below = setting.limits
        assert (minimum is None) != (above is None) and (maximum is None) != (below is None), name
        assert not is_accepted(name, minimum - 1 if above is None else above), name
        assert not is_accepted(name, maximum + 1 if below is None else below), name
        assert is_accepted(name, minimum or 0.5 if setting.kind is float else minimum), name
        assert is_accepted(name, 0.99 if maximum is None else maximum), name


def test_params_are_completed_and_converted():
    given = {"train_batch_size": "8", "use_keras": None, "min_depth": 0, "context": "of TPU"}
    completed = settings.completed(given)
    assert (completed["train_batch_size"], completed["min_depth"]) == (8, None)
    assert completed["context"] == "of TPU" and set(settings.SETTINGS) < set(completed)
    with pytest.raises(UserError, match="params: momentum=2 is invalid"):
        settings.completed({"momentum": 2})
