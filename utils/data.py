"""Lists the commands of `mnasnet-data`, which build, inspect and copy data sets of TFRecords."""

from __future__ import annotations

from utils.base import program
from utils.building import (
    bigtable_load,
    build_digits,
    build_fake,
    build_folder,
    build_imagenet,
    build_photographs,
    inspection,
    shared_arguments,
)

_DESCRIPTION = "Builds, inspects and copies data sets of TFRecords."
# In the order of the help.
_MODULES = (
    build_imagenet,
    build_folder,
    build_fake,
    build_digits,
    build_photographs,
    inspection,
    bigtable_load,
)


def main(argv: list[str]) -> int | None:
    """Runs one command; returns the exit status."""
    parser = program.ArgumentParser(prog="mnasnet-data", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _MODULES:
        module.add_command(commands)
    arguments = parser.parse_args(argv[1:])
    shared_arguments.check_folders(arguments)
    return arguments.run(arguments)


def console() -> None:
    """Runs the console command `mnasnet-data`."""
    program.run(main)


if __name__ == "__main__":
    console()
