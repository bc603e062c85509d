"""Reads, checks, writes and feeds the rows of a Cloud Bigtable table, one example a row.

The rows are read in pages. One long scan would be killed, because google-cloud-bigtable counts the
time that a slow consumer takes towards the timeout of the operation. The keys of every page are
compared with the expected ones: a wrong prefix, a missing column family and a table emptied during
a run all look like "no more rows".
"""

from __future__ import annotations

import http
import re
import threading
import time
import warnings
from typing import NamedTuple

import numpy as np
from absl import logging

from utils.base import memory
from utils.base.errors import UserError
from utils.base.tensorflow_version import tf
from utils.reading import examples, records, scan

_client_lock = threading.Lock()
_tables: dict[tuple[str, str, str], object] = {}


def data_module():
    """Imports and returns `google.cloud.bigtable.data`.

    Raises:
      UserError: the package is not installed.
    """
    try:
        from google.cloud.bigtable import data
    except ImportError as e:
        raise UserError(
            "Reading from Bigtable needs google-cloud-bigtable: pip install "
            "'google-cloud-bigtable>=2.38,<2.40'."
        ) from e
    return data


def table_of(selection):
    """Returns the client's table of a `BigtableSelection`, opened once a process.

    Raises:
      UserError: the package is not installed, or Bigtable refuses the credentials.
    """
    key = (selection.project, selection.instance, selection.table)
    with _client_lock:
        if key not in _tables:
            data = data_module()
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
    """Returns the line of a client's error that says something: the last attempt's."""
    group = error if hasattr(error, "exceptions") else error.__cause__
    attempts = getattr(group, "exceptions", None)
    if attempts:
        return cause(attempts[-1])
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def is_not_found(error: BaseException | None) -> bool:
    """Whether the server answered that a table or an instance does not exist."""
    return getattr(error, "code", None) == http.HTTPStatus.NOT_FOUND


def is_too_large(reason: str) -> bool:
    """Whether an error's text says that a message is larger than client or server accept.

    The client receives at most 4 MB from the emulator.
    """
    return "larger than max" in reason


def sizes_of_too_large(reason: str) -> str:
    """Returns the sizes that such an error names, in brackets; an empty text if it names none."""
    size = re.search(r"\((\d+) vs\. (\d+)\)", reason)
    return f" ({size[1]} bytes, and {size[2]} are the most)" if size else ""


PAGE_ROWS = 128  # larger pages cost memory, smaller ones calls: measure by make bench
START_TIMEOUT_S = 10.0  # before a run, when the user waits for an answer
RUN_TIMEOUT_S = 25.0  # during a run: enough for a server to come back with its data
INDEX_DIGITS = 10
_END = 10**INDEX_DIGITS - 1  # no row has this number


class BigtableSelection(NamedTuple):
    """Where in Cloud Bigtable a split's records are: one serialized example a row.

    A row's key is the prefix and the ten-digit number of the row, filled up with zeros.
    """

    project: str
    instance: str
    table: str
    prefix: str
    column_family: str
    column_qualifier: str


class CorruptRowError(UserError):
    """Says that a row's cell is unusable, and that reading the row again would not help."""


def _number_after(rest: bytes) -> int:
    """Returns the smallest number whose digits sort after `rest`, a key without its prefix.

    Returns `_END` or more if there is none.
    """
    digits = rest[:INDEX_DIGITS]
    digits = digits[: len(digits) - len(digits.lstrip(b"0123456789"))]
    number = int(digits or b"0") * 10 ** (INDEX_DIGITS - len(digits))
    follows = rest[len(digits) : len(digits) + 1]
    if len(digits) < INDEX_DIGITS and follows <= b"9":
        return number
    return number + 10 ** (INDEX_DIGITS - len(digits))


