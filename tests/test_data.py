"""Tests of the command line of `mnasnet-data`; the commands have tests of their own."""

import re

import pytest

from utils import data

COMMANDS = (
    "imagenet", "folder", "fake", "sample", "natural", "inspect", "bigtable-load",
    "bigtable-verify",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_explained(capsys, command):
    with pytest.raises(SystemExit) as stop:
        data.main(["x", command, "--help"])
    assert stop.value.code == 0
    usage, description, options = capsys.readouterr().out.split("\n\n", 2)
    assert usage.startswith(f"usage: mnasnet-data {command}")
    assert len(description.split()) > 4
    # The text stands behind the flag or, indented, on the next line.
    flags = re.findall(r"^  (--\S+)(?: \S+)?(?:\s+)(.*)", options, re.MULTILINE)
    assert flags
    for flag, text in flags:
        assert len(text.split("(default")[0].split()) >= 1 and "default:" not in text[:8], flag
