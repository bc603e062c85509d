"""Runs `python -m utils.tpu_check`."""

from utils.tpu_check import command

command.console()
