"""Shows the progress of long work: a live line with an ETA on a terminal, few lines in a log."""

from __future__ import annotations

import collections
import os
import sys
import time
from collections.abc import Callable

from absl import logging
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

WINDOW_S = 30.0  # the speed is that of the last half minute
_SAMPLE_S = 0.25  # between two samples of that half minute


def duration(seconds: float) -> str:
    """Formats seconds as 1:02:03 or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float, digits: int) -> str:
    """Formats a number with so many digits; a large number gets no exponent."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e15 else f"{value:.{digits}g}"


class Progress:
    """Counts and shows how much of some work is done.

    On a terminal one line is rewritten, at most ten times a second, until `close`. Elsewhere the
    log gets a line every `log_every` units.
    """

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0, log_every=None):
        """Starts the clock.

        Args:
          what: the work, such as 'train'.
          total: units of the whole work.
          unit: singular name of a unit.
          done: units done before; they do not count for the speed.
          log_every: units between lines in a log; None for none.
        """
        self._what, self._total, self._unit = what, total, unit
        self._log_every = log_every
        self._next_log = (done // log_every + 1) * log_every if log_every else None
        self._logged = done
        self._done = done
        self.restart_clock()
        self._values: dict[str, float] = {}
        # A log of warnings alone (--verbosity=-1) has no live line either.
        is_live = sys.stderr.isatty() and logging.level_info()
        self._live = _LiveLine(self._line, total, done) if is_live else None

    def rate(self) -> float:
        """Returns the units a second of the last half minute; 0 before the first unit."""
        start, first = self._samples[0]
        return (self._done - first) / (self._time - start) if self._time > start else 0.0

    def restart_clock(self) -> None:
        """Forgets the speed so far, for a first step that also set things up."""
        self._time = time.monotonic()
        self._samples = collections.deque([(self._time, self._done)])

    def record(self, done: int) -> None:
        """Takes note that `done` units in all are done now, without showing it."""
        self._time, self._done = time.monotonic(), done
        if self._time - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((self._time, done))
        # The oldest sample that stays is the last one that is at least half a minute old.
        while len(self._samples) > 1 and self._samples[1][0] <= self._time - WINDOW_S:
            self._samples.popleft()

    def show(self, **values: float) -> None:
        """Shows the recorded progress, and `values` next to it, if a line is due."""
        self._values = values
        if self._live is not None:
            self._live.update(self._done - self._live.n)
        elif self._next_log is not None and self._done >= self._next_log:
            self._next_log = (self._done // self._log_every + 1) * self._log_every
            self.log()

    def update(self, done: int, **values: float) -> None:
        """Records that `done` units in all are done, and shows it."""
        self.record(done)
        self.show(**values)

    def log(self) -> None:
        """Logs the progress, unless a live line shows it or the log already has it."""
        if self._live is None and self._logged != self._done:
            self._logged = self._done
            logging.info("%s", self._line())

    def _line(self) -> str:
        rate = self.rate()
        parts = [f"{self._what} {self._unit} {self._done}/{self._total}"]
        parts += [
            f"{name} {_number(value, 4)}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._values.items()
        ]
        if rate > 0:
            plural = (
                "es"
                if self._unit.endswith(("ch", "s", "x"))
                else "s"
                if self._unit.islower()
                else ""
            )
            parts.append(f"{_number(rate, 3)} {self._unit}{plural}/s")
            parts.append(f"ETA {duration((self._total - self._done) / rate)}")
        return "  ".join(parts)

    def close(self) -> None:
        """Ends the live line."""
        if self._live is not None:
            self._live.close()


class DownloadBar(tqdm):
    """Shows a download as all other long work, to libraries that want a bar of tqdm's kind."""

    monitor_interval = 0  # no thread that redraws a bar of tqdm, which never shows
    _BYTES = 1_000_000

    def __init__(self, *unused, total: int | None = None, initial: int = 0, **more):
        super().__init__(total=total, initial=initial, disable=True)
        self._shown: Progress | None = None

    def __bool__(self) -> bool:
        return True  # a bar, even while its total is unknown

    def update(self, n: float | None = 1) -> None:
        """Takes note of `n` more bytes; a download of less than two megabytes does not show."""
        self.n += n or 0
        total, done = (int(value or 0) // self._BYTES for value in (self.total, self.n))
        if self._shown is None and total >= 2:
            self._shown = Progress("download", total, "MB", done)
        if self._shown is not None:
            self._shown.update(min(done, total))

    def update_transfer(self, n: int) -> None:
        """Does nothing: a client that asks for it would show a second bar otherwise."""

    def set_transfer_postfix_str(self, *unused, **more) -> None:
        """Does nothing, as `update_transfer`."""

    def close(self) -> None:
        """Ends the live line."""
        if self._shown is not None:
            self._shown.close()
            self._shown = None
        super().close()


def _columns() -> int | None:
    """Returns the width of the terminal now; None if the terminal does not tell."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return None
    return columns - 1 if columns else None


class _LiveLine(tqdm):
    """Rewrites one line of the terminal, cut to its width; log lines go above it.

    The words are those of the log, because tqdm's own would tell another speed.
    """

    monitor_interval = 0  # no thread that redraws the line while nothing happens

    def __init__(self, text: Callable[[], str], total: int, done: int):
        self._text = text
        self._log = logging.get_absl_handler().python_handler
        self._above = DummyTqdmFile(sys.stderr)
        self._log_stream = self._log.stream
        if self._log_stream in (None, sys.stderr):  # else it is a file in --log_dir
            self._log.setStream(self._above)
        super().__init__(
            total=total,
            initial=done,
            file=sys.stderr,
            bar_format="{desc}",
            miniters=0,
            nrows=24,  # without it, tqdm shows nothing if the terminal does not tell its size
        )

    @property
    def format_dict(self):
        return {**super().format_dict, "prefix": self._text(), "ncols": _columns()}

    def close(self):
        if self._log.stream is self._above:
            self._log.setStream(self._log_stream)
        super().close()
