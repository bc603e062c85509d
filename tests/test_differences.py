"""g3doc/differences.md: its defaults are those of the table of settings, and its flags exist."""

import pathlib
import re

import pytest
import yaml

from utils.config import setting_flags, settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "g3doc/differences.md").read_text()
PUBLISHED = yaml.safe_load((ROOT / "tests/golden/published_defaults.yaml").read_text())
COLUMNS = 5
_FLAG = re.compile(r"`--(\w+)`")
_GIVEN = re.compile(r"`(--[^`]*=[^`]*)`")


def rows():
    """Returns the cells of each row of the table of differences."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in table if len(row) == COLUMNS][1:]


def rows_of_settings():
    """Returns (setting, cell with its default, cell with the published flags)."""
    return [
        (settings.SETTINGS[name], row[1], row[4])
        for row in rows()
        for name in _FLAG.findall(row[0])
    ]


each_setting = pytest.mark.parametrize(
    ("setting", "here", "remedy"), rows_of_settings(), ids=lambda value: getattr(value, "name", "")
)


def test_the_table_is_found():
    assert len(rows()) > 20
    assert {row[0] for row in rows()} >= {"`--resize_method`", "`--momentum`"}


@each_setting
def test_a_row_begins_with_the_default(setting, here, remedy):
    default = "unset" if setting.default is None else str(setting.default)
    assert here.startswith(f"`{default}`")


@each_setting
def test_what_the_row_gives_can_be_given(setting, here, remedy):
    for text in _GIVEN.findall(remedy):
        setting_flags.parse_settings(["mnasnet_main.py", *text.split()], "")


def test_every_default_that_differs_is_listed():
    listed = {setting.name for setting, _, _ in rows_of_settings()}
    for name, value in PUBLISHED.items():
        setting = settings.SETTINGS[name]
        published = settings.convert(name, value, name)
        if published != setting.default and str(published) != setting.unset:
            assert name in listed
            remedy = next(remedy for s, _, remedy in rows_of_settings() if s is setting)
            given = setting_flags.parse_settings(
                ["mnasnet_main.py", *" ".join(_GIVEN.findall(remedy)).split()], ""
            )
            assert given[name] == published


def test_every_flag_exists():
    known = set(setting_flags.define_flags()) | {"debug"}
    named = set(re.findall(r"(?<![\w-])--(\w+)", PAGE))
    assert named - known == set()
