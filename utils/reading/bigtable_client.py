"""Opens google-cloud-bigtable's data client, and puts its errors in words."""

from __future__ import annotations

import http
import re
import threading
import warnings

from utils.base.errors import UserError

_lock = threading.Lock()
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
    with _lock:
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
    """Returns whether the server answered that a table or an instance does not exist."""
    return getattr(error, "code", None) == http.HTTPStatus.NOT_FOUND


def is_too_large(reason: str) -> bool:
    """Returns whether an error's text says that a message is larger than client or server accept.

    The client receives at most 4 MB from the emulator.
    """
    return "larger than max" in reason


def sizes_of_too_large(reason: str) -> str:
    """Returns the sizes that such an error names, in brackets; an empty text if it names none."""
    size = re.search(r"\((\d+) vs\. (\d+)\)", reason)
    return f" ({size[1]} bytes, and {size[2]} are the most)" if size else ""
