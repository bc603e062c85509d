"""Tests of the command line of `mnasnet-data`; the commands have tests of their own."""

import re

import pytest

from utils import data as data_command
from utils.base.errors import UserError

COMMANDS = (
    "imagenet",
    "folder",
    "fake",
    "sample",
    "natural",
    "inspect",
    "bigtable-load",
    "bigtable-verify",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_explained(capsys, command):
    with pytest.raises(SystemExit) as stop:
        data_command.main(["x", command, "--help"])
    assert stop.value.code == 0
    usage, description, options = capsys.readouterr().out.split("\n\n", 2)
    assert usage.startswith(f"usage: mnasnet-data {command}")
    assert len(description.split()) > 4
    # The text stands behind the flag or, indented, on the next line.
    flags = re.findall(r"^  (--\S+)(?: \S+)?(?:\s+)(.*)", options, re.MULTILINE)
    assert flags
    for flag, text in flags:
        assert len(text.split("(default")[0].split()) >= 1 and "default:" not in text[:8], flag


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is missing: name a folder"),
        ("my [data]", r"has the character '\['"),
        ("a*", "has the"),
    ],
)
def test_folders_that_training_would_not_find(tmp_path, monkeypatch, command, name, words):
    monkeypatch.chdir(tmp_path)
    reads = command == "inspect" or command.startswith("bigtable")
    flag = "data_dir" if reads else "output_dir"
    arguments = [f"--{flag}={name}"]
    if command in ("imagenet", "folder"):
        arguments.append("--input_dir=nowhere")
    elif command.startswith("bigtable"):
        arguments += ["--project=p", "--instance=i"]
    with pytest.raises(UserError, match=f"--{flag}.*{words}"):
        data_command.main(["x", command, *arguments])
    assert list(tmp_path.iterdir()) == []
