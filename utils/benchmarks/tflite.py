"""Measures the .tflite files of a model: `python -m utils.benchmarks.tflite`, `make bench-tflite`.

It compares, in one run and on one thread, the exported files of a network with random weights and
a float file of the bare network, which takes normalized pixels and gives logits. The difference is
what the normalization and the softmax inside the files cost.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

import mnasnet_main
import mnasnet_models
from utils.base import program, standard_streams
from utils.config import settings
from utils.exporting import contracts, tflite, tflite_metadata

import tensorflow.compat.v1 as tf  # isort: skip

ROUNDS = 60


def _checkpoint(params, folder: str) -> str:
    """Writes a checkpoint of random weights; returns its path."""
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, [1, None, None, 3])
        tf.train.get_or_create_global_step()
        mnasnet_main.mnasnet_model_fn(images, None, tf.estimator.ModeKeys.PREDICT, params)
        session.run(tf.global_variables_initializer())
        return tf.train.Saver().save(session, folder + "/model.ckpt", 0)


def _bare(params) -> bytes:
    """Returns a float file of the network alone."""
    size = params["input_image_size"]
    with tf.Graph().as_default(), tf.Session() as session, standard_streams.hold_native_output():
        images = tf.placeholder(tf.float32, [1, size, size, 3])
        logits, _ = mnasnet_models.build_mnasnet_model(images, params["model_name"], False)
        session.run(tf.global_variables_initializer())
        return tf.lite.TFLiteConverter.from_session(session, [images], [logits]).convert()


def main(argv: list[str]) -> None:
    """Prints size and latency of each file."""
    parser = program.ArgumentParser(
        prog="python -m utils.benchmarks.tflite", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model_name", default="mnasnet-a1", help="network (default: mnasnet-a1)")
    parser.add_argument("--size", type=int, default=224, help="side of the images (default: 224)")
    parser.add_argument(
        "--tflite_contract", default=contracts.APP.name, choices=tuple(contracts.CONTRACTS),
        help="what the files take and give (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args(argv[1:])
    params = settings.default_params()
    params.update(
        model_name=arguments.model_name, input_image_size=arguments.size, use_tpu=False,
        tflite_contract=arguments.tflite_contract,
    )  # fmt: skip
    rng = np.random.RandomState(0)
    pictures = rng.uniform(0, 255, (8, arguments.size, arguments.size, 3)).astype(np.float32)
    contents = {"bare network, float32": _bare(params)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _checkpoint(params, folder)
        with tflite.Network(mnasnet_main.mnasnet_model_fn, params, checkpoint) as network:
            for kind in tflite.SUFFIXES:
                description = tflite_metadata.Description(
                    network.contract, params["model_name"], (), *network.input_normalization(kind)
                )
                content = network.convert(kind, pictures)
                contents[kind] = tflite_metadata.add(content, description)
    interpreters = {n: tflite.Interpreter(content=c) for n, c in contents.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contents}
    # The files take turns, so that a disturbance meets all of them.
    for number in range(ROUNDS):
        for name, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.scores(pictures[number % len(pictures)])
            seconds[name].append(time.perf_counter() - start)
    print(f"{arguments.model_name} at {arguments.size}, one thread")
    base = float(np.median(seconds["bare network, float32"]))
    for name, times in seconds.items():
        median = float(np.median(times))
        print(
            f"  {name:<22} {len(contents[name]) / 1e6:6.2f} MB {1000 * median:7.2f} ms "
            f"({median / base:.2f} x bare)"
        )


if __name__ == "__main__":
    program.run(main)
