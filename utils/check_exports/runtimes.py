"""Runs .tflite files in LiteRT and MediaPipe, in the second environment of `check_exports`.

The other side is `worker`: it writes one request a line to the standard input, a JSON object with
the name of a function below and its arguments, and reads one answer a line. Arrays travel as .npy
files. NumPy 1, which TensorFlow 2.15 needs, and MediaPipe's packages do not fit in one environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

_opened: dict[str, Any] = {}
_inputs: dict[str, Any] = {}


def start_litert() -> dict[str, Any]:
    """Imports LiteRT."""
    from ai_edge_litert import interpreter

    _opened["litert"] = interpreter
    return {}


def start_mediapipe() -> dict[str, Any]:
    """Imports MediaPipe, with the native library of its tasks."""
    import mediapipe
    from mediapipe.tasks.python import vision

    _opened["mediapipe"] = mediapipe, vision
    return {}


def open_file(path: str) -> dict[str, Any]:
    """Opens a .tflite file in LiteRT, on one thread; returns its signatures."""
    opened = _opened["litert"].Interpreter(model_path=path, num_threads=1)
    opened.allocate_tensors()
    _opened["file"] = opened
    return {"signatures": opened.get_signature_list()}


def run_file(tensor: str, output: str | None = None) -> dict[str, Any]:
    """Runs the open file on an input tensor; returns the seconds.

    Args:
      tensor: path of the tensor's .npy file, which is read once.
      output: path for the output tensor; None only measures.
    """
    import numpy as np

    if tensor not in _inputs:
        _inputs[tensor] = np.load(tensor)
    value, opened = _inputs[tensor], _opened["file"]
    index = opened.get_input_details()[0]["index"]
    result = opened.get_output_details()[0]["index"]
    start = time.perf_counter()
    opened.set_tensor(index, value)
    opened.invoke()
    found = opened.get_tensor(result)
    seconds = time.perf_counter() - start
    if output is not None:
        np.save(output, found)
    return {"seconds": seconds}


def classify(path: str, pictures: list[str]) -> dict[str, Any]:
    """Classifies pictures, uint8 [H, W, 3] in .npy files, with MediaPipe's ImageClassifier.

    Returns:
      For each picture a list of [index of the class, its name, its score], best first.
    """
    import numpy as np

    mediapipe, vision = _opened["mediapipe"]
    base = mediapipe.tasks.BaseOptions(model_asset_path=path)
    options = vision.ImageClassifierOptions(base_options=base, max_results=-1)
    results = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for picture in pictures:
            pixels = np.ascontiguousarray(np.load(picture))
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            (head,) = classifier.classify(image).classifications
            results.append([[c.index, c.category_name, c.score] for c in head.categories])
    return {"results": results}


_FUNCTIONS = {f.__name__: f for f in (start_litert, start_mediapipe, open_file, run_file, classify)}


def main() -> None:
    """Answers requests until the standard input ends."""
    # Native libraries write to the standard output, too: only answers may go to the other side.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _FUNCTIONS[request.pop("function")](**request)
        except Exception as e:  # the other side makes a sentence of it
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
