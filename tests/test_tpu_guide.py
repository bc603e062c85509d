"""The commands in g3doc/tpu_guide.md: their flags exist and their settings go together."""

import pathlib
import re
import shlex

import pytest

from utils import cli, configuration, data, tpu_check
from utils.errors import UserError

GUIDE = (pathlib.Path(__file__).parent.parent / "g3doc/tpu_guide.md").read_text()


def commands(start):
    """Arguments of the guide's commands that start so, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", GUIDE).splitlines()
    found = [line.strip() for line in lines if line.startswith(f"    {start}")]
    return [shlex.split(line, comments=True) for line in found]


PROGRAM = commands("python mnasnet_main.py")
DATA = commands("python -m utils.data")
CHECK = commands("python -m utils.tpu_check")


def test_the_guide_has_commands():
    assert len(PROGRAM) == 5 and len(DATA) == 2 and len(CHECK) == 1


@pytest.mark.parametrize("words", PROGRAM, ids=lambda words: " ".join(words[2:4]))
def test_settings_of_the_program(words, tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "NAME")
    # The bucket is here: resolving settings looks for dataset_info.json and params.yaml there.
    arguments = [word.replace("gs://BUCKET", str(tmp_path)) for word in words[1:]]
    params = configuration.resolve(cli.parse_settings(arguments, ""))
    assert params["use_tpu"] == ("--use_tpu=False" not in words)
    assert params["tpu"] or not params["use_tpu"]
    if params["use_tpu"]:
        hosts = 4 if "--config_file=v2-32" in words else 1
        assert params["train_batch_size"] == hosts * 8 * 128


@pytest.mark.parametrize("words", DATA, ids=lambda words: words[3])
def test_arguments_of_the_data_commands(words, tmp_path):
    """Parsed, they get as far as looking for the files; a wrong flag would be a SystemExit."""
    with pytest.raises(UserError, match="imagenet"):
        data.main([word.replace("gs://BUCKET", str(tmp_path)) for word in words[2:]])


@pytest.mark.parametrize("words", CHECK, ids=lambda words: words[3])
def test_arguments_of_the_check(words):
    assert len(tpu_check.cases(tpu_check._parser().parse_args(words[3:]))) == 1
