"""The console commands that setup.py installs."""

import importlib
import pathlib
import re

import mnasnet_start

ROOT = pathlib.Path(__file__).parent.parent


def entry_points():
    """Returns console command -> name in mnasnet_start."""
    text = (ROOT / "setup.py").read_text()
    return dict(re.findall(r'"(mnasnet[\w-]*) = mnasnet_start:(\w+)"', text))


def console_commands():
    """Returns console command -> module that it runs."""
    return {
        command: getattr(mnasnet_start, name).args[0] for command, name in entry_points().items()
    }


def main_of(command):
    """Returns the main function of a console command."""
    return importlib.import_module(console_commands()[command]).main
