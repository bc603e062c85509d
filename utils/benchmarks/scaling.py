"""Measures what several workers cost: `python -m utils.benchmarks.scaling`, `make bench-scaling`.

It counts the collective operations and bytes of a training step in the graph of one of two workers,
times steps of 1, 2 and 4 workers on this machine, and computes what the bytes take on networks of
several speeds. The workers of one machine share its cores, so their times tell what the exchange
costs here, not how a training speeds up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mnasnet_main
from utils.base import memory, program, progress, tables
from utils.base.errors import UserError
from utils.benchmarks import pictures as benchmark_pictures
from utils.cluster import tasks
from utils.config import settings

import tensorflow.compat.v1 as tf  # isort: skip

NETWORKS = (("mnasnet-small", 10), ("mnasnet-small", 1000), ("mnasnet-a1", 1000))
COUNTS = (1, 2, 4)
HOSTS = (2, 4, 8, 16, 32)
GIGABITS = (1, 10, 25, 100)
_STEPS = 40
_FIRST_STEPS = 5  # prepare what the others run
_LIMIT = 300  # seconds for a training: a fault would wait for ever


class Exchange(NamedTuple):
    """What the workers exchange in a step.

    Attributes:
      sums: operations that sum a tensor over the workers; all gradients are packed into one. The
        vote on stopping, a single number, comes on top.
      bytes: bytes of these tensors in one worker.
    """

    sums: int
    bytes: int


def exchange(model_name: str, num_classes: int, sync_batch_norm: bool) -> Exchange:
    """Counts the exchange of a training step in the graph of one of two workers.

    Args:
      model_name: of the network.
      num_classes: of the classifier.
      sync_batch_norm: as --sync_batch_norm.
    """
    params = {
        **settings.default_params(), "model_name": model_name, "num_label_classes": num_classes,
        "use_tpu": False, "add_summaries": False, "sync_batch_norm": sync_batch_norm,
    }  # fmt: skip
    # Nothing listens there: the graph is built, but does not run.
    task = tasks.Task(("127.0.0.1:1", "127.0.0.1:2"), 0)
    with tf.Graph().as_default(), task.in_environment():
        strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
        with strategy.scope():
            images = tf.placeholder(tf.float32, [16, 224, 224, 3])
            labels = tf.placeholder(tf.int32, [16])
            tf.train.get_or_create_global_step()
            spec = strategy.extended.call_for_each_replica(
                mnasnet_main.mnasnet_model_fn,
                (images, labels, tf.estimator.ModeKeys.TRAIN, params),
            )
        return _summed(_operations_before(spec.train_op))


def _operations_before(last: tf.Operation) -> list[tf.Operation]:
    """Returns the operations that one operation needs."""
    found, waiting = {last}, [last]
    while waiting:
        operation = waiting.pop()
        before = [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        waiting += [one for one in dict.fromkeys(before) if one not in found]
        found.update(before)
    return list(found)


def _summed(operations: Sequence[tf.Operation]) -> Exchange:
    reductions = [op for op in operations if op.type.startswith("CollectiveReduce")]
    tensors = [op.inputs[0] for op in reductions]
    sizes = [tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors]
    return Exchange(len(reductions), sum(sizes))


def step_seconds(count: int, sync_batch_norm: bool) -> float:
    """Returns the median time of a step of mnasnet-small with 32 images over all workers.

    Args:
      count: number of workers on this machine.
      sync_batch_norm: as --sync_batch_norm.
    """
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            sys.executable, os.path.join(benchmark_pictures.ROOT, "mnasnet_main.py"),
            "--mode=train", "--data_dir=null", f"--model_dir={model_dir}",
            "--model_name=mnasnet-small", "--num_label_classes=10", "--input_image_size=32",
            "--train_batch_size=32", f"--train_steps={_STEPS}", "--log_step_count_steps=1",
            "--add_summaries=False", f"--num_workers={count}", "--max_restarts=0",
            f"--sync_batch_norm={sync_batch_norm}", f"--step_timeout={_LIMIT / 2}",
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        times, lines = [], []
        try:
            for line in process.stderr or ():
                lines.append(line)
                if re.search(r"train step \d+/", line):
                    times.append(time.monotonic())
            status = process.wait(_LIMIT)
        finally:
            process.terminate()
    if status != 0 or len(times) < 2 * _FIRST_STEPS:
        raise UserError("The training failed: " + "".join(lines[-3:]).strip())
    steps = [after - before for before, after in itertools.pairwise(times[_FIRST_STEPS:])]
    return statistics.median(steps)


def seconds_of_exchange(count: int, num_bytes: int, gigabits: float) -> float:
    """Returns how long a ring of hosts takes to sum tensors, as far as the network decides.

    Each host sends and receives 2 (N - 1) / N of the bytes. What overlaps with the backward pass
    is not deducted, and the latency of each hop not added.

    Args:
      count: number of hosts, N.
      num_bytes: of the tensors.
      gigabits: a second, of each host's connection.
    """
    return 2 * (count - 1) / count * num_bytes * 8 / (gigabits * 1e9)


def print_exchange() -> None:
    """Prints a table of what each network's workers exchange in a step."""
    rows: list[Mapping[str, Any]] = []
    for (name, classes), synchronized in itertools.product(NETWORKS, (False, True)):
        found = exchange(name, classes, synchronized)
        rows.append(
            {
                "network": name, "classes": classes,
                "batch norm": "synchronized" if synchronized else "per worker",
                "all-reduced MB": f"{found.bytes / 1e6:.2f}", "sums": found.sums,
            }
        )  # fmt: skip
    print("One step of one of two workers:")
    print(_table(rows), flush=True)


