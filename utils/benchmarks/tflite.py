"""Measures the .tflite files of a model: `python -m utils.benchmarks.tflite`, `make bench-tflite`.

It compares, in one run and on one thread, the exported files of a network with random weights and
a float file of the bare network, which takes normalized pixels and gives logits. The difference is
what the normalization and the softmax inside the files cost.
"""

from __future__ import annotations

import mnasnet_main
import mnasnet_models
from utils.base import program, standard_streams
from utils.config import settings
from utils.exporting import contracts, latency, tflite

import tensorflow.compat.v1 as tf  # isort: skip


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
    contents = {"bare network, float32": _bare(params)}
    kinds = tuple(tflite.SUFFIXES)
    contents.update(latency.random_files(params, mnasnet_main.mnasnet_model_fn, kinds))
    found = latency.medians(contents)
    print(f"{arguments.model_name} at {arguments.size}, {latency.describe(latency.machine())}")
    base = found["bare network, float32"]
    for name, median in found.items():
        print(
            f"  {name:<22} {len(contents[name]) / 1e6:6.2f} MB {median:7.2f} ms "
            f"({median / base:.2f} x bare)"
        )


if __name__ == "__main__":
    program.run(main)
