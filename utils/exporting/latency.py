"""Measures the latency of networks as .tflite files, on one thread of this machine, in turns."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from utils.base import memory
from utils.exporting import tflite, tflite_metadata

import tensorflow.compat.v1 as tf

KINDS = ("float32", "int8")
ROUNDS = 60

_Key = TypeVar("_Key")


def definition() -> str:
    """Returns what the figures of `of_networks` mean, with the name of this machine."""
    how = f"median of {ROUNDS} runs in turns, with random weights, for one image"
    return f"{how}, {describe(machine())}"


def of_networks(
    networks: Sequence[Mapping[str, Any]], model_fn: Callable
) -> list[dict[str, float]]:
    """Returns each network's milliseconds for one image, by kind of file.

    Args:
      networks: complete settings of each.
      model_fn: the model function of an estimator.

    Raises:
      UserError: a network cannot be converted to int8.
    """
    contents = {}
    for number, params in enumerate(networks):
        for kind, content in random_files(params, model_fn).items():
            contents[number, kind] = content
    found = medians(contents)
    return [{kind: found[number, kind] for kind in KINDS} for number in range(len(networks))]


def random_files(
    params: Mapping[str, Any], model_fn: Callable, kinds: tuple[str, ...] = KINDS
) -> dict[str, bytes]:
    """Returns the .tflite files of a network with random weights, by kind.

    Args:
      params: complete settings of the network.
      model_fn: the model function of an estimator.
      kinds: of `tflite.SUFFIXES`.

    Raises:
      UserError: the network cannot be converted to int8.
    """
    params = {**params, "use_tpu": False}
    pictures = random_pictures(params["input_image_size"])
    with tempfile.TemporaryDirectory(prefix="mnasnet-latency-") as folder:
        checkpoint = _random_checkpoint(params, model_fn, folder)
        with tflite.restored(model_fn, params, checkpoint) as network:
            return {
                kind: tflite_metadata.add(
                    network.convert(kind, pictures),
                    tflite_metadata.Description(
                        network.contract, params["model_name"], (),
                        *network.input_normalization(kind),
                    ),
                )
                for kind in kinds
            }  # fmt: skip


def random_pictures(size: int, count: int = 8) -> np.ndarray:
    """Returns noise that stands for pictures, float32 [count, size, size, 3] in [0, 255]."""
    rng = np.random.RandomState(0)
    return rng.uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def _random_checkpoint(params, model_fn: Callable, folder: str) -> str:
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, [1, None, None, 3])
        tf.train.get_or_create_global_step()
        model_fn(images, None, tf.estimator.ModeKeys.PREDICT, params)
        session.run(tf.global_variables_initializer())
        return tf.train.Saver().save(session, folder + "/model.ckpt", 0)


def medians(contents: Mapping[_Key, bytes], rounds: int = ROUNDS) -> dict[_Key, float]:
    """Returns the median milliseconds that each .tflite file takes for an image.

    Only the network is timed, not the conversion of pixels to the type of its input. It runs on
    this thread, whose own time counts: what other programs take in between does not. They still
    compete for caches and memory, so the files take turns, and a disturbance meets all of them. At
    its turn a file runs twice, and the second run counts, which finds the weights in the caches.
    """
    interpreters = {key: tflite.Interpreter(content=content) for key, content in contents.items()}
    for interpreter in interpreters.values():
        interpreter.scores(random_pictures(interpreter.image_size, 1)[0])
    seconds: dict[_Key, list[float]] = {key: [] for key in contents}
    for _ in range(rounds):
        for key, interpreter in interpreters.items():
            interpreter.run_again()
            start = time.thread_time()
            interpreter.run_again()
            seconds[key].append(time.thread_time() - start)
    return {key: 1000 * float(np.median(times)) for key, times in seconds.items()}


def machine() -> dict[str, Any]:
    """Returns what latencies depend on: processor, cores, load, threads and interpreter."""
    return {
        "processor": _processor(),
        "cores": memory.cores(),
        "load": round(os.getloadavg()[0], 2),
        "threads": 1,
        "interpreter": f"TensorFlow {tf.__version__}",
    }


def describe(found: Mapping[str, Any]) -> str:
    """Returns a clause that names a machine, as `machine` gives it."""
    return (
        f"through the interpreter of {found['interpreter']} on one thread of {found['processor']} "
        f"({found['cores']} cores, load average {found['load']:g})"
    )


def _processor() -> str:
    """Returns the name of the processor, or of its architecture if the system does not tell."""
    try:
        with open("/proc/cpuinfo") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
