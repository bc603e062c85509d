"""Makes a second Python environment, and runs the functions of `jobs` there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from typing import Any

from utils.base.errors import UserError, excerpt

LIMIT_SECONDS = 3600.0


def set_up(env: str, name: str, packages: Sequence[str], needs: str, size: str) -> str:
    """Installs packages in an environment unless they are there; returns its Python.

    Args:
      env: folder of the environment, which is made if it is missing.
      name: what the packages are, as the beginning of a sentence; an environment can have several.
      packages: what to install, with versions.
      needs: what they need, for the sentence about a failure.
      size: about how much they take on the disk.

    Raises:
      UserError: the packages cannot be installed here.
    """
    python = os.path.join(env, "bin", "python")
    stamp = os.path.join(env, f"{name.lower().replace(' ', '-')}.installed")
    wanted = " ".join(packages)
    if os.path.exists(stamp):
        with open(stamp) as f:
            if f.read() == wanted:
                return python
    print(f"Installing {', '.join(packages)} in {env} (about {size} on disk)...", flush=True)
    try:
        venv.create(env, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as e:
        lines = (getattr(e, "stderr", None) or str(e)).strip().splitlines()
        raise UserError(f"{name} cannot be installed here ({lines[-1]}): it needs {needs}.") from e
    with open(stamp, "w") as f:
        f.write(wanted)
    return python


def run(python: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Returns what a function of `jobs` returns, in a process of its own.

    Args:
      python: the interpreter of the second environment.
      function: its name.
      arguments: for the function, what JSON can hold.

    Raises:
      UserError: the function failed, or the process crashed or took more than LIMIT_SECONDS.
    """
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs.py")
    with tempfile.TemporaryDirectory(prefix="mnasnet-job-") as folder:
        # A file, because native libraries write to the standard output, too.
        answer = os.path.join(folder, "answer.json")
        try:
            # -I keeps the folder of this package off the path of that Python.
            done = subprocess.run(
                [python, "-I", script, function, json.dumps(arguments), answer],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired as e:
            raise UserError(f"{function} gave no answer in {LIMIT_SECONDS:.0f} s.") from e
        if not os.path.exists(answer):
            last = (done.stderr.strip() or "it logged nothing").splitlines()[-1]
            raise UserError(f"{function} ended with status {done.returncode} ({excerpt(last)}).")
        with open(answer) as f:
            found = json.load(f)
    if "error" in found:
        raise UserError(f"{function} failed: {excerpt(' '.join(found['error'].split()), 300)}")
    return found
