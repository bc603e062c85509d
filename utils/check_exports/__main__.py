"""Runs `python -m utils.check_exports`."""

from utils.check_exports import command

command.console()
