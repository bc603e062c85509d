"""Decides how many workers train, and refuses what several of them cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.base.errors import UserError, excerpt
from utils.workers.gpus import visible
from utils.workers.tasks import current

TRAINING_MODES = ("train", "train_and_eval")  # of several workers; the chief does the others
_MOST_WORKERS = 1024


def num_workers(params: Mapping[str, Any]) -> int:
    """Returns how many processes train together; an evaluation is always one process's.

    Raises:
      UserError: --num_workers is invalid, or more than this machine has GPUs.
    """
    if params["mode"] not in TRAINING_MODES:
        return 1
    if current().count > 1:
        return current().count
    given = params["num_workers"]
    found = len(visible()) if given != "1" else 0
    if given == "auto":
        return max(1, found)
    try:
        count = int(given)
    except ValueError:
        count = 0
    if not 1 <= count <= _MOST_WORKERS:
        raise UserError(
            f"--num_workers={excerpt(given)} is invalid: give a number from 1 to "
            f"{_MOST_WORKERS}, or auto for all GPUs of this machine."
        )
    if 0 < found < count:
        raise UserError(
            f"--num_workers={count}, but this machine shows {found} GPUs: give at most {found}, or "
            "look at CUDA_VISIBLE_DEVICES."
        )
    return count


def check(params: Mapping[str, Any]) -> None:
    """Refuses what several workers or an evaluator cannot do, before they are started.

    Raises:
      UserError: names the setting and the remedy.
    """
    if current().is_evaluator and params["mode"] != "eval":
        raise UserError(
            f"TF_CONFIG makes this process an evaluator, which --mode={params['mode']} is not for: "
            "start it with --mode=eval and the same --model_dir."
        )
    if params["use_tpu"]:
        _check_tpu(params)
        return
    workers, batch = num_workers(params), params["train_batch_size"]
    if workers == 1:
        return
    if batch % workers:
        below, above = batch // workers * workers, -(-batch // workers) * workers
        raise UserError(
            f"--train_batch_size={batch} is the batch of all workers and must be a multiple of "
            f"their number, {workers}: give {f'{below} or ' if below else ''}{above}."
        )
    for name in ("use_async_checkpointing", "cached_views"):
        if params[name]:
            raise UserError(
                f"--{name} is for one process: leave it out, or train without several workers "
                "(--num_workers, TF_CONFIG, srun)."
            )


def _check_tpu(params: Mapping[str, Any]) -> None:
    if params["num_workers"] != "1" or current().count > 1:
        raise UserError(
            "--num_workers, TF_CONFIG and srun are for GPUs and CPUs: one process trains on all "
            "cores of a TPU."
        )
    if params["sync_batch_norm"]:
        raise UserError(
            "--sync_batch_norm is for workers on GPUs and CPUs: each core of a TPU normalizes its "
            "part of the batch by itself, as published; leave it out."
        )
