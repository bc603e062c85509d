"""Copies a data set into a Cloud Bigtable table: `bigtable-load` and `bigtable-verify`."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Iterator

from absl import logging

from utils.base import progress
from utils.base.errors import UserError
from utils.config import loading, settings
from utils.reading import bigtable, records
from utils.reading.bigtable import BigtableSelection

PARALLEL = 8


def create_table(selection: BigtableSelection) -> None:
    """Creates the table and the column family if they are missing.

    Raises:
      UserError: the server does not answer, or refuses.
    """
    # Asked first, because the client that makes tables waits a minute for an absent server.
    there = bigtable.RowReader(selection).has_table()
    try:
        from google.cloud import bigtable as admin
        from google.cloud.bigtable import column_family

        client = admin.Client(project=selection.project, admin=True)
        table = client.instance(selection.instance).table(selection.table)
        rule = column_family.MaxVersionsGCRule(1)
        if not there:
            table.create(column_families={selection.column_family: rule})
        elif selection.column_family not in table.list_column_families():
            table.column_family(selection.column_family, rule).create()
    except Exception as e:  # errors of gRPC, google.auth and google.api_core
        raise UserError(
            f"The table {selection.table} cannot be created: {bigtable.cause(e)}."
        ) from e


def _examples(paths: list[str]) -> Iterator[bytes]:
    """Yields the records of all files of a split in the order in which evaluation reads them."""
    return itertools.chain.from_iterable(map(records.read_records, paths))


def _pages(paths: list[str]) -> Iterator[tuple[int, list[bytes]]]:
    """Yields (number of a page's first row, the examples of the page)."""
    first, examples = 0, _examples(paths)
    while page := list(itertools.islice(examples, bigtable.PAGE_ROWS)):
        yield first, page
        first += len(page)


def _in_order(
    work: Callable[[int, list[bytes]], int], paths: list[str], bar: progress.Progress
) -> int:
    """Works on pages in parallel, never far ahead of the oldest; returns the sum of the results.

    So at an interruption at most the last `PARALLEL` pages have gaps.
    """
    result = 0
    running: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        try:
            for first, page in _pages(paths):
                running.append((pool.submit(work, first, page), first + len(page)))
                if len(running) == PARALLEL:
                    future, done = running.popleft()
                    result += future.result()
                    bar.update(done)
            for future, done in running:
                result += future.result()
                bar.update(done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            bar.close()
    return result


def check_split(paths: list[str], selection: BigtableSelection) -> int:
    """Returns the number of records in files that are to become rows.

    Raises:
      UserError: a file cannot be read, or the table has more rows than there are records.
    """
    total = sum(1 for _ in _examples(paths))
    _check_end(bigtable.RowReader(selection), total)
    return total


def _check_end(rows: bigtable.RowReader, total: int) -> None:
    """Raises UserError if the table has a row after the last record's."""
    further = rows.first_row(total)
    if further is not None:
        raise UserError(
            f"{rows} has row {further.row_key.decode()} though the files have only {total} "
            "records: is it another data set's? Name another table or prefix, or delete this row "
            "and those behind it."
        )


def load_split(paths: list[str], selection: BigtableSelection, total: int) -> int:
    """Makes the rows hold the `total` records of files; returns how many rows were written.

    Rows are read back first, and a page whose rows all agree with the records is left alone. So an
    interrupted load resumes, and rows that are missing or differ are repaired.

    Raises:
      UserError: a file cannot be read, or rows cannot be read or written.
    """
    rows = bigtable.RowReader(selection)

    def load(first: int, page: list[bytes]) -> int:
        # A row that is too large to be read back is written anew.
        with contextlib.suppress(bigtable.CorruptRowError):
            if rows.values(first, first + len(page), bigtable.RUN_TIMEOUT_S) == page:
                return 0
        rows.write(first, page)
        return len(page)

    bar = progress.Progress(f"load {selection.prefix}", total, "row", log_every=10000)
    return _in_order(load, paths, bar)


def verify_split(paths: list[str], selection: BigtableSelection) -> int:
    """Compares every row with the record it was made from; returns their number.

    Raises:
      UserError: names the first row that is missing, differs or has no record.
    """
    rows = bigtable.RowReader(selection)
    total = sum(1 for _ in _examples(paths))
    bar = progress.Progress(f"verify {selection.prefix}", total, "row", log_every=10000)

    def compare(first: int, page: list[bytes]) -> int:
        there = rows.values(first, first + len(page))
        for number, (value, example) in enumerate(zip(there, page, strict=True), first):
            if value is None:
                raise rows.missing(number)
            if value != example:
                raise UserError(
                    f"{rows}, row {rows.key(number).decode()} differs from its record: load the "
                    "data again (mnasnet-data bigtable-load writes the rows that differ)."
                )
        return len(page)

    compared = _in_order(compare, paths, bar)
    _check_end(rows, compared)
    return compared


def add_command(commands) -> None:
    """Adds `bigtable-load` and `bigtable-verify` to the commands."""
    text = (
        "copy a data set into a Bigtable table; only rows that are missing or differ from the "
        "files are written"
    )
    load = commands.add_parser("bigtable-load", help=text, description=text)
    _add_flags(load)
    load.add_argument(
        "--create", action="store_true", help="create the table and the family if they are missing"
    )
    load.set_defaults(run=_load)
    text = "compare a Bigtable table with the files"
    verify = commands.add_parser("bigtable-verify", help=text, description=text)
    _add_flags(verify)
    verify.set_defaults(run=_verify)


def _add_flags(parser) -> None:
    """Adds the flags that say which files and which rows are meant."""
    parser.add_argument("--data_dir", required=True, help="folder or bucket of TFRecords")
    loading.add_arguments(parser, ("train_files", "eval_files"))
    parser.add_argument("--project", required=True, help="Google Cloud project")
    parser.add_argument("--instance", required=True, help="Bigtable instance")
    for part in ("table", "train_prefix", "eval_prefix", "column_family", "column_qualifier"):
        setting = settings.SETTINGS[f"bigtable_{part}"]
        what = setting.help[0].lower() + setting.help[1:].rstrip(".")
        parser.add_argument(
            f"--{part}", default=setting.default, help=f"{what} (default: {setting.default})"
        )


def _splits(arguments) -> list[tuple[list[str], BigtableSelection]]:
    """Returns (files, selection) of each split; UserError if one has no files."""
    return [
        (
            records.list_files(arguments.data_dir, file_prefix, vars(arguments)),
            BigtableSelection(
                arguments.project,
                arguments.instance,
                arguments.table,
                row_prefix,
                arguments.column_family,
                arguments.column_qualifier,
            ),
        )
        for file_prefix, row_prefix in (
            (records.TRAIN_PREFIX, arguments.train_prefix),
            (records.EVAL_PREFIX, arguments.eval_prefix),
        )
    ]


def _load(arguments) -> None:
    """Runs `bigtable-load`."""
    splits = _splits(arguments)
    if arguments.create:
        create_table(splits[0][1])
    # Both splits are checked before the first row is written.
    totals = [check_split(*split) for split in splits]
    for (paths, selection), total in zip(splits, totals, strict=True):
        written = load_split(paths, selection, total)
        logging.info(
            "%s: %d rows in table %s, %d of them written now.",
            selection.prefix,
            total,
            selection.table,
            written,
        )


def _verify(arguments) -> None:
    """Runs `bigtable-verify`."""
    for paths, selection in _splits(arguments):
        count = verify_split(paths, selection)
        logging.info("%s: all %d rows agree with the files.", selection.prefix, count)
