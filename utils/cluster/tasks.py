"""Tells which of the processes of a training this one is, from TF_CONFIG or Slurm.

A training of several devices has one process for each of them, on one machine as on many. The
processes are called workers. The first one, the chief, also evaluates, exports and writes all
files; worker 0 is another name for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from utils.base.errors import UserError, excerpt

VARIABLE = "TF_CONFIG"
# Two jobs on one node must not take the same ports; a job's id decides, and ports from 32768 on
# are those that the kernel gives to connections.
_SLURM_PORTS = range(12000, 32000)
_PORTS_A_JOB = 50  # more than there are GPUs in a node


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a training.

    Attributes:
      addresses: 'host:port' of all workers, the chief's first; empty if there is one process.
      index: number of this process among them, from 0.
      local_index: its number among the workers of its machine, from 0; None if it is unknown.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0
    local_index: int | None = None

    @property
    def count(self) -> int:
        """Counts the workers; 1 for a training in one process."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        """Tells whether this process evaluates, exports and writes the files."""
        return self.index == 0

    @property
    def address(self) -> str:
        """Returns the address of this process, of several."""
        return self.addresses[self.index]

    def tf_config(self) -> str:
        """Returns the value of TF_CONFIG from which TensorFlow learns the same."""
        cluster = {"chief": self.addresses[:1], "worker": self.addresses[1:]}
        kind, index = ("chief", 0) if self.is_chief else ("worker", self.index - 1)
        return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})

    @contextlib.contextmanager
    def in_environment(self) -> Iterator[None]:
        """Sets TF_CONFIG for the block, which trains; an evaluation must not see it."""
        if self.count == 1:
            yield
            return
        os.environ[VARIABLE] = self.tf_config()
        try:
            yield
        finally:
            os.environ.pop(VARIABLE, None)


class _State:
    """Holds the task of this process."""

    task = Task()


def current() -> Task:
    """Returns the task of this process; that of a single process before `join`."""
    return _State.task


def join() -> Task:
    """Reads the task of this process from the environment, and takes TF_CONFIG out of it.

    TensorFlow would read TF_CONFIG in every evaluation as well, which is the chief's alone.

    Raises:
      UserError: TF_CONFIG or Slurm's variables do not describe the workers of a training.
    """
    text = os.environ.pop(VARIABLE, None)
    _State.task = of_tf_config(text) if text else of_slurm()
    return _State.task


def of_tf_config(text: str) -> Task:
    """Returns the task that a TF_CONFIG describes, as Kubeflow's TFJob sets it.

    Raises:
      UserError: it is not valid JSON, or has parameter servers, or does not list its own task.
    """
    try:
        content = json.loads(text)
        cluster = {kind: list(addresses) for kind, addresses in content.get("cluster", {}).items()}
        task = content.get("task", {})
        kind, index = task.get("type", "chief"), int(task.get("index", 0))
    except (ValueError, AttributeError, TypeError) as e:
        raise UserError(
            f"{VARIABLE}={excerpt(text)} is not valid ({type(e).__name__}): it must be JSON like "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", '
            '"index": 0}}, or be unset for a training in one process.'
        ) from e
    if cluster.get("ps"):
        raise UserError(
            f"{VARIABLE} lists parameter servers (ps), which this program does not use: list each "
            "GPU's process as a worker."
        )
    if kind == "evaluator":
        raise UserError(
            f"{VARIABLE} makes this process an evaluator: leave it out, and run --mode=eval with "
            f"the same --model_dir, without {VARIABLE}."
        )
    return _with_kinds(cluster, kind, index)


def _with_kinds(cluster: Mapping[str, list[str]], kind: str, index: int) -> Task:
    """Returns the task number `index` of a kind; chief and master come before the workers."""
    before = [*cluster.get("chief", []), *cluster.get("master", [])]
    addresses = (*before, *cluster.get("worker", []))
    if len(addresses) <= 1:
        return Task()
    kinds = {"chief": before, "master": before, "worker": cluster.get("worker", [])}
    if not 0 <= index < len(kinds.get(kind, [])):
        raise UserError(
            f"{VARIABLE} calls this process {kind} {index}, but its cluster lists no such task: it "
            f"has {', '.join(f'{len(v)} of {k}' for k, v in sorted(cluster.items()))}."
        )
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{VARIABLE} lists an address twice: each worker needs one of its own.")
    return Task(tuple(addresses), index + (len(before) if kind == "worker" else 0))


def of_slurm() -> Task:
    """Returns the task of a process that srun started; that of a single process elsewhere.

    A batch script has SLURM_PROCID as well, but is no step of several tasks.

    Raises:
      UserError: the variables of Slurm cannot be read.
    """
    step: dict[str, Any] = {
        name: os.environ.get(f"SLURM_{name}")
        for name in ("STEP_NUM_TASKS", "PROCID", "STEP_ID", "JOB_ID", "LOCALID")
    }
    if not step["STEP_ID"] or int(step["STEP_NUM_TASKS"] or 1) <= 1:
        return Task()
    # Imported here: it takes TensorFlow, and a training elsewhere has no use for it.
    from tensorflow.compat.v1 import distribute

    base = _SLURM_PORTS[int(step["JOB_ID"] or 0) * _PORTS_A_JOB % len(_SLURM_PORTS)]
    try:
        resolver = distribute.cluster_resolver.SlurmClusterResolver(
            jobs={"worker": int(step["STEP_NUM_TASKS"])}, port_base=base,
            gpus_per_node=_PORTS_A_JOB, gpus_per_task=1, auto_set_gpu=False,
        )  # fmt: skip
        # Before the task's own number, which it only then knows.
        addresses = resolver.cluster_spec().as_dict()["worker"]
        _, index = resolver.get_task_info()
    except (RuntimeError, ValueError, KeyError) as e:
        raise UserError(
            f"Slurm's variables cannot be read ({e}): start the program with srun, or set "
            f"{VARIABLE} for each process."
        ) from e
    local = step["LOCALID"]
    return Task(tuple(addresses), index, int(local) if local else None)
