"""Tests of the table of settings, and that each setting is read somewhere."""

import pathlib
import re

import pytest

from utils.base.errors import UserError
from utils.config import settings

ROOT = pathlib.Path(__file__).parents[2]
NUMBERS = [s for s in settings.SETTINGS.values() if s.kind in (int, float)]


# Every setting is read.

RESOLVES = re.compile(r'\s*(?:params|given)\["\w+"\] = ')  # sets a value, and so uses none
READS = re.compile(r"(?:params|given)(?:\.get\(|\[)([^\])]*)")


def names_read():
    """Returns the names that modules read as params["name"], params.get("name") and the like."""
    names = set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")]:
        for line in path.read_text().splitlines():
            if not RESOLVES.match(line):
                for key in READS.findall(line):
                    names.update(re.findall(r'"(\w+)"', key))
    return names


def test_every_setting_is_read_somewhere():
    assert set(settings.SETTINGS) - names_read() == set()


def test_every_name_that_is_read_is_a_setting():
    """A misspelt key is a KeyError only when its line runs."""
    of_tpu_estimator = {"batch_size", "context"}
    assert names_read() - set(settings.SETTINGS) == of_tpu_estimator


# The table.


def test_names_are_unique_and_flags_do_not_collide():
    listed = [s.name for group in settings.GROUPS.values() for s in group]
    flags = listed + [s.alias for s in settings.SETTINGS.values() if s.alias]
    assert len(set(listed)) == len(listed) == len(settings.SETTINGS)
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("setting", settings.SETTINGS.values(), ids=lambda s: s.name)
def test_each_setting_is_described_and_its_default_is_possible(setting):
    assert setting.name.isidentifier()
    assert setting.help.endswith(".")
    assert setting.kind in (bool, int, float, str, object)
    if setting.default is not None:
        assert type(setting.default) is setting.kind
        assert settings.convert(setting.name, setting.default, "default") == setting.default
    if setting.choices is not None:
        assert setting.kind is str


def test_defaults_are_the_published_recipe():
    defaults = settings.default_params()
    assert list(defaults) == list(settings.SETTINGS)
    recipe = {
        "model_name": "mnasnet-a1",
        "train_batch_size": 1024,
        "eval_batch_size": 1024,
        "train_steps": 437898,
        "steps_per_eval": 6255,
        "num_train_images": 1281167,
        "num_eval_images": 50000,
        "num_label_classes": 1000,
        "base_learning_rate": 0.016,
        "warmup_epochs": 5,
        "lr_decay_rate": 0.97,
        "lr_decay_epochs": 2.4,
        "momentum": 0.9,
        "rmsprop_decay": 0.9,
        "rmsprop_epsilon": 0.001,
        "weight_decay": 1e-5,
        "label_smoothing": 0.1,
        "moving_average_decay": 0.9999,
        "input_image_size": 224,
        "resize_method": "bicubic",
        "min_crop_area": 0.08,
        "random_flip": True,
        "precision": "float32",
        "data_format": "channels_last",
        "dropout_rate": None,
        "use_keras": None,
        "bigtable_table": "imagenet",
        "bigtable_train_prefix": "train_",
        "bigtable_eval_prefix": "validation_",
        "bigtable_column_family": "tfexample",
        "bigtable_column_qualifier": "example",
    }
    assert {name: defaults[name] for name in recipe} == recipe


def test_default_params_are_a_fresh_dict():
    settings.default_params()["train_steps"] = 1
    assert settings.default_params()["train_steps"] == 437898


def test_imagenet_counts_fill_only_what_is_unset():
    params = {"num_train_images": None, "num_eval_images": 0, "num_label_classes": 10, "other": 1}
    filled = settings.with_imagenet_counts(params)
    assert filled == {**params, "num_train_images": 1281167}
    assert params["num_train_images"] is None


def test_what_travels_with_a_checkpoint_are_settings():
    assert set(settings.CARRIED) <= set(settings.SETTINGS)
    assert set(settings.ARCHITECTURE) <= set(settings.CARRIED)


