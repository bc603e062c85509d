"""Rows of Cloud Bigtable as a dataset of serialized examples.

Pages of rows are read eagerly with google-cloud-bigtable's data client: its operation timeout also
counts the time that a slow consumer blocks, so one long scan would be killed. Every page's keys
are checked against those expected, because a wrong prefix, a missing column family and a table
emptied in mid-run all look like "no more rows".
"""

from __future__ import annotations

import http
import re
import threading
import time
import warnings

import numpy as np
from absl import logging

from utils.base import memory
from utils.base.errors import UserError
from utils.reading import dataset_options, examples, scan

import tensorflow.compat.v1 as tf  # isort: skip

PAGE_ROWS = 128  # a larger page costs memory, a smaller one calls (make bench-bigtable)
START_TIMEOUT_S = 10.0  # before a run: an answer soon
RUN_TIMEOUT_S = 25.0  # during a run: time for a server to come back with its data
INDEX_DIGITS = 10
_END = 10**INDEX_DIGITS - 1  # a number that no row has
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
    group = error if hasattr(error, "exceptions") else error.__cause__
    attempts = getattr(group, "exceptions", None)
    if attempts:
        return cause(attempts[-1])
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _is_not_found(error: BaseException | None) -> bool:
    """Whether the server answered that a table or an instance is not there."""
    return getattr(error, "code", None) == http.HTTPStatus.NOT_FOUND


def _is_too_large(reason: str) -> bool:
    """Whether a message was larger than client or server take (the emulator's client: 4 MB)."""
    return "larger than max" in reason


def _number_behind(rest: bytes) -> int:
    """The least number whose ten digits sort behind a key's rest; `_END` or more for none."""
    digits = rest[:INDEX_DIGITS]
    digits = digits[: len(digits) - len(digits.lstrip(b"0123456789"))]
    number = int(digits or b"0") * 10 ** (INDEX_DIGITS - len(digits))
    follows = rest[len(digits) : len(digits) + 1]
    if len(digits) < INDEX_DIGITS and follows <= b"9":
        return number
    return number + 10 ** (INDEX_DIGITS - len(digits))


