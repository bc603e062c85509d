"""Decides whether this process trains alone, starts workers, or is one of them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from utils.cluster import gang, gpus, orphans, sizing, tasks


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Makes this process, for the block, one of the workers that its environment names, if any.

    Raises:
      UserError: as `tasks.joined`.
    """
    with tasks.joined() as task:
        if task.count > 1:
            found = gpus.take_one(task.local_index)
            if found > 1 and task.local_index is None:
                logging.warning(
                    "This worker trains on one of the %d GPUs that it sees: start one worker for "
                    "each GPU.", found,
                )  # fmt: skip
            if not task.is_chief:
                logging.set_verbosity(logging.WARNING)
        orphans.watch()
        yield


def is_needed(params: Mapping[str, Any]) -> bool:
    """Tells whether this process is to start workers."""
    alone = tasks.current().count == 1 and not params["use_tpu"]
    return alone and sizing.num_workers(params) > 1


def run(program: str, argv: Sequence[str], params: Mapping[str, Any]) -> int:
    """Starts the workers of this machine and waits for their end; returns the exit status.

    Args:
      program: path of the program.
      argv: its name and its arguments.
      params: all settings, which have been checked.
    """
    count = sizing.num_workers(params)
    logging.info("Starting %d workers on this machine.", count)
    command = [sys.executable, os.path.abspath(program), *argv[1:]]
    return gang.run(command, count, params["max_restarts"])


def is_idle(params: Mapping[str, Any]) -> bool:
    """Tells whether this process is a worker of a mode that the chief runs alone."""
    if tasks.current().is_chief or params["mode"] in sizing.TRAINING_MODES:
        return False
    logging.warning("--mode=%s is the chief's work alone.", params["mode"])
    return True
