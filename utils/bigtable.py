"""Rows of Cloud Bigtable as a dataset of serialized examples.

Pages of rows are read eagerly with google-cloud-bigtable's data client: its operation timeout also
counts the time that a slow consumer blocks, so one long scan would be killed. Every page's keys
are checked against those expected, because a wrong prefix, a missing column family and a table
emptied in mid-run all look like "no more rows".
"""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
from absl import logging

from utils import records
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

PAGE_ROWS = 128  # a larger page costs memory, a smaller one calls (make bench-bigtable)
START_TIMEOUT_S = 10.0  # before a run: an answer soon
RUN_TIMEOUT_S = 25.0  # during a run: time for a server to come back with its data
INDEX_DIGITS = 10
_lock = threading.Lock()
_tables: dict[tuple[str, str, str], object] = {}
_first_error: UserError | None = None


def first_error() -> UserError | None:
    """The first error of a page read in this process; later reads raise it again at once."""
    return _first_error


class CorruptRowError(UserError):
    """A row whose cell is no example; reading it again would not help."""


def _latch(error: UserError) -> UserError:
    global _first_error
    with _lock:
        _first_error = _first_error or error
        return _first_error


def forget_error() -> None:
    """Lets a new run read again."""
    global _first_error
    _first_error = None


def _data():
    try:
        from google.cloud.bigtable import data
    except ImportError as e:
        raise UserError(
            "Reading from Bigtable needs google-cloud-bigtable: pip install "
            "'google-cloud-bigtable>=2.38,<2.40'."
        ) from e
    return data


def table_of(selection):
    """The table's handle; one client a process, opened when first needed."""
    key = (selection.project, selection.instance, selection.table)
    with _lock:
        if key not in _tables:
            data = _data()
            try:
                with warnings.catch_warnings():
                    # The client warns that it talks to an emulator; the user asked for it.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    client = data.BigtableDataClient(project=selection.project)
            except Exception as e:  # google.auth has errors of its own
                raise UserError(
                    f"Bigtable refuses the credentials ({cause(e)}): run 'gcloud auth "
                    "application-default login', or set BIGTABLE_EMULATOR_HOST."
                ) from e
            _tables[key] = client.get_table(selection.instance, selection.table)
        return _tables[key]


