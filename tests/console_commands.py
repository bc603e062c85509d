"""The console commands that setup.py installs."""

import importlib
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def console_commands():
    """Returns console command -> module that it runs."""
    text = (ROOT / "setup.py").read_text()
    return dict(re.findall(r'"(mnasnet[\w-]*) = ([\w.]+):console"', text))


def main_of(command):
    """Returns the main function of a console command."""
    return importlib.import_module(console_commands()[command]).main
