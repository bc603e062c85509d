"""Builds, inspects and copies data sets of TFRecords: `mnasnet-data COMMAND`."""

from __future__ import annotations

from utils.base import program
from utils.data import (
    bigtable_load,
    build_digits,
    build_fake,
    build_folder,
    build_imagenet,
    build_photographs,
    inspection,
    shared_arguments,
)


def main(argv: list[str]) -> int | None:
    """Runs one command; returns the exit status."""
    parser = program.ArgumentParser(prog="mnasnet-data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build_imagenet.add_command(commands)
    build_folder.add_command(commands)
    build_fake.add_command(commands)
    build_digits.add_sample(commands)
    build_photographs.add_natural(commands)
    inspection.add_command(commands)
    load = bigtable_load.add_bigtable(
        commands, "bigtable-load", bigtable_load.load,
        "copy a data set into a Bigtable table: rows that are there and agree with the files stay, "
        "those that are missing or differ are written",
    )  # fmt: skip
    load.add_argument("--create", action="store_true", help="create table and family if missing")
    bigtable_load.add_bigtable(
        commands, "bigtable-verify", bigtable_load.verify, "compare a Bigtable table with the files"
    )
    arguments = parser.parse_args(argv[1:])
    shared_arguments.check_folders(arguments)
    return arguments.run(arguments)


def console() -> None:
    """The console command `mnasnet-data`."""
    program.run(main)


if __name__ == "__main__":
    console()