class RowReader:
    """Reads the rows of a selection by number, in pages."""

    def __init__(self, selection, num_classes: int | None = None):
        """Keeps the `imagenet_input.BigtableSelection`; labels beyond `num_classes` are errors."""
        self.selection = selection
        self.num_classes = num_classes or examples.GREATEST_LABEL

    def key(self, number: int) -> bytes:
        """The key of a row: prefix and ten-digit number."""
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
        """The client's query for rows first..end-1, by default of the column's cells alone.

        Without values the cells are empty: whether a row is there is known without its picture.
        """
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
            if _is_not_found(e):
                remedy = (
                    "Are the names right? (mnasnet-data bigtable-load --create makes the table.)"
                )
            raise UserError(f"{self} cannot be read: {cause(e)}. {remedy}") from e

    def has_table(self) -> bool:
        """Whether the table is there; UserError if the server does not say."""
        try:
            self.exists(0, column=False)
        except UserError as e:
            if _is_not_found(e.__cause__):
                return False
            raise
        return True

    def exists(self, number: int, column: bool = True) -> bool:
        """Whether a row is there (with a cell in the column)."""
        return bool(self._read(self.query(number, number + 1, column, values=False)))

    def first_row(self, number: int, column: bool = True):
        """The first row from a number on (with an empty cell in the column); None without one.

        A key that only begins with the prefix is another data set's: next to train_0000000000
        there may be train_2_0000000000.
        """
        while number < _END:
            found = self._read(self.query(number, _END, column, limit=1, values=False))
            if not found:
                return None
            rest = found[0].row_key.removeprefix(self.selection.prefix.encode())
            if len(rest) == INDEX_DIGITS and rest.isdigit():
                return found[0]
            number = _number_behind(rest)
        return None

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

    def values(self, first: int, end: int, timeout: float | None = None) -> list[bytes | None]:
        """The cells of rows first..end-1, whatever they hold; None where a row is missing.

        Raises:
          CorruptRowError: a row is larger than what the client may receive; the key is named.
          UserError: the server does not answer.
        """
        try:
            rows = self._read(self.query(first, end), timeout)
        except UserError as e:
            reason = str(e)
            if not _is_too_large(reason):
                raise
            if end - first == 1:
                raise self.too_large(first, reason) from e
            middle = (first + end) // 2  # the error does not say which row it is
            return self.values(first, middle, timeout) + self.values(middle, end, timeout)
        found = {row.row_key: row.cells[0].value for row in rows}
        return [found.get(self.key(number)) for number in range(first, end)]

    def read(self, first: int, end: int, timeout: float | None = None) -> list[bytes]:
        """The examples of rows first..end-1, each checked, but for its picture.

        Raises:
          UserError: a row is missing; the key is named.
          CorruptRowError: a row's cell is no tf.train.Example, or its label is out of range; the
            key is named.
        """
        serialized = []
        for number, value in enumerate(self.values(first, end, timeout), first):
            if value is None:
                raise self.missing(number)
            reason = examples.problem_of(value, self.num_classes)
            if reason:
                raise self.corrupt(number, reason)
            serialized.append(value)
        return serialized

    def missing(self, number: int) -> UserError:
        """What to say where a row is not there."""
        s = self.selection
        return UserError(
            f"{self} has no row {self.key(number).decode()} (any more) with a cell in "
            f"{s.column_family}:{s.column_qualifier}: was the table emptied or loaded in part? "
            "(mnasnet-data bigtable-load writes the rows that are missing.)"
        )

    def corrupt(self, number: int, reason: str) -> CorruptRowError:
        """What to say of a row that cannot be used."""
        return CorruptRowError(
            f"{self}, row {self.key(number).decode()}: {reason} (mnasnet-data bigtable-verify "
            "compares the rows with the files.)"
        )

    def too_large(self, number: int, reason: str) -> CorruptRowError:
        """What to say of a row that does not fit into a message between client and server."""
        size = re.search(r"\((\d+) vs\. (\d+)\)", reason)
        sizes = f" ({size[1]} bytes, and {size[2]} are the most)" if size else ""
        return CorruptRowError(
            f"{self}, row {self.key(number).decode()}: it is too large for a message{sizes}: "
            "replace its picture by a smaller one in the files and load them again (mnasnet-data "
            "bigtable-load writes the rows that differ)."
        )

    def write(self, first: int, serialized: list[bytes]) -> None:
        """Writes examples as rows from number `first` on; UserError if a row is refused."""
        data = _data()
        s = self.selection
        qualifier = s.column_qualifier.encode()
        entries = [
            data.RowMutationEntry(
                self.key(first + offset),
                # A newer cell of another program would hide this one.
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
            reason = cause(refused[-1].__cause__ or refused[-1]) if refused else cause(e)
            if _is_too_large(reason) and len(serialized) > 1:
                middle = len(serialized) // 2
                self.write(first, serialized[:middle])
                self.write(first + middle, serialized[middle:])
                return
            if _is_too_large(reason):
                raise self.too_large(first, reason) from e
            raise UserError(
                f"{self} cannot be written: {reason}. Is the server there, and has the table the "
                f"column family {s.column_family}? (mnasnet-data bigtable-load --create makes it.)"
            ) from e

    def check(self, num_images: int) -> None:
        """Checks at the start that the selection holds exactly so many images.

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
                "(--num_train_images, --num_eval_images), or delete this row and those behind it."
            )

    def check_first_rows(self, num_images: int, num_places: int = 8, count: int = 4) -> None:
        """Checks some rows with their pictures, spread over so many images.

        Raises:
          UserError: names the row and what is wrong with it.
        """
        step = max(1, num_images // num_places)
        for first in range(0, num_images, step)[:num_places]:
            for number, example in enumerate(
                self.read(first, min(first + count, num_images)), first
            ):
                reason = examples.undecodable(example)
                if reason:
                    raise self.corrupt(number, reason)

    def count(self) -> int:
        """The number of the last row and one, by bisection: a gap is found when it is read."""
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
        """Bytes of so many rows, judged by the first page."""
        if num_rows == 0:  # of a host, where there are more hosts than rows
            return 0
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
        serialized = tf.numpy_function(read_page, [start], tf.string)
        serialized.set_shape([None])
        return serialized

    starts = tf.data.Dataset.range(first, end, PAGE_ROWS)
    if shuffle:
        starts = starts.shuffle(max(1, -(-(end - first) // PAGE_ROWS)), seed)
    pages = starts.map(page, num_parallel_calls=parallel, deterministic=deterministic)
    return dataset_options.apply(pages.unbatch())


def first_bad_row(rows: RowReader, num_rows: int) -> UserError | None:
    """What to say of the first of so many rows that cannot be used; None if all are good."""
    with tf.Graph().as_default(), tf.Session() as session:
        facts = dataset(rows, 0, num_rows).map(scan.facts, num_parallel_calls=2 * memory.cores())
        following = session.make_callable(tf.data.make_one_shot_iterator(facts).get_next())
        for number in range(num_rows):
            try:
                following()
            except scan.DATA_ERRORS as e:
                reason = examples.undecodable(rows.read(number, number + 1)[0])
                return rows.corrupt(number, reason or examples.undecodable_because(e))
            except tf.errors.OpError:
                return first_error()
    return None
