"""Runs `python -m utils.data`."""

from utils.data import command

command.console()
