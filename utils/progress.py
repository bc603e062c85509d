"""Progress of long work: a live line with an ETA on a terminal, a sparse line in a log."""

from __future__ import annotations

import sys
import time

from absl import logging


def duration(seconds: float) -> str:
    """Formats seconds as 1:02:03 or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts work done.

    On a terminal one line is rewritten, at most ten times a second. Elsewhere a line goes to the
    log every `log_every` units, if that is given.
    """

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0, log_every=None):
        """Starts the clock.

        Args:
          what: the work, such as 'train'.
          total: units of the whole work.
          unit: singular name of a unit.
          done: units done before (they do not count for the speed).
          log_every: units between lines in a log; None for none.
        """
        self._what, self._total, self._unit = what, total, unit
        self._done = self._first = done
        self._log_every = log_every
        self._next_log = (done // log_every + 1) * log_every if log_every else None
        self._start = self._shown = time.monotonic()
        self._live = sys.stderr.isatty()
        self._width = 0

    def rate(self) -> float:
        """Units a second since the start, 0 before the first."""
        elapsed = time.monotonic() - self._start
        return (self._done - self._first) / elapsed if elapsed > 0 else 0.0

    def restart_clock(self) -> None:
        """Forgets the speed so far, as after a first step that also set things up."""
        self._start, self._first = time.monotonic(), self._done

    def update(self, done: int, **values: float) -> None:
        """Says that `done` units in all are done; `values` are shown beside them."""
        self._done = done
        now = time.monotonic()
        if self._live and (now - self._shown > 0.1 or done >= self._total):
            self._shown = now
            line = self._line(values)
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
        elif not self._live and self._next_log is not None and done >= self._next_log:
            self._next_log = (done // self._log_every + 1) * self._log_every
            logging.info("%s", self._line(values))

    def _line(self, values) -> str:
        rate = self.rate()
        parts = [f"{self._what} {self._unit} {self._done}/{self._total}"]
        parts += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        ]
        if rate > 0:
            plural = (
                "es"
                if self._unit.endswith(("ch", "s", "x"))
                else "s"
                if self._unit.islower()
                else ""
            )
            parts.append(f"{rate:.3g} {self._unit}{plural}/s")
            parts.append(f"ETA {duration((self._total - self._done) / rate)}")
        return "  ".join(parts)

    def close(self) -> None:
        """Ends the live line."""
        if self._live and self._width:
            sys.stderr.write("\n")
            self._width = 0
