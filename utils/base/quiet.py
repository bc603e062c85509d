"""Silence for native libraries that print to the terminal whatever the log level says."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

from absl import logging


@contextlib.contextmanager
def native_output():
    """Holds back what C++ code writes to stdout and stderr; an exception lets it out.

    TensorFlow Lite's converter and interpreter print statistics and notes on every use.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as held:
        for number in saved:
            os.dup2(held.fileno(), number)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved[2], held.read())
            raise
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            logging.set_verbosity(verbosity)