# Conversion.


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("use_tpu", "true", True),
        ("use_tpu", "False", False),
        ("use_tpu", "0", False),
        ("use_tpu", " yes ", True),
        ("use_tpu", False, False),
        ("train_steps", "100", 100),
        ("train_steps", "1e3", 1000),
        ("train_steps", 100.0, 100),
        ("tf_random_seed", 2**60 + 1, 2**60 + 1),
        ("tf_random_seed", "0", 0),
        ("base_learning_rate", "1e-3", 0.001),
        ("base_learning_rate", 0, 0.0),
        ("dropout_rate", "0", 0.0),
        ("dropout_rate", 0, 0.0),
        ("moving_average_decay", 0, 0.0),
        ("tpu", 5, "5"),
        ("model_dir", "x", "x"),
        ("mode", "eval", "eval"),
        ("model_spec", "mine.yaml", "mine.yaml"),
        ("model_spec", {"stages": []}, {"stages": []}),
        ("dropout_rate", None, None),
        ("min_crop_area", "0.5", 0.5),
        ("min_depth", 0, None),
        ("min_depth", "0", None),
        ("depth_multiplier", "0.0", None),
        ("batch_norm_epsilon", 0, None),
        ("eval_master", "", ""),
        ("quantization_delay_epochs", "0", 0),
    ],
)
def test_conversion(name, value, expected):
    converted = settings.convert(name, value, f"--{name}={value}")
    assert converted == expected
    assert type(converted) is type(expected)


def test_a_large_whole_number_keeps_its_digits_as_text():
    assert settings.convert("tf_random_seed", "9007199254740993", "") == 9007199254740993


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("use_tpu", "maybe", "true or false"),
        ("use_tpu", 2, "true or false"),
        ("use_tpu", "", "true or false"),
        ("train_steps", "many", "a whole number"),
        ("train_steps", "1.5", "a whole number"),
        ("train_steps", True, "a whole number"),
        ("train_steps", "", "a whole number"),
        ("train_steps", [1], "a whole number"),
        ("base_learning_rate", "nan", "a number"),
        ("base_learning_rate", "inf", "a number"),
        ("base_learning_rate", False, "a number"),
        ("base_learning_rate", "0,1", "a number"),
        ("model_dir", ["x"], "a text"),
        ("model_dir", True, "a text"),
        ("model_spec", 3, "a file name or a mapping"),
    ],
)
def test_what_cannot_be_converted_is_a_users_error(name, value, expected):
    with pytest.raises(UserError) as error:
        settings.convert(name, value, f"--{name}=VALUE")
    assert f"--{name}=VALUE" in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("mode", "test", "train_and_eval, train, eval, export_only"),
        ("precision", "float16", "bfloat16"),
        ("resize_method", "nearest", "bilinear"),
        ("train_steps", 0, "1"),
        ("train_batch_size", -5, "1"),
        ("dropout_rate", 1, "1"),
        ("dropout_rate", -0.1, "0"),
        ("momentum", 1.5, "1"),
        ("depth_multiplier", -0.5, "0"),
        ("min_depth", -1, "1"),
        ("num_label_classes", 1, "2"),
        ("input_image_size", 31, "32"),
        ("min_crop_area", 0, "0"),
        ("label_smoothing", 1.0, "1"),
        ("momentum", 1 - 1e-9, "1"),
        ("train_batch_size", 10**18, "1048576"),
        ("train_steps", 10**400, "1000000000"),
        ("model_dir", "x" * 5000, "4096"),
        ("model_dir", "a\0b", "cannot be printed"),
        ("model_dir", "a\udcff", "cannot be printed"),
    ],
)
def test_what_is_out_of_limits_is_a_users_error(name, value, limit):
    with pytest.raises(UserError) as error:
        settings.convert(name, value, f"--{name}=VALUE")
    assert f"--{name}=VALUE" in str(error.value)
    assert limit in str(error.value).replace("VALUE", "")


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda s: s.name)
def test_limits_hold_at_their_edges(setting):
    def accepted(value):
        try:
            return settings.convert(setting.name, value, setting.name) is not None
        except UserError:
            return False

    if setting.minimum is not None:
        assert accepted(setting.minimum)
        assert not accepted(setting.minimum - 1)
    if setting.above is not None:
        assert not accepted(setting.above)
        assert accepted(setting.above + 0.5)
    if setting.below is not None:
        assert not accepted(setting.below)
        assert accepted(setting.below - 0.01)
    if setting.maximum is not None:
        assert accepted(setting.maximum)
        assert not accepted(setting.maximum + 1)
    if setting.minimum is None and setting.above is None:
        pytest.fail(f"{setting.name} has no lower limit, but a negative number means nothing")
    if setting.maximum is None and setting.below is None:
        pytest.fail(f"{setting.name} has no upper limit, but TensorFlow's numbers have")


def test_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"file\.yaml.*'train_step'.*'train_steps'"):
        settings.check_known(["model_dir", "train_step"], "file.yaml")
    with pytest.raises(UserError, match="'qqq'"):
        settings.check_known(["qqq"], "file.yaml")
    with pytest.raises(UserError, match="3"):
        settings.check_known([3], "file.yaml")
    settings.check_known(settings.SETTINGS, "file.yaml")
