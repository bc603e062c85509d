"""Measures how good and how fast a classifier is, and keeps that in `export_report.json`.

The file maps `identity` to what the export was made of (model, checkpoint, step, settings), and
`files` to the name of each file or folder with its `kind` and its measurements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from utils.base import files, memory, program, progress
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    from utils.exporting import metadata, tflite

LATENCY_KINDS = ("float32", "int8")
ROUNDS = 60

_Key = TypeVar("_Key")


def latency_definition() -> str:
    """Returns what the figures of `latencies_of_networks` mean, with the name of this machine."""
    how = f"median of {ROUNDS} runs in turns, with random weights, for one image"
    return f"{how}, {describe_machine(machine())}"


def latencies_of_networks(
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
    found = median_latencies(contents)
    return [
        {kind: found[number, kind] for kind in LATENCY_KINDS} for number in range(len(networks))
    ]


def random_files(
    params: Mapping[str, Any], model_fn: Callable, kinds: tuple[str, ...] = LATENCY_KINDS
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
                kind: metadata.add(
                    network.convert(kind, pictures),
                    metadata.Description(
                        network.contract, params["model_name"], (), network.preparation
                    ),
                )
                for kind in kinds
            }


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


def median_latencies(contents: Mapping[_Key, bytes], rounds: int = ROUNDS) -> dict[_Key, float]:
    """Returns the median milliseconds that each .tflite file takes for an image.

    Only the network is timed, not the conversion of pixels to the type of its input. It runs on
    this thread, whose own time counts: what other programs take in between does not. They still
    compete for caches and memory, so the files take turns, and a disturbance meets all of them. At
    its turn a file runs twice, and the second run counts, which finds the weights in the caches.
    """
    interpreters = {key: tflite.Interpreter(content=content) for key, content in contents.items()}
    for interpreter in interpreters.values():
        interpreter.scores(random_pictures(interpreter.preparation.image_size, 1)[0])
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


def describe_machine(found: Mapping[str, Any]) -> str:
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


REPORT_FILE = "export_report.json"
LABELS_KIND = "names of the classes"
# Top-1 on pictures that are stretched whole into the input, as MediaPipe prepares them.
STRETCHED = "squeezed_top_1_accuracy"


def read_report(export_dir: str) -> dict[str, Any] | None:
    """Returns the report of the export in a folder; None if there is none.

    Raises:
      UserError: the file is not a report of this program.
    """
    path = os.path.join(export_dir, REPORT_FILE)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "remove it, or choose another --export_dir"
    return files.read_json(path, "a report of this program", remedy, _checked_report)


def _checked_report(content: Any) -> dict[str, Any]:
    """Returns the report if it has all that its readers take for granted."""
    identity = files.member(content, "identity", dict)
    files.member(identity, "global_step", int)
    for name, row in files.member(content, "files", dict).items():
        files.name_in_folder(name)
        files.member(row, "kind", str)
        if row["kind"] != LABELS_KIND:
            _check_measured(identity, row)
    return content


def _check_measured(identity: dict[str, Any], row: dict[str, Any]) -> None:
    files.member(identity, "model_name", str)
    files.member(row, "bytes", int)
    for name in (_difference(row), "latency_ms"):
        files.member(row, name, int, float)
    for name in ("top_1_accuracy", "top_5_accuracy", "agreement"):
        files.member(row, name, int, float, type(None))
    if STRETCHED in row:  # only float32 files have it, and none of before
        files.member(row, STRETCHED, int, float, type(None))


def _difference(row: Mapping[str, Any]) -> str:
    """Returns the name of a file's largest difference, which says what was compared."""
    return DIFFERENCES[DIFFERENCES[True] in row]


def write_report(export_dir: str, report: dict[str, Any]) -> None:
    """Writes the report, which makes the export in a folder count as complete."""
    files.write_json(os.path.join(export_dir, REPORT_FILE), report)


MEASURED = ("MB", "top-1 %", "top-5 %", "stretched %", "agreement %", "difference", "ms")


