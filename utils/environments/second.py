"""Makes a second Python environment, for packages that do not fit next to TensorFlow 2.15."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Sequence

from utils.base.errors import UserError


def set_up(env: str, name: str, packages: Sequence[str], needs: str, size: str) -> str:
    """Installs packages in the environment unless they are there; returns its Python.

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
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as e:
        lines = (getattr(e, "stderr", None) or str(e)).strip().splitlines()
        raise UserError(f"{name} cannot be installed here ({lines[-1]}): it needs {needs}.") from e
    with open(stamp, "w") as f:
        f.write(wanted)
    return python
