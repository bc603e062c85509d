"""Runs `python -m utils.tpu_check`."""

from utils.tpu_check.command import command

command.console()