def measured(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells under the titles MEASURED for one file of a report."""
    shares = [
        "-" if row.get(name) is None else f"{100 * row[name]:.2f}"
        for name in ("top_1_accuracy", "top_5_accuracy", STRETCHED, "agreement")
    ]
    return [
        f"{row['bytes'] / 1e6:.2f}",
        *shares,
        f"{row[_difference(row)]:.1g}",
        f"{row['latency_ms']:.2f}",
    ]


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the measurements of files, by their names, as a table for a terminal."""
    lines = ([name, *measured(row)] for name, row in rows.items())
    return program.plain(["file", *MEASURED], lines)


# Whether scores are probabilities -> how a report names their largest difference.
DIFFERENCES = {False: "largest_logit_difference", True: "largest_probability_difference"}
TOP_K = 5
TIMED_RUNS = 50
_PIECE = 20  # images that a classifier takes without a look at the others


@dataclasses.dataclass
class Measurement:
    """Sums up what is measured image by image.

    Attributes:
      images: number of images so far.
      top_1: number of images whose label has the largest score.
      top_5: number of images whose label is among the five largest scores.
      agreeing: number of images whose largest score is the reference's.
      largest_difference: largest difference of a score from the reference's, relative to the
        reference's largest score.
      latencies: seconds for each image that was timed.
    """

    images: int = 0
    top_1: int = 0
    top_5: int = 0
    agreeing: int = 0
    largest_difference: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def add(self, scores: np.ndarray, label: int, seconds: float | None, expected=None) -> None:
        """Counts one image.

        Args:
          scores: logits or probabilities, float [classes].
          label: index of the right class.
          seconds: time that the classifier took; None if it was not timed.
          expected: the reference's scores; without them nothing is compared.
        """
        self.images += 1
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        self.top_1 += int(best[0] == label)
        self.top_5 += int(label in best)
        if seconds is not None:
            self.latencies.append(seconds)
        if expected is not None:
            self.agreeing += int(best[0] == np.argmax(expected))
            difference = np.abs(scores - expected).max() / max(1e-6, np.abs(expected).max())
            self.largest_difference = max(self.largest_difference, float(difference))

    def report(self, labelled: bool, difference: str = DIFFERENCES[False]) -> dict[str, Any]:
        """Returns a file's measurements for the report of an export.

        Args:
          labelled: whether the labels are of the model's classes; without, accuracies are None.
          difference: the name under which the report has the largest difference; it says whether
            the scores were logits or probabilities.
        """
        return {
            "images": self.images,
            "top_1_accuracy": self.top_1 / self.images if labelled else None,
            "top_5_accuracy": self.top_5 / self.images if labelled else None,
            "agreement": self.agreeing / self.images,
            difference: self.largest_difference,
            "latency_ms": 1000 * float(np.median(self.latencies[-TIMED_RUNS:])),
        }


# Maps an image, float [S, S, 3] in [0, 255], to scores, float [classes].
Classifier = Callable[[np.ndarray], np.ndarray]
# (image, float [S, S, 3] in [0, 255]; label).
Sample = tuple[np.ndarray, int]
# The scores of some images, with the seconds that each took, if they were timed.
_Run = list[tuple[np.ndarray, float | None]]


def compare(
    classifiers: Mapping[str, Classifier],
    reference: str,
    samples: Iterable[Sample],
    total: int,
) -> dict[str, Measurement]:
    """Runs classifiers on the same images.

    The last `TIMED_RUNS` images are timed: each classifier takes the first of them, then the
    second, and nothing else runs. Before them, classifiers run next to each other on all cores.

    Args:
      classifiers: name -> classifier; each may run in a thread of its own. All of them give
        logits, or all of them probabilities.
      reference: the name of that one of them that the others are compared with.
      samples: the images.
      total: number of samples, for the progress line.

    Returns:
      The measurement of each classifier, by name.

    Raises:
      UserError: a classifier gives infinite numbers or NaN.
    """
    found = {name: Measurement() for name in classifiers}
    with (
        contextlib.closing(progress.Progress("measure", total, "image", log_every=5000)) as bar,
        futures.ThreadPoolExecutor(min(len(classifiers), memory.cores())) as pool,
    ):
        done = 0
        for piece, is_timed in _pieces(samples):
            turn = _run_in_turns if is_timed else functools.partial(_run, pool)
            runs = dict(zip(classifiers, turn([*classifiers.values()], piece), strict=True))
            for number, (_, label) in enumerate(piece):
                expected, _ = runs[reference][number]
                _check_reference(expected)
                for name, run in runs.items():
                    scores, seconds = run[number]
                    _check_scores(name, scores)
                    found[name].add(scores, label, seconds, expected)
            done += len(piece)
            bar.update(done)
    return found


def _pieces(samples: Iterable[Sample]) -> Iterator[tuple[list[Sample], bool]]:
    """Yields pieces of the samples, and whether a piece is one of the last `TIMED_RUNS`."""
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == TIMED_RUNS + _PIECE:
            yield waiting[:_PIECE], False
            waiting = waiting[_PIECE:]
    untimed = waiting[:-TIMED_RUNS]
    if untimed:
        yield untimed, False
    for sample in waiting[len(untimed) :]:
        yield [sample], True


def _run(pool: futures.Executor, runs: Sequence[Classifier], piece: Sequence[Sample]) -> list[_Run]:
    """Returns what each classifier gives for a piece; they run next to each other."""

    def of_one(classifier: Classifier) -> _Run:
        return [(classifier(image), None) for image, _ in piece]

    return list(pool.map(of_one, runs))


def _run_in_turns(runs: Sequence[Classifier], piece: Sequence[Sample]) -> list[_Run]:
    """Returns what each classifier gives for a piece, and how long it takes."""
    found: list[_Run] = [[] for _ in runs]
    for image, _ in piece:
        for classifier, run in zip(runs, found, strict=True):
            start = time.perf_counter()
            scores = classifier(image)
            run.append((scores, time.perf_counter() - start))
    return found


def _check_reference(expected: np.ndarray) -> None:
    if not np.isfinite(expected).all():
        raise UserError(
            "The checkpoint's logits are not finite numbers, so its training has failed: "
            "name an earlier one with --export_checkpoint."
        )


def _check_scores(name: str, scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise UserError(
            f"{name} gives infinite numbers or NaN where the checkpoint's logits are "
            "finite, so nothing was exported: leave this kind of file out of "
            "--quantize or --post_quantize, or name another checkpoint with "
            "--export_checkpoint."
        )


def top_1(
    classifier: Classifier, samples: Iterable[tuple[np.ndarray, int]], total: int
) -> float | None:
    """Returns the share of samples whose label has the largest score; None without a sample.

    The arguments are those of `compare`.
    """
    right: list[bool] = []
    with contextlib.closing(progress.Progress("stretch", total, "image", log_every=5000)) as bar:
        for image, label in samples:
            right.append(int(np.argmax(classifier(image))) == label)
            bar.update(len(right))
    return float(np.mean(right)) if right else None