class RowReader:
    """Reads, checks and writes the rows of a selection, addressed by their numbers 0, 1, ..."""

    def __init__(
        self,
        selection: BigtableSelection,
        num_classes: int | None = None,
        form: examples.RecordFormat = examples.PUBLISHED,
    ):
        """Keeps the selection; a label beyond `num_classes` is an error, None allows all."""
        self.selection = selection
        self.form = form
        self.num_classes = num_classes or examples.GREATEST_LABEL

    def key(self, number: int) -> bytes:
        """Returns the key of a row: the prefix and the ten-digit number."""
        return f"{self.selection.prefix}{number:0{INDEX_DIGITS}d}".encode()

    def __str__(self) -> str:
        s = self.selection
        return f"Bigtable table {s.project}/{s.instance}/{s.table}"

    def query(
        self,
        first: int,
        end: int,
        column: bool = True,
        limit: int | None = None,
        values: bool = True,
    ):
        """Returns the client's query for rows first..end-1.

        Args:
          first: number of the first row.
          end: number of the last row, and one.
          column: whether to ask for cells of the selection's column alone.
          limit: most rows to return.
          values: False returns empty cells, which says at little cost whether a row exists.
        """
        data = data_module()
        from google.cloud.bigtable.data import row_filters

        s = self.selection
        filters: list[row_filters.RowFilter] = [row_filters.CellsColumnLimitFilter(1)]
        if column:
            filters = [
                row_filters.FamilyNameRegexFilter(_exactly(s.column_family)),
                row_filters.ColumnQualifierRegexFilter(_exactly(s.column_qualifier).encode()),
                *filters,
            ]
        if not values:
            filters.append(row_filters.StripValueTransformerFilter(True))
        chain = filters[0] if len(filters) == 1 else row_filters.RowFilterChain(filters=filters)
        rows = data.RowRange(start_key=self.key(first), end_key=self.key(end))
        return data.ReadRowsQuery(row_ranges=rows, row_filter=chain, limit=limit)

    def _read(self, query, timeout: float | None = None):
        timeout = timeout or START_TIMEOUT_S
        try:
            return table_of(self.selection).read_rows(
                query, operation_timeout=timeout, attempt_timeout=timeout
            )
        except UserError:
            raise
        except Exception as e:  # errors of gRPC, of google.api_core and of the client
            remedy = "Is the server there, and are the names right?"
            if is_not_found(e):
                remedy = (
                    "Are the names right? (mnasnet-data bigtable-load --create makes the table.)"
                )
            raise UserError(f"{self} cannot be read: {cause(e)}. {remedy}") from e

    def has_table(self) -> bool:
        """Whether the table exists; UserError if the server does not say."""
        try:
            self.exists(0, column=False)
        except UserError as e:
            if is_not_found(e.__cause__):
                return False
            raise
        return True

    def exists(self, number: int, column: bool = True) -> bool:
        """Whether a row exists, by default one with a cell in the column."""
        return bool(self._read(self.query(number, number + 1, column, values=False)))

    def first_row(self, number: int, column: bool = True):
        """Returns the first row from a number on, with empty cells; None if there is none.

        By default only rows with a cell in the column count. A key that begins with the prefix may
        belong to another data set: next to train_0000000000 there may be train_2_0000000000.
        """
        while number < _END:
            found = self._read(self.query(number, _END, column, limit=1, values=False))
            if not found:
                return None
            rest = found[0].row_key.removeprefix(self.selection.prefix.encode())
            if len(rest) == INDEX_DIGITS and rest.isdigit():
                return found[0]
            number = _number_after(rest)
        return None

    def read_patiently(self, first: int, end: int) -> list[bytes]:
        """Reads as `read` does, and tries for `RUN_TIMEOUT_S` while server or rows are missing."""
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

    def values(self, first: int, end: int, timeout: float | None = None) -> list[bytes | None]:
        """Returns the cells of rows first..end-1, unchecked; None stands for a missing row.

        Raises:
          CorruptRowError: a row is larger than the client can receive; the key is named.
          UserError: the server does not answer.
        """
        try:
            rows = self._read(self.query(first, end), timeout)
        except UserError as e:
            reason = str(e)
            if not is_too_large(reason):
                raise
            if end - first == 1:
                raise self.too_large(first, reason) from e
            middle = (first + end) // 2  # the error does not say which row is too large
            return self.values(first, middle, timeout) + self.values(middle, end, timeout)
        found = {row.row_key: row.cells[0].value for row in rows}
        return [found.get(self.key(number)) for number in range(first, end)]

    def read(self, first: int, end: int, timeout: float | None = None) -> list[bytes]:
        """Returns the examples of rows first..end-1, all checked except for their pictures.

        Raises:
          UserError: a row is missing; the key is named.
          CorruptRowError: a row's cell is not a tf.train.Example, or its label is out of range; the
            key is named.
        """
        serialized = []
        for number, value in enumerate(self.values(first, end, timeout), first):
            if value is None:
                raise self.missing(number)
            reason = examples.problem_of(value, self.num_classes, self.form)
            if reason:
                raise self.corrupt(number, reason)
            serialized.append(value)
        return serialized

    def missing(self, number: int) -> UserError:
        """Returns the error that names a missing row."""
        s = self.selection
        return UserError(
            f"{self} has no row {self.key(number).decode()} (any more) with a cell in "
            f"{s.column_family}:{s.column_qualifier}: was the table emptied or loaded in part? "
            "(mnasnet-data bigtable-load writes the rows that are missing.)"
        )

    def corrupt(self, number: int, reason: str) -> CorruptRowError:
        """Returns the error that names a row that cannot be used."""
        return CorruptRowError(
            f"{self}, row {self.key(number).decode()}: {reason} (mnasnet-data bigtable-verify "
            "compares the rows with the files.)"
        )

    def too_large(self, number: int, reason: str) -> CorruptRowError:
        """Returns the error that names a row too large for a message of client or server."""
        sizes = sizes_of_too_large(reason)
        return CorruptRowError(
            f"{self}, row {self.key(number).decode()}: it is too large for a message{sizes}: "
            "replace its picture by a smaller one in the files and load them again (mnasnet-data "
            "bigtable-load writes the rows that differ)."
        )

    def write(self, first: int, serialized: list[bytes]) -> None:
        """Writes examples as rows from number `first` on.

        Raises:
          UserError: the server refuses a row, or does not answer.
        """
        data = data_module()
        s = self.selection
        qualifier = s.column_qualifier.encode()
        entries = [
            data.RowMutationEntry(
                self.key(first + offset),
                # Delete first: a newer cell of another program would hide the one written here.
                [
                    data.DeleteRangeFromColumn(s.column_family, qualifier),
                    data.SetCell(s.column_family, qualifier, example, timestamp_micros=0),
                ],
            )
            for offset, example in enumerate(serialized)
        ]
        try:
            table_of(s).bulk_mutate_rows(
                entries, operation_timeout=RUN_TIMEOUT_S, attempt_timeout=RUN_TIMEOUT_S
            )
        except UserError:
            raise
        except Exception as e:
            refused = getattr(e, "exceptions", None)  # one a row
            last = (refused[-1].__cause__ or refused[-1]) if refused else e
            reason = cause(last)
            if is_too_large(reason) and len(serialized) > 1:
                middle = len(serialized) // 2
                self.write(first, serialized[:middle])
                self.write(first + middle, serialized[middle:])
                return
            if is_too_large(reason):
                raise self.too_large(first, reason) from e
            raise UserError(
                f"{self} cannot be written: {reason}. Is the server there, and has the table the "
                f"column family {s.column_family}? (mnasnet-data bigtable-load --create makes it.)"
            ) from e

    def check(self, num_images: int) -> None:
        """Checks at the start of a run that the selection holds exactly `num_images` rows.

        Raises:
          UserError: says what is missing (the table, the prefix, the column, rows) and the remedy.
        """
        s = self.selection
        found = self.first_row(0, column=False)
        if found is None:
            raise UserError(
                f"{self} has no rows with prefix {s.prefix!r}: load the data, or correct the "
                "prefix."
            )
        if self.first_row(0) is None:
            there = ", ".join(sorted({f"{c.family}:{c.qualifier.decode()}" for c in found.cells}))
            raise UserError(
                f"{self} has rows with prefix {s.prefix!r} but no cells in "
                f"{s.column_family}:{s.column_qualifier} (there are {there}): correct "
                "--bigtable_column_family and --bigtable_column_qualifier."
            )
        for number in (0, num_images - 1):
            if not self.exists(number):
                raise UserError(
                    f"{self} lacks row {self.key(number).decode()} though {num_images} images were "
                    f"expected with prefix {s.prefix!r}: correct the number of images "
                    "(--num_train_images, --num_eval_images), or load the data (mnasnet-data "
                    "bigtable-load writes the rows that are missing)."
                )
        further = self.first_row(num_images)
        if further is not None:
            raise UserError(
                f"{self} has row {further.row_key.decode()} though {num_images} images were "
                f"expected with prefix {s.prefix!r}: correct the number of images "
                "(--num_train_images, --num_eval_images), or delete this row and those after it."
            )

    def check_first_rows(self, num_images: int, num_places: int = 8, count: int = 4) -> None:
        """Checks `count` rows at `num_places` places with their pictures, all over the rows.

        Raises:
          UserError: names the row and what is wrong with it.
        """
        step = max(1, num_images // num_places)
        for first in range(0, num_images, step)[:num_places]:
            for number, example in enumerate(
                self.read(first, min(first + count, num_images)), first
            ):
                reason = examples.undecodable(example, self.form)
                if reason:
                    raise self.corrupt(number, reason)

    def count(self) -> int:
        """Returns the number of the last row and one, by bisection; gaps are not noticed."""
        end = 1
        while self.first_row(end - 1) is not None:
            end *= 2
        low, high = end // 2, end - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.first_row(middle - 1) is not None:
                low = middle
            else:
                high = middle - 1
        return low

    def estimated_bytes(self, num_rows: int) -> int:
        """Estimates the bytes of `num_rows` examples by the first page."""
        if num_rows == 0:  # a host's share if there are more hosts than rows
            return 0
        page = self.read(0, min(num_rows, PAGE_ROWS))
        return int(np.mean([len(example) for example in page]) * num_rows)


def _exactly(text: str) -> str:
    """Returns a regular expression (RE2) that matches this text and no other."""
    return "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in text)


_lock = threading.Lock()
_first_error: UserError | None = None


def first_error() -> UserError | None:
    """Returns the first error of a page read in this process; None if there was none.

    All later reads raise this error at once, so that a run ends soon and with its true cause.
    """
    return _first_error


def forget_error() -> None:
    """Forgets the first error, so that a new run can read."""
    global _first_error
    _first_error = None


def _keep_first(error: UserError) -> UserError:
    global _first_error
    with _lock:
        _first_error = _first_error or error
        return _first_error


def dataset(
    rows: RowReader,
    first: int,
    end: int,
    shuffle: bool = False,
    seed: int | None = None,
    deterministic: bool = True,
    parallel: int = 2,
) -> tf.data.Dataset:
    """Returns the examples of rows first..end-1, once, as scalar strings.

    An error of a page ends the dataset with a RuntimeError; `first_error` then has the error.

    Args:
      rows: reads the rows.
      first: number of the first row.
      end: number of the last row, and one.
      shuffle: whether to shuffle the pages; the rows of a page stay in order.
      seed: fixes the order of the pages.
      deterministic: whether pages keep this order even if a later one arrives first.
      parallel: pages to read at the same time.
    """
    forget_error()

    def read_page(start: np.int64) -> np.ndarray:
        error = first_error()
        if error is None:
            try:
                page = rows.read_patiently(int(start), min(int(start) + PAGE_ROWS, end))
                # dtype S would strip trailing zero bytes
                return np.array(page, dtype=object)
            except UserError as e:
                error = _keep_first(e)
        # StopIteration would end the data silently; any other error stops the run.
        raise RuntimeError(str(error))

    @tf.autograph.experimental.do_not_convert
    def page(start):
        serialized = tf.numpy_function(read_page, [start], tf.string)
        serialized.set_shape([None])
        return serialized

    starts = tf.data.Dataset.range(first, end, PAGE_ROWS)
    if shuffle:
        starts = starts.shuffle(max(1, -(-(end - first) // PAGE_ROWS)), seed)
    pages = starts.map(page, num_parallel_calls=parallel, deterministic=deterministic)
    return records.without_tuning(pages.unbatch())


def first_bad_row(rows: RowReader, num_rows: int) -> UserError | None:
    """Decodes rows 0..num_rows-1; returns the error that names the first unusable one, or None."""
    with tf.Graph().as_default(), tf.Session() as session:
        facts = dataset(rows, 0, num_rows).map(
            lambda serialized: scan.facts(serialized, rows.form),
            num_parallel_calls=2 * memory.cores(),
        )
        following = session.make_callable(tf.data.make_one_shot_iterator(facts).get_next())
        for number in range(num_rows):
            try:
                following()
            except scan.data_errors() as e:
                reason = examples.undecodable(rows.read(number, number + 1)[0], rows.form)
                return rows.corrupt(number, reason or examples.undecodable_because(e))
            except tf.errors.OpError:
                return first_error()
    return None
