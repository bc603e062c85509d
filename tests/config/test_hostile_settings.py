"""Each setting that no run can take ends in one sentence, before anything is built."""

import hostile_settings
import pytest
from absl import flags

from utils.base.errors import UserError
from utils.config import setting_flags
from utils.training import configuration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings")
    hostile_settings.write_files(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    hostile_settings.CASES,
    ids=[ascii(arguments[0])[1:40] for arguments, _ in hostile_settings.CASES],
)
def test_hostile_settings_end_in_one_sentence(folder, arguments, expected):
    argv = ["mnasnet_main.py", *hostile_settings.with_folder(arguments, folder)]
    with pytest.raises((UserError, flags.Error)) as error:
        configuration.resolve(setting_flags.parse_settings(argv, ""))
    sentence = str(error.value)
    assert expected in sentence
    assert len(sentence) < 1000


def test_the_table_is_large():
    assert len(hostile_settings.CASES) >= 120
