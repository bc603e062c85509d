"""Measures MnasNet-A1 and MobileNetV2 on this machine and writes data/latency_measured.json.

python -m g3doc.measure_latency [OUTPUT.json]

Every image size and depth multiplier with a published accuracy is measured, as float32 and as int8
file, with random weights: about ten minutes on two cores. Nothing else should run meanwhile.
"""

from __future__ import annotations

import datetime
import json
import sys

import mnasnet_main
from g3doc import cost_tables
from utils.base import files, program
from utils.config import settings
from utils.exporting import measure

import tensorflow.compat.v1 as tf

ROUNDS = 100


def configurations(model: str) -> list[tuple[float, int]]:
    """Returns (depth multiplier, image size) of every published accuracy of a model."""
    return [
        (row["depth_multiplier"], int(row["image_size"])) for row in cost_tables.published(model)
    ]


def _a1_files(multiplier: float, size: int) -> dict[str, bytes]:
    params = settings.default_params()
    params.update(
        model_name="mnasnet-a1", depth_multiplier=multiplier, input_image_size=size, use_tpu=False
    )
    return measure.random_files(params, mnasnet_main.mnasnet_model_fn)


def _mobilenet_v2_files(multiplier: float, size: int) -> dict[str, bytes]:
    """Returns files like those of A1: they normalize pixels and give probabilities."""
    with tf.Graph().as_default(), tf.Session() as session, program.hold_native_output():
        images = tf.placeholder(tf.float32, [1, size, size, 3])
        tf.keras.backend.set_session(session)
        tf.keras.backend.set_learning_phase(0)
        network = tf.keras.applications.MobileNetV2((size, size, 3), multiplier, weights=None)
        probabilities = network(images / 127.5 - 1)
        session.run(tf.global_variables_initializer())
        return {
            kind: _converter(session, images, probabilities, kind).convert()
            for kind in measure.LATENCY_KINDS
        }


def _converter(session, images, probabilities, kind: str):
    converter = tf.lite.TFLiteConverter.from_session(session, [images], [probabilities])
    if kind == "int8":
        pictures = measure.random_pictures(images.shape[1])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter


_MAKERS = {cost_tables.A1: _a1_files, cost_tables.MOBILENET_V2: _mobilenet_v2_files}


def measured() -> dict:
    """Returns the content of the file: machine, date, rounds and one row a network."""
    contents = {}
    for model, make in _MAKERS.items():
        for multiplier, size in configurations(model):
            for kind, content in make(multiplier, size).items():
                contents[model, multiplier, size, kind] = content
            print(f"made {model} {multiplier:g} @ {size}", file=sys.stderr, flush=True)
    machine = measure.machine()  # the load before the measurement, which is a load itself
    found = measure.median_latencies(contents, ROUNDS)
    rows = [
        {
            "model": model,
            "depth_multiplier": multiplier,
            "image_size": size,
            **{
                kind: round(found[model, multiplier, size, kind], 3)
                for kind in measure.LATENCY_KINDS
            },
        }
        for model in _MAKERS
        for multiplier, size in configurations(model)
    ]
    date = datetime.date.today().isoformat()
    return {"machine": machine, "date": date, "rounds": ROUNDS, "median_ms": rows}


def main(argv: list[str]) -> None:
    """Measures and writes the file."""
    files.write_text(
        argv[1] if len(argv) > 1 else str(cost_tables.MEASURED),
        json.dumps(measured(), indent=1) + "\n",
    )


if __name__ == "__main__":
    program.run(main)
