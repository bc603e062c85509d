"""Feeds the rows of a Cloud Bigtable table as a dataset of serialized examples."""

from __future__ import annotations

import threading

import numpy as np

from utils.base import memory
from utils.base.errors import UserError
from utils.reading import bigtable, dataset_options, examples, scan

import tensorflow.compat.v1 as tf

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
    rows: bigtable.RowReader,
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
                page = rows.read_patiently(int(start), min(int(start) + bigtable.PAGE_ROWS, end))
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

    starts = tf.data.Dataset.range(first, end, bigtable.PAGE_ROWS)
    if shuffle:
        starts = starts.shuffle(max(1, -(-(end - first) // bigtable.PAGE_ROWS)), seed)
    pages = starts.map(page, num_parallel_calls=parallel, deterministic=deterministic)
    return dataset_options.apply(pages.unbatch())


def first_bad_row(rows: bigtable.RowReader, num_rows: int) -> UserError | None:
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
            except scan.DATA_ERRORS as e:
                reason = examples.undecodable(rows.read(number, number + 1)[0], rows.form)
                return rows.corrupt(number, reason or examples.undecodable_because(e))
            except tf.errors.OpError:
                return first_error()
    return None
