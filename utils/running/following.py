"""What a worker does that is not the chief: it trains the same steps, and leaves the rest to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from utils.base.errors import UserError
from utils.cluster import rendezvous, tasks
from utils.cluster.lost import WorkerLost
from utils.running import preparation
from utils.training import checkpoints, inputs

_PAUSE = 0.5  # seconds between two looks for the chief's checkpoint


def plan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the chief tells the others when it has prepared the training.

    Args:
      params: as `preparation.prepare` returns them.
    """
    return {"step": checkpoints.step_of(checkpoints.latest(params["model_dir"]))}


def next_stop(params: Mapping[str, Any], step: int) -> int:
    """Returns the global step to which to train next: of the next evaluation, or the last."""
    last, every = params["train_steps"], params["steps_per_eval"]
    if params["mode"] != "train_and_eval":
        return last
    return min(last, (step // every + 1) * every)


def run(
    params: Mapping[str, Any], train: Callable[[Mapping[str, Any], int, inputs.Split], None]
) -> None:
    """Trains as the chief does, from the step that it names to the last.

    Args:
      params: all settings.
      train: trains on a split to a global step.

    Raises:
      UserError: the chief has other settings, or refuses; or the data cannot be read here.
      WorkerLost: the chief is gone.
    """
    step = rendezvous.follow(tasks.current(), params, params["step_timeout"])["step"]
    params = {
        **params,
        "add_summaries": False,
        "init_checkpoint": None if step else preparation.initial_checkpoint(params),
        "keep_checkpoint_max": 0,  # what is kept is the chief's business
    }
    split = inputs.Split(params, is_training=True)
    split.check()
    while step < params["train_steps"]:
        _wait_for(params["model_dir"], step, params["step_timeout"])
        until = next_stop(params, step)
        train(params, until, split)
        params, step = {**params, "init_checkpoint": None}, until


def _wait_for(model_dir: str, step: int, patience: float) -> None:
    """Waits until the chief has written the checkpoint of a step, from which all go on.

    Raises:
      UserError: the latest checkpoint here is of a later step.
      WorkerLost: it does not come.
    """
    end = time.monotonic() + patience
    while (found := checkpoints.step_of(checkpoints.latest(model_dir))) < step:
        if time.monotonic() > end:
            raise WorkerLost(
                f"The checkpoint of step {step}, which the chief has, did not appear in "
                f"--model_dir={model_dir} within {patience:g} s (the latest here is of step "
                f"{found}): all workers need one folder that they share, such as a bucket or a "
                "network disk."
            )
        time.sleep(_PAUSE)
    if found > step:
        raise UserError(
            f"--model_dir={model_dir} has a checkpoint of step {found} here, but the chief's "
            f"latest is of step {step}: all workers need one folder that they share."
        )
