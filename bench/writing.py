"""Sections about what the package writes: exports, reports, .tflite files, answers of commands."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

import numpy as np

import mnasnet_main
import mnasnet_models
from bench import measuring
from utils.base import program
from utils.config import settings
from utils.exporting import measure, tflite
from utils.reading import dataset_info, examples
from utils.showing import models, predictions, report_page

import tensorflow.compat.v1 as tf

CLASSES = 1000
NUM_SHARDS = 16
LATENCY_ROUNDS = 20  # of a file in each turn


def commands(folder: str, turns: int) -> None:
    """Measures how long a command takes to answer."""
    commands = (
        "mnasnet_main.py --help",
        "mnasnet_main.py --helpfull",
        "mnasnet_main.py --wrong=1",
        "-m utils.classify --help",
    )
    works = {
        command: functools.partial(measuring.seconds_of, *command.split(), statuses=(0, 1))
        for command in commands
    }
    measuring.compare("Commands", works, turns)


def export(folder: str, turns: int) -> None:
    """Measures an export of five files, and classifying a picture with one of them."""
    model = (
        "mnasnet_main.py",
        f"--data_dir={measuring.make_data(folder)}",
        f"--model_dir={folder}",
        f"--export_dir={folder}/export",
        "--model_name=mnasnet-small",
        "--input_image_size=224",
        "--use_tpu=False",
        "--post_quantize=True",
        "--quantize=float16,int8",
    )
    measuring.seconds_of(*model, "--mode=train", "--train_steps=2", "--train_batch_size=16")
    file = f"{folder}/export/mnasnet-small.tflite"
    picture = str(measuring.PHOTOGRAPHS / "chelsea.jpg")
    works = {
        "export of mnasnet-small in five forms": (*model, "--mode=export_only"),
        "classifying a picture": ("-m", "utils.classify", f"--model={file}", picture),
    }
    measuring.compare(
        "Export",
        {name: functools.partial(measuring.seconds_of, *words) for name, words in works.items()},
        turns,
    )


def tflite_files(folder: str, turns: int) -> None:
    """Measures the files of mnasnet-a1 next to one of the bare network.

    The bare network takes normalized pixels and gives logits. The difference is what the
    normalization and the softmax inside the files cost.
    """
    params = {**settings.default_params(), "model_name": "mnasnet-a1", "use_tpu": False}
    files = {"bare network, float32": _bare(params)}
    kinds = tuple(tflite.SUFFIXES)
    files.update(measure.random_files(params, mnasnet_main.mnasnet_model_fn, kinds))

    def run(name: str) -> dict[str, float]:
        milliseconds = measure.median_latencies({name: files[name]}, LATENCY_ROUNDS)[name]
        return {"ms": milliseconds, "MB": len(files[name]) / 1e6}

    works = {name: functools.partial(run, name) for name in files}
    measuring.compare("mnasnet-a1 at 224 on one thread", works, turns)


def _bare(params) -> bytes:
    """Returns a float file of the network alone."""
    size = params["input_image_size"]
    with tf.Graph().as_default(), tf.Session() as session, program.hold_native_output():
        images = tf.placeholder(tf.float32, [1, size, size, 3])
        logits, _ = mnasnet_models.build_mnasnet_model(images, params["model_name"], False)
        session.run(tf.global_variables_initializer())
        return tf.lite.TFLiteConverter.from_session(session, [images], [logits]).convert()


def reports(folder: str, turns: int) -> None:
    """Measures writing the report of 50,000 pictures; it begins when the model is done."""
    write = make_report(folder, 50_000, list(measuring.make_pictures(120)))

    def run() -> dict[str, float]:
        taken = measuring.seconds(write)
        return taken | {f"{name} MB": size / 1e6 for name, size in sizes(folder).items()}

    measuring.compare(f"A report of {CLASSES} classes", {"50,000 pictures": run}, turns)


def make_report(folder: str, count: int, pictures: list[bytes]) -> Callable[[], str]:
    """Makes predictions, of which 70 % are right, and records; returns what writes their report.

    Args:
      folder: local folder for the records; the report becomes its folder `report`.
      count: number of records.
      pictures: encoded pictures, which are repeated.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count, np.int32)
    # Most others are taken for one of the ten classes next to theirs.
    top = (
        labels[:, None] // 10 * 10 + rng.permuted(np.tile(np.arange(10), (count, 1)), axis=1)[:, :5]
    )
    is_right = rng.random(count) < 0.7
    top[is_right, 0] = labels[is_right]
    probabilities = np.sort(rng.dirichlet([8, 2, 1, 1, 1, 1], count)[:, :5], axis=1)[:, ::-1]
    paths = [f"{folder}/validation-{n:05d}-of-{NUM_SHARDS:05d}" for n in range(NUM_SHARDS)]
    numbers = np.arange(count)
    found = predictions.Predictions(
        paths,
        (numbers % NUM_SHARDS).astype(np.int32),
        numbers // NUM_SHARDS,
        [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in numbers],
        labels,
        top.astype(np.int32),
        probabilities.astype(np.float32),
        np.where(is_right, probabilities[:, 0], 0.05).astype(np.float32),
        CLASSES,
    )
    for file, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for number in numbers[file::NUM_SHARDS]:
                picture = pictures[number % len(pictures)]
                writer.write(examples.example(picture, int(labels[number]) + 1))
    pathlib.Path(folder, "report").mkdir()
    names = dataset_info.read_labels("imagenet", CLASSES)
    model = models.Model("benchmark", "made up", "-", CLASSES, names, lambda pictures: np.empty(0))
    subject = report_page.Subject(model, folder, "validation")
    source = predictions.Source(paths, CLASSES)
    return functools.partial(report_page.write, subject, source, found, f"{folder}/report")


def sizes(folder: str) -> dict[str, int]:
    """Returns the bytes of each file of the report that `make_report` prepared."""
    paths = sorted(pathlib.Path(folder, "report").iterdir())
    return {path.name: path.stat().st_size for path in paths}