def cause(error: BaseException) -> str:
    """The useful line of a client's error: the last attempt's."""
    cause = error.__cause__
    attempts = getattr(cause, "exceptions", None)
    text = str(attempts[-1] if attempts else error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


class RowReader:
    """Reads the rows of a selection by number, in pages."""

    def __init__(self, selection):
        """`selection` is an `imagenet_input.BigtableSelection`."""
        self.selection = selection

    def key(self, number: int) -> bytes:
        """The key of a row: prefix and ten-digit number."""
        return f"{self.selection.prefix}{number:0{INDEX_DIGITS}d}".encode()

    def __str__(self) -> str:
        s = self.selection
        return f"Bigtable table {s.project}/{s.instance}/{s.table}"

    def query(self, first: int, end: int, column: bool = True, limit: int | None = None):
        """The client's query for rows first..end-1, by default of the column's cells alone."""
        data = _data()
        from google.cloud.bigtable.data import row_filters

        s = self.selection
        filters: list[row_filters.RowFilter] = [row_filters.CellsColumnLimitFilter(1)]
        if column:
            filters = [
                row_filters.FamilyNameRegexFilter(_exactly(s.column_family)),
                row_filters.ColumnQualifierRegexFilter(_exactly(s.column_qualifier).encode()),
                *filters,
            ]
        chain = filters[0] if len(filters) == 1 else row_filters.RowFilterChain(filters=filters)
        rows = data.RowRange(start_key=self.key(first), end_key=self.key(end))
        return data.ReadRowsQuery(row_ranges=rows, row_filter=chain, limit=limit)

    def _read(self, query, timeout: float = START_TIMEOUT_S):
        try:
            return table_of(self.selection).read_rows(
                query, operation_timeout=timeout, attempt_timeout=timeout
            )
        except UserError:
            raise
        except Exception as e:  # errors of gRPC, of google.api_core and of the client
            raise UserError(
                f"{self} cannot be read: {cause(e)}. Is the server there, and are the names right? "
                "(mnasnet-data bigtable-load --create makes the table.)"
            ) from e

    def exists(self, number: int, column: bool = True) -> bool:
        """Whether a row is there (with a cell in the column)."""
        return bool(self._read(self.query(number, number + 1, column)))

    def read_patiently(self, first: int, end: int) -> list[bytes]:
        """`read`, tried again for `RUN_TIMEOUT_S` while the server or rows are missing."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            try:
                return self.read(first, end, max(1.0, deadline - time.monotonic()))
            except CorruptRowError:
                raise
            except UserError as e:
                if time.monotonic() + 1 > deadline:
                    raise
                logging.warning("%s Trying again.", e)
            time.sleep(1)

    def read(self, first: int, end: int, timeout: float = START_TIMEOUT_S) -> list[bytes]:
        """The examples of rows first..end-1, each checked.

        Raises:
          UserError: a row is missing; the key is named.
          CorruptRowError: a row's cell is no tf.train.Example; the key is named.
        """
        rows = {row.row_key: row for row in self._read(self.query(first, end), timeout)}
        examples = []
        for number in range(first, end):
            key = self.key(number)
            if key not in rows:
                raise UserError(
                    f"{self} has no row {key.decode()} (any more) with a cell in "
                    f"{self.selection.column_family}:{self.selection.column_qualifier}: was the "
                    "table emptied or loaded in part? Load it again."
                )
            value = rows[key].cells[0].value
            reason = records.problem_of(value, num_classes=2**31)
            if reason:
                raise CorruptRowError(f"{self}, row {key.decode()}: {reason}")
            examples.append(value)
        return examples

    def write(self, first: int, examples: list[bytes]) -> None:
        """Writes examples as rows from number `first` on; UserError if a row is refused."""
        data = _data()
        s = self.selection
        qualifier = s.column_qualifier.encode()
        entries = [
            data.RowMutationEntry(
                self.key(first + offset),
                # One fixed time stamp: a row that is written twice keeps one cell.
                [data.SetCell(s.column_family, qualifier, example, timestamp_micros=0)],
            )
            for offset, example in enumerate(examples)
        ]
        try:
            table_of(s).bulk_mutate_rows(
                entries, operation_timeout=RUN_TIMEOUT_S, attempt_timeout=RUN_TIMEOUT_S
            )
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"{self} cannot be written: {cause(e)}.") from e

    def check(self, num_images: int) -> None:
        """Checks at the start that the selection holds exactly so many images.

        Raises:
          UserError: says what is missing (the table, the prefix, the column, rows) and the remedy.
        """
        s = self.selection
        found = self._read(self.query(0, 10**INDEX_DIGITS - 1, column=False, limit=1))
        if not found:
            raise UserError(
                f"{self} has no rows with prefix {s.prefix!r}: load the data, or correct the "
                "prefix."
            )
        if not self._read(self.query(0, 10**INDEX_DIGITS - 1, limit=1)):
            cells = found[0].cells
            there = ", ".join(sorted({f"{c.family}:{c.qualifier.decode()}" for c in cells}))
            raise UserError(
                f"{self} has rows with prefix {s.prefix!r} but no cells in "
                f"{s.column_family}:{s.column_qualifier} (there are {there}): correct "
                "--bigtable_column_family and --bigtable_column_qualifier."
            )
        for number, wanted in ((0, True), (num_images - 1, True), (num_images, False)):
            if self.exists(number) != wanted:
                raise UserError(
                    f"{self} {'lacks' if wanted else 'has'} row {self.key(number).decode()} though "
                    f"{num_images} images were expected with prefix {s.prefix!r}: correct the "
                    "number of images, or load the data again."
                )

    def count(self) -> int:
        """The number of consecutive rows from 0 on, by bisection."""
        end = 1
        while self.exists(end - 1):
            end *= 2
        low, high = end // 2, end - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.exists(middle - 1):
                low = middle
            else:
                high = middle - 1
        return low

    def estimated_bytes(self, num_rows: int) -> int:
        """Bytes of so many rows, judged by the first page."""
        page = self.read(0, min(num_rows, PAGE_ROWS))
        return int(np.mean([len(example) for example in page]) * num_rows)


def _exactly(text: str) -> str:
    """A regular expression (RE2) that matches a text alone."""
    return "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in text)


def dataset(
    rows: RowReader,
    first: int,
    end: int,
    shuffle: bool = False,
    seed: int | None = None,
    deterministic: bool = True,
    parallel: int = 2,
) -> tf.data.Dataset:
    """The serialized examples of rows first..end-1, once; shuffled by page if asked."""
    forget_error()

    def read_page(start: np.int64) -> np.ndarray:
        error = first_error()
        if error is None:
            try:
                page = rows.read_patiently(int(start), min(int(start) + PAGE_ROWS, end))
                # dtype S would strip trailing zero bytes
                return np.array(page, dtype=object)
            except UserError as e:
                error = _latch(e)
        # StopIteration would end the data silently; any other error stops the run.
        raise RuntimeError(str(error))

    @tf.autograph.experimental.do_not_convert
    def page(start):
        examples = tf.numpy_function(read_page, [start], tf.string)
        examples.set_shape([None])
        return examples

    starts = tf.data.Dataset.range(first, end, PAGE_ROWS)
    if shuffle:
        starts = starts.shuffle(max(1, -(-(end - first) // PAGE_ROWS)), seed)
    return starts.map(page, num_parallel_calls=parallel, deterministic=deterministic).unbatch()
