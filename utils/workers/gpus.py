"""Counts the GPUs of this machine without TensorFlow, and gives each process one of them."""

from __future__ import annotations

import contextlib
import os
import subprocess

VARIABLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = "/proc/driver/nvidia/version"
_SECONDS = 30  # a driver that hangs must not hang the program


def visible() -> list[str]:
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs that this process may use.

    They are those of the variable if it is set; else those that nvidia-smi lists.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        # As CUDA reads it: what follows an invalid name does not count.
        names = [name.strip() for name in named.split(",")]
        bad = [number for number, name in enumerate(names) if name in ("", "-1", "NoDevFiles")]
        return names[: bad[0]] if bad else names
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=_SECONDS
        ).stdout
        count = sum(line.startswith("GPU ") for line in listed.splitlines())
        return [str(number) for number in range(count)]
    return []


def has_driver() -> bool:
    """Tells whether the machine has NVIDIA's driver loaded."""
    return os.path.exists(_DRIVER)


def take_one(local_index: int | None) -> int:
    """Lets this process see one GPU alone, before TensorFlow looks for them.

    A process trains on one device; the others are for the other workers of the machine.

    Args:
      local_index: number of this process on the machine; None if whoever started it knows.

    Returns:
      How many GPUs the process could have had.
    """
    names = visible()
    if len(names) > 1:
        os.environ[VARIABLE] = names[(local_index or 0) % len(names)]
    return len(names)
