"""The console commands: all are installed, listed, and quick to answer --help and wrong flags."""

import pathlib
import re
import subprocess
import sys

import pytest
from console_commands import console_commands

ROOT = pathlib.Path(__file__).parent.parent


def test_every_command_has_a_console_command():
    commands = {f"utils.{path.stem}" for path in ROOT.glob("utils/*.py")} - {"utils.__init__"}
    assert set(console_commands().values()) == {"mnasnet_main", *commands}


def test_the_page_lists_every_console_command():
    rows = re.findall(
        r"^\| `([\w-]+)` \| `python (?:-m )?([\w.]+)` \|",
        (ROOT / "g3doc/commands.md").read_text(),
        re.M,
    )
    assert {name: module.removesuffix(".py") for name, module in rows} == console_commands()


@pytest.mark.parametrize("module", sorted(console_commands().values()))
def test_help_and_wrong_flags_are_answered_without_tensorflow(module):
    """TensorFlow takes seconds to load, so no command loads it before it knows what to do."""
    code = (
        "import importlib, sys\n"
        "for flag in ('--help', '--no_such_flag=1'):\n"
        "    sys.argv = ['command', flag]\n"
        "    try:\n"
        f"        importlib.import_module({module!r}).console()\n"
        "    except SystemExit as end:\n"
        "        assert bool(end.code) == (flag != '--help'), end.code\n"
        "    assert 'tensorflow' not in sys.modules, flag\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--debug shows the stack trace" in done.stdout
    assert "error: " in done.stderr
