"""Talks to `runtimes`, which runs in the second environment."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any

from utils.base.errors import UserError

LIMIT_SECONDS = 300.0  # an answer takes seconds


class Worker:
    """Runs the functions of `runtimes` in a process of the second environment."""

    def __init__(self, python: str, folder: str):
        """Starts the process.

        Args:
          python: the interpreter of the second environment.
          folder: local folder for what the process logs.
        """
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runtimes.py")
        self._log_path = os.path.join(folder, "runtimes.log")
        with open(self._log_path, "wb") as log:
            # -I keeps the folder of this package off the path of that Python.
            self._process = subprocess.Popen(
                [python, "-I", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Returns what a function of `runtimes` returns.

        Raises:
          UserError: the function failed, or the process ended or gave no answer in time.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(LIMIT_SECONDS, self._process.kill)
        timer.start()
        try:
            print(json.dumps({"function": function, **arguments}), file=self._process.stdin)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise UserError(f"{function} failed: {' '.join(answer['error'].split())[:300]}")
        return answer

    def _last_words(self) -> str:
        """Returns how the process ended, with the last line that it logged."""
        status = self._process.wait(LIMIT_SECONDS)
        with open(self._log_path, errors="replace") as f:
            lines = f.read().strip().splitlines()
        return f"the process ended with {status} ({lines[-1] if lines else 'it logged nothing'})"
