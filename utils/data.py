"""Builds data sets of TFRecords: `python -m utils.data COMMAND`, or `mnasnet-data COMMAND`."""

from __future__ import annotations

import argparse

from utils import cli, sample_data


def main(argv: list[str]) -> None:
    """Runs one command."""
    parser = argparse.ArgumentParser(prog="mnasnet-data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sample = commands.add_parser("sample", help="the handwritten digits of scikit-learn")
    sample.add_argument("--output_dir", required=True, help="folder for the files")
    arguments = parser.parse_args(argv[1:])
    sample_data.build(arguments.output_dir)


def console() -> None:
    """The console command `mnasnet-data`."""
    cli.run(main)


if __name__ == "__main__":
    console()