def print_steps(turns: int) -> None:
    """Prints the time of a step for each number of workers: median, least and most of turns."""
    cases = [(count, False) for count in COUNTS] + [(2, True)]
    found: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    total = turns * len(cases)
    with contextlib.closing(
        progress.Progress("measure", total, "training", log_every=len(cases))
    ) as bar:
        for done, case in enumerate(cases * turns, start=1):
            found[case].append(step_seconds(*case))
            bar.update(done)
    alone = statistics.median(found[cases[0]])
    rows = [
        {
            "workers": count, "batch norm": "synchronized" if synchronized else "per worker",
            "step ms": f"{1000 * statistics.median(seconds):.0f}",
            "least to most": f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}",
            "of one worker's": f"{statistics.median(seconds) / alone:.2f} x",
        }
        for (count, synchronized), seconds in found.items()
    ]  # fmt: skip
    print(
        f"mnasnet-small at 32, 32 images a step over all workers, {memory.cores()} cores, "
        f"medians of {turns} turns:"
    )
    print(_table(rows), flush=True)


def print_model() -> None:
    """Prints what the exchange of mnasnet-a1 adds to a step on networks of several speeds."""
    num_bytes = exchange("mnasnet-a1", 1000, False).bytes
    rows = [
        {"hosts": count}
        | {
            f"{gigabits} Gb/s": f"{1000 * seconds_of_exchange(count, num_bytes, gigabits):.1f} ms"
            for gigabits in GIGABITS
        }
        for count in HOSTS
    ]
    print(f"Computed, not measured: what summing {num_bytes / 1e6:.2f} MB adds to a step of A1:")
    print(_table(rows), flush=True)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    return tables.markdown(columns, [[str(row[column]) for column in columns] for row in rows])


def main(argv: list[str]) -> None:
    """Runs the benchmark and prints its tables."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.scaling", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--turns", type=int, default=3, help="runs of each case (default: 3)")
    arguments = parser.parse_args(argv[1:])
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns} is invalid: it must be at least 1.")
    print_exchange()
    print_steps(arguments.turns)
    print_model()


if __name__ == "__main__":
    program.run(main)
