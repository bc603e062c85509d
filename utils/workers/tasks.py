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
import re
from collections.abc import Iterator, Mapping
from typing import Any

from utils.base import files
from utils.base.errors import UserError, excerpt, quoted

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
      is_evaluator: whether it is no worker, and evaluates what the workers save.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0
    local_index: int | None = None
    is_evaluator: bool = False

    @property
    def count(self) -> int:
        """Counts the workers; 1 for a training in one process."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this process evaluates, exports and writes the files."""
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
    """Returns the task of this process; that of a single process outside of `joined`."""
    return _State.task


@contextlib.contextmanager
def joined() -> Iterator[Task]:
    """Reads the task of this process from the environment, without TF_CONFIG for the block.

    TensorFlow would read TF_CONFIG in every evaluation as well, which is the chief's alone.

    Raises:
      UserError: TF_CONFIG or Slurm's variables do not describe the workers of a training.
    """
    text = os.environ.pop(VARIABLE, None)
    try:
        _State.task = of_tf_config(text) if text else of_slurm()
        yield _State.task
    finally:
        _State.task = Task()
        if text:  # for whoever calls the program's functions once more
            os.environ[VARIABLE] = text


def of_tf_config(text: str) -> Task:
    """Returns the task that a TF_CONFIG describes, as Kubeflow, Vertex AI and others set it.

    Kinds of tasks may be in capitals or in the plural, and their addresses a mapping by index. What
    is not understood is refused, lest a worker train alone.

    Raises:
      UserError: it is not valid JSON, has parameter servers, or does not list its own task.
    """
    try:
        content = json.loads(text)
        cluster: dict[str, list[str]] = {}
        for kind, listed in (content.get("cluster") or {}).items():
            cluster.setdefault(_kind(kind), []).extend(_addresses(listed))
        task = content.get("task") or {}
        own_kind = _kind(task["type"]) if "type" in task else None
        index = int(str(task["index"])) if "index" in task else None
    except (ValueError, AttributeError, TypeError, RecursionError) as e:
        raise UserError(
            f"{VARIABLE}={excerpt(text)} is not valid ({files.reason(e)}): it must be JSON like "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", '
            '"index": 0}}, or be unset for a training in one process.'
        ) from e
    if own_kind == "evaluator":
        return Task(is_evaluator=True)
    for name in content:
        others = name != "cluster" and "cluster" in name.lower() and content[name]
        if others and not any(cluster.values()):
            raise UserError(
                f"{VARIABLE} describes the job as a {excerpt(name)}, which does not name all "
                "workers: let it have a cluster (with Kubeflow, leave out enableDynamicWorker)."
            )
    if cluster.get("ps"):
        raise UserError(
            f"{VARIABLE} lists parameter servers (ps), which this program does not use: list each "
            "GPU's process as a worker."
        )
    return _with_kinds(cluster, own_kind, index)


def _kind(name: str) -> str:
    """Returns what this program calls a kind of tasks: chief, worker, ps or evaluator."""
    name = name.strip().lower()
    name = name if name == "ps" else name.removesuffix("s")
    return "chief" if name == "master" else name


def _addresses(listed: Any) -> list[str]:
    """Returns the addresses of a kind of tasks, from a list, a mapping by index or 'A:1,B:2'."""
    if isinstance(listed, dict):
        by_index = {int(index): address for index, address in listed.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise ValueError(f"it names the tasks {sorted(by_index)} alone")
        listed = [by_index[index] for index in range(len(by_index))]
    if isinstance(listed, str):
        listed = [address.strip() for address in listed.split(",")]
    for address in listed or []:
        if not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
            raise ValueError(f"{quoted(address)} is not HOST:PORT")
    return list(listed or [])


def _with_kinds(cluster: Mapping[str, list[str]], kind: str | None, index: int | None) -> Task:
    """Returns the task number `index` of a kind; the chief comes before the workers."""
    foreign = {k for k, v in cluster.items() if v} - {"chief", "worker", "evaluator"}
    if foreign:
        raise UserError(
            f"{VARIABLE} lists tasks of the kind {excerpt(min(foreign))}, which is none of chief, "
            "worker and evaluator: call those that train worker."
        )
    before, workers = cluster.get("chief", []), cluster.get("worker", [])
    addresses = (*before, *workers)
    listed = {"chief": before, "worker": workers}.get(kind or "", [])
    has = ", ".join(f"{len(v)} of {k}" for k, v in sorted(cluster.items())) or "none at all"
    if kind is None and not index and len(addresses) <= 1:
        return Task()
    if kind is None or (index is None and len(listed) > 1):
        raise UserError(
            f"{VARIABLE} does not say which of its tasks this process is (it has {has}): give "
            '"task": {"type": KIND, "index": NUMBER}.'
        )
    index = index or 0
    # A training in one process may be described by its task alone.
    count = len(listed) if addresses else int(kind in ("chief", "worker"))
    if not 0 <= index < count:
        raise UserError(
            f"{VARIABLE} calls this process {excerpt(kind)} {index}, but its cluster lists no such "
            f"task: it has {has}."
        )
    if len(addresses) <= 1:
        return Task()
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{VARIABLE} lists an address twice: each worker needs one of its own.")
    return Task(addresses, index + (len(before) if kind == "worker" else 0))


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
            jobs={"worker": int(step["STEP_NUM_TASKS"])},
            port_base=base,
            gpus_per_node=_PORTS_A_JOB,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
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
