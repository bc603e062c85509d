"""g3doc/differences.md: its defaults are those of the table of settings, and its flags exist."""

import pathlib
import re

import yaml

from utils.config import loading, settings

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
    """Returns name of a setting -> (cell with its default, flags that give the published one)."""
    return {
        name: (row[1], _GIVEN.findall(row[4])) for row in rows() for name in _FLAG.findall(row[0])
    }


def test_a_row_begins_with_the_default_and_gives_flags_that_exist():
    assert len(rows()) > 20
    for name, (here, flags) in rows_of_settings().items():
        default = settings.SETTINGS[name].default
        assert here.startswith(f"`{'unset' if default is None else default}`"), name
        loading.parse_flags(["mnasnet_main.py", *" ".join(flags).split()], "")


def test_every_default_that_differs_is_listed():
    for name, value in PUBLISHED.items():
        setting = settings.SETTINGS[name]
        published = settings.convert(name, value, name)
        if published != setting.default and str(published) != setting.unset:
            _, flags = rows_of_settings()[name]
            given = loading.parse_flags(["mnasnet_main.py", *" ".join(flags).split()], "")
            assert given[name] == published


def test_every_flag_exists():
    known = set(loading.define_flags()) | {"debug"}
    named = set(re.findall(r"(?<![\w-])--(\w+)", PAGE))
    assert named - known == set()
