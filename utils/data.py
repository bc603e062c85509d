"""Builds, inspects and copies data sets of TFRecords: `mnasnet-data COMMAND`."""

from __future__ import annotations

import argparse

from absl import logging

import imagenet_input
from utils import (
    bigtable_load,
    build_fake,
    build_folder,
    build_imagenet,
    data_arguments,
    inspect_data,
    natural_data,
    program,
    records,
    sample_data,
    settings,
)


def _add_sample(commands) -> None:
    text = "make the sample: scikit-learn's digits"
    sample = commands.add_parser("sample", help=text, description=text)
    sample.add_argument("--output_dir", required=True, help="folder for the files")
    sample.set_defaults(run=lambda arguments: sample_data.build(arguments.output_dir))


def _add_natural(commands) -> None:
    text = "make the pictures for fine-tuning: crops of photographs"
    natural = commands.add_parser("natural", help=text, description=text)
    natural.add_argument("--output_dir", required=True, help="folder for the files")
    natural.set_defaults(run=lambda arguments: natural_data.build(arguments.output_dir))


def _add_bigtable(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--data_dir", required=True, help="folder or bucket of TFRecords")
    parser.add_argument("--project", required=True, help="Google Cloud project")
    parser.add_argument("--instance", required=True, help="Bigtable instance")
    for part in ("table", "train_prefix", "eval_prefix", "column_family", "column_qualifier"):
        setting = settings.SETTINGS[f"bigtable_{part}"]
        what = setting.help[0].lower() + setting.help[1:].rstrip(".")
        parser.add_argument(
            f"--{part}", default=setting.default, help=f"{what} (default: {setting.default})"
        )
    parser.set_defaults(run=run)
    return parser


def _splits(arguments) -> list[tuple[list[str], imagenet_input.BigtableSelection]]:
    """(files, selection) of each split; UserError if one has no files."""
    return [
        (
            records.list_files(arguments.data_dir, file_prefix),
            imagenet_input.BigtableSelection(
                arguments.project, arguments.instance, arguments.table, row_prefix,
                arguments.column_family, arguments.column_qualifier,
            ),
        )
        for file_prefix, row_prefix in (
            (imagenet_input.TRAIN_PREFIX, arguments.train_prefix),
            (imagenet_input.EVAL_PREFIX, arguments.eval_prefix),
        )
    ]  # fmt: skip


def _load(arguments) -> None:
    splits = _splits(arguments)
    if arguments.create:
        bigtable_load.create_table(splits[0][1])
    # Both are checked before the first row is written.
    totals = [bigtable_load.check_split(*split) for split in splits]
    for (paths, selection), total in zip(splits, totals, strict=True):
        written = bigtable_load.load_split(paths, selection, total)
        logging.info(
            "%s: %d rows in table %s, %d of them written now.",
            selection.prefix, total, selection.table, written,
        )  # fmt: skip


def _verify(arguments) -> None:
    for paths, selection in _splits(arguments):
        count = bigtable_load.verify_split(paths, selection)
        logging.info("%s: all %d rows agree with the files.", selection.prefix, count)


def main(argv: list[str]) -> int | None:
    """Runs one command; returns the exit status."""
    parser = program.ArgumentParser(prog="mnasnet-data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build_imagenet.add_command(commands)
    build_folder.add_command(commands)
    build_fake.add_command(commands)
    _add_sample(commands)
    _add_natural(commands)
    inspect_data.add_command(commands)
    load = _add_bigtable(
        commands, "bigtable-load", _load,
        "copy a data set into a Bigtable table: rows that are there and agree with the files stay, "
        "those that are missing or differ are written",
    )  # fmt: skip
    load.add_argument("--create", action="store_true", help="create table and family if missing")
    _add_bigtable(commands, "bigtable-verify", _verify, "compare a Bigtable table with the files")
    arguments = parser.parse_args(argv[1:])
    data_arguments.check_folders(arguments)
    return arguments.run(arguments)


def console() -> None:
    """The console command `mnasnet-data`."""
    program.run(main)


if __name__ == "__main__":
    console()
