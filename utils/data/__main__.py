"""Runs `python -m utils.data`."""

from utils.data.command import command

command.console()
