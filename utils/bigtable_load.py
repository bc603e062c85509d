"""Copies a TFRecord data set into a Cloud Bigtable table, and compares the two."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

import imagenet_input
from utils import bigtable, progress, records
from utils.errors import UserError

PARALLEL = 8


def create_table(selection: imagenet_input.BigtableSelection) -> None:
    """Creates the table and the column family where they are missing."""
    try:
        from google.cloud import bigtable as admin
        from google.cloud.bigtable import column_family

        client = admin.Client(project=selection.project, admin=True)
        table = client.instance(selection.instance).table(selection.table)
        rule = column_family.MaxVersionsGCRule(1)
        if not table.exists():
            table.create(column_families={selection.column_family: rule})
        elif selection.column_family not in table.list_column_families():
            table.column_family(selection.column_family, rule).create()
    except Exception as e:  # errors of gRPC, google.auth and google.api_core
        raise UserError(
            f"The table {selection.table} cannot be created: {bigtable.cause(e)}."
        ) from e


def _examples(paths: list[str]) -> Iterator[bytes]:
    """The records of all files of a split, in the order in which evaluation reads them."""
    return itertools.chain.from_iterable(map(records.read_records, paths))


def _pages(examples: Iterator[bytes], first: int) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the page's first row, its examples)."""
    while page := list(itertools.islice(examples, bigtable.PAGE_ROWS)):
        yield first, page
        first += len(page)


def _in_order(work: Callable[[int, list[bytes]], Any], pages, bar: progress.Progress) -> int:
    """Works on pages in parallel, never far ahead of the oldest; returns the rows done.

    So an interruption leaves all rows written but those of the last `PARALLEL` pages.
    """
    done = 0
    running: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        try:
            for first, page in pages:
                running.append((pool.submit(work, first, page), first + len(page)))
                if len(running) == PARALLEL:
                    future, done = running.popleft()
                    future.result()
                    bar.update(done)
            for future, end in running:
                future.result()
                done = end
                bar.update(done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            bar.close()
    return done


def load_split(
    paths: list[str], selection: imagenet_input.BigtableSelection, from_start: bool = False
) -> int:
    """Writes the records of files as rows; returns their number.

    Rows that an earlier run wrote are skipped unless they differ at their beginning, or
    `from_start` is given.

    Raises:
      UserError: a file cannot be read or rows cannot be written.
    """
    total = sum(1 for _ in _examples(paths))
    rows = bigtable.RowReader(selection)
    skip = 0 if from_start else _rows_there(rows, paths, total)
    if skip:
        logging.info("%s: %d rows of an earlier run are there.", selection.prefix, skip)
    if skip == total:
        return total
    bar = progress.Progress(f"load {selection.prefix}", total, "row", skip, log_every=10000)
    examples = itertools.islice(_examples(paths), skip, None)
    return _in_order(rows.write, _pages(examples, skip), bar)


def _rows_there(rows: bigtable.RowReader, paths: list[str], total: int) -> int:
    """How many of the first rows need not be written again."""
    there = min(rows.count(), total)
    if there < total:
        # The last pages of an interrupted run may have gaps.
        there = max(0, there - (PARALLEL + 1) * bigtable.PAGE_ROWS)
    if there == 0:
        return 0
    sample = min(there, bigtable.PAGE_ROWS)
    same = rows.read(0, sample) == list(itertools.islice(_examples(paths), sample))
    return there if same else 0


def verify_split(paths: list[str], selection: imagenet_input.BigtableSelection) -> int:
    """Compares every row with the record it was made from; returns their number.

    Raises:
      UserError: names the first row that is missing, differs, or is too many.
    """
    rows = bigtable.RowReader(selection)
    total = sum(1 for _ in _examples(paths))
    bar = progress.Progress(f"verify {selection.prefix}", total, "row", log_every=10000)

    def compare(first: int, page: list[bytes]) -> None:
        for offset, (row, example) in enumerate(
            zip(rows.read(first, first + len(page)), page, strict=True)
        ):
            if row != example:
                raise UserError(
                    f"{rows}, row {rows.key(first + offset).decode()} differs from its record: "
                    "load the data again with --from_start."
                )

    done = _in_order(compare, _pages(_examples(paths), 0), bar)
    if rows.exists(done):
        raise UserError(
            f"{rows} has row {rows.key(done).decode()} though the files have only {done} records: "
            "delete the rows with this prefix and load again."
        )
    return done
