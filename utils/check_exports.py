"""Runs the .tflite files of exports in the runtimes of today's apps, LiteRT and MediaPipe.

mnasnet-check-exports EXPORT_DIR ... --pictures picture.jpg ...

The command prints a table in Markdown. LiteRT, the successor of TensorFlow Lite, gets the same
input as TensorFlow 2.15's interpreter, and both are timed on one thread, one after the other.
MediaPipe's ImageClassifier gets the picture, stretches it whole into the input, and is compared
with this program on a stretched picture; it can feed files that take raw pixels. Both are installed
in a second environment (`--env`) at the first use. The exit status is 1 if a runtime is missing,
fails, or computes something else.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    import preprocessing
    from utils.checks import environments
    from utils.exporting import export, measure, metadata, samples, tflite

DEFAULT_ENV = ".venv-exports"
# A runtime -> (its packages, how much they take on the disk).
RUNTIMES = {
    "LiteRT": (("ai-edge-litert==2.3.0",), "0.2 GB"),
    "MediaPipe": (("mediapipe==1.2.3",), "0.5 GB"),
}
TURNS = 50  # of the latencies
COLUMNS = (
    "model",
    "file",
    "LiteRT: same class",
    "LiteRT: difference",
    "TF 2.15.1 ms",
    "LiteRT ms",
    "MediaPipe: same class",
    "MediaPipe: difference",
)


class CheckedPicture(NamedTuple):
    """A picture: uint8 [H, W, 3]; cropped as for evaluation and stretched, float32 [S, S, 3]."""

    whole: np.ndarray
    cropped: np.ndarray
    stretched: np.ndarray


def main(argv: list[str]) -> int:
    """Prints the table, and then what is wrong; returns 1 if something is, else 0."""
    parser = program.ArgumentParser(
        prog="mnasnet-check-exports", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("export_dirs", nargs="+", metavar="EXPORT_DIR")
    parser.add_argument(
        "--pictures", nargs="+", required=True, metavar="PICTURE", help="JPEG, PNG, GIF or BMP file"
    )
    parser.add_argument("--env", default=DEFAULT_ENV, help="folder of the second environment")
    flags = parser.parse_args(argv[1:])
    reports = {folder: _read_report(folder) for folder in flags.export_dirs}
    problems: list[str] = []
    pythons = _set_up(flags.env, problems)
    if pythons:
        print(program.markdown_head(COLUMNS, left=2), flush=True)
        for folder, report in reports.items():
            for row in _rows(folder, report, flags.pictures, pythons, problems):
                print(program.markdown_row(row), flush=True)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _read_report(export_dir: str) -> dict[str, Any]:
    report = measure.read_report(export_dir)
    if report is None:
        raise UserError(f"{export_dir} holds no {measure.REPORT_FILE}: export a model there.")
    if files.is_remote(export_dir):
        raise UserError(f"{export_dir} is not on this machine: copy it to a folder here first.")
    return report


def _set_up(env: str, problems: list[str]) -> dict[str, str]:
    """Installs the runtimes; returns those that can be imported, with the Python that can."""
    needs = "Linux on x86-64, Python 3.10 or later and access to PyPI"
    # The message of a failed import names the native library that is missing, if one is.
    remedy = "install the library it names (Debian: apt-get install libgl1 libegl1 libgles2)"
    pythons = {}
    for name, (packages, size) in RUNTIMES.items():
        try:
            python = environments.set_up(env, name, packages, needs, size)
        except UserError as e:
            problems.append(str(e))
            continue
        try:
            environments.run(python, f"start_{name.lower()}")
            pythons[name] = python
        except UserError as e:
            problems.append(f"{name} does not start here ({e}): {remedy}.")
    return pythons


def _rows(
    export_dir: str,
    report: dict[str, Any],
    paths: Sequence[str],
    pythons: dict[str, str],
    problems: list[str],
) -> Iterator[list[str]]:
    """Yields a row for each .tflite file; '-' if a runtime is missing, fails or cannot feed it."""
    kinds = {
        os.path.join(export_dir, name): row["kind"]
        for name, row in report["files"].items()
        if row["kind"] in tflite.SUFFIXES
    }
    if not kinds:
        raise UserError(f"{export_dir} holds no .tflite file: export it again.")
    # All files of an export take pictures alike.
    pictures = read_pictures(paths, tflite.open_interpreter(next(iter(kinds))))
    for path, kind in kinds.items():
        interpreter = tflite.open_interpreter(path)
        cells = ["-"] * 6
        if "LiteRT" in pythons:
            try:
                cells[:4] = _in_litert(pythons["LiteRT"], path, interpreter, pictures)
            except UserError as e:
                problems.append(f"{path} in LiteRT: {e}")
            else:
                if kind == "float32" and float(cells[1]) > export.LARGEST_DIFFERENCE:
                    problems.append(f"{path} differs in LiteRT by {cells[1]} relative.")
        # MediaPipe refuses means and deviations that differ from channel to channel, and feeds
        # pixels as they are to every file with a uint8 input.
        if "MediaPipe" in pythons and interpreter.preparation.is_raw:
            try:
                cells[4:] = _in_mediapipe(pythons["MediaPipe"], path, interpreter, pictures)
            except UserError as e:
                problems.append(f"{path} in MediaPipe: {e}")
        yield [report["identity"]["model_name"], kind, *cells]


def read_pictures(paths: Sequence[str], classifier: tflite.Interpreter) -> list[CheckedPicture]:
    """Reads picture files and prepares them as a .tflite file wants them.

    Args:
      paths: JPEG, PNG, GIF or BMP files.
      classifier: the .tflite file.

    Raises:
      UserError: a file cannot be read or decoded.
    """
    found = []
    with tf.Graph().as_default(), tf.Session() as session:
        content = tf.placeholder(tf.string, [])
        prepared = CheckedPicture(
            preprocessing.decode_whole(content),
            classifier.preparation.pixels(content),
            samples.stretch(content, classifier.preparation.image_size),
        )
        for name in paths:
            data = files.read_bytes(name)
            try:
                found.append(session.run(prepared, {content: data}))
            except tf.errors.OpError as e:
                raise UserError(f"{name} cannot be read as a picture: {files.reason(e)}.") from e
    return found


def _in_litert(
    python: str, path: str, interpreter: tflite.Interpreter, pictures: Sequence[CheckedPicture]
) -> list[str]:
    """Returns the agreement on cropped pictures, and the milliseconds of both interpreters."""
    tensors = [interpreter.prepared(picture.cropped) for picture in pictures]
    answer = _run(python, "run_litert", tensors, path=path, turns=TURNS)
    (ours,) = measure.median_latencies({path: pathlib.Path(path).read_bytes()}, TURNS).values()
    outputs = [interpreter.run(tensor) for tensor in tensors]
    theirs = [np.array(output, outputs[0].dtype) for output in answer["outputs"]]
    agreement = _agreement(*(map(interpreter.dequantized, o) for o in (outputs, theirs)))
    return [*agreement, f"{ours:.2f}", f"{1000 * answer['seconds']:.2f}"]


def _in_mediapipe(
    python: str, path: str, interpreter: tflite.Interpreter, pictures: Sequence[CheckedPicture]
) -> list[str]:
    """Returns the agreement on stretched pictures.

    Raises:
      UserError: MediaPipe fails, or names a class otherwise than the file's label list.
    """
    answer = _run(python, "run_mediapipe", [picture.whole for picture in pictures], path=path)
    labels = metadata.label_names(path)
    found = []
    for categories in answer["results"]:
        scores = np.zeros(interpreter.num_classes, np.float32)
        for index, name, score in categories:
            if labels and name != labels[index]:
                raise UserError(f"class {index} is {name!r}, and {labels[index]!r} in the labels.")
            scores[index] = score
        found.append(scores)
    return _agreement((interpreter.scores(picture.stretched) for picture in pictures), found)


def _run(python: str, function: str, arrays: Sequence[np.ndarray], **more: Any) -> dict[str, Any]:
    """Runs a function of `jobs` on arrays, which it gets in a file."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as f:
        np.savez(f, *arrays)
        f.flush()
        return environments.run(python, function, inputs=f.name, **more)


def _agreement(expected: Iterable[np.ndarray], found: Iterable[np.ndarray]) -> list[str]:
    """Returns how many pictures have the same best class, and the largest difference of a score.

    The difference is a share of the picture's largest score.
    """
    pairs = list(zip(expected, found, strict=True))
    same = sum(int(np.argmax(e) == np.argmax(f)) for e, f in pairs)
    difference = max(float(np.abs(e - f).max() / max(1e-6, np.abs(e).max())) for e, f in pairs)
    return [f"{same} of {len(pairs)}", f"{difference:.2g}"]


def console() -> None:
    """Runs the console command `mnasnet-check-exports`."""
    program.run(main)


if __name__ == "__main__":
    console()
