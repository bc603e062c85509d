"""Functions that run in a second environment, which has neither TensorFlow nor this package.

`jobs.py FUNCTION ARGUMENTS ANSWER` calls one function with the arguments, a JSON object, and writes
what it returns to the file ANSWER as JSON, or {"error": ...}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def start_litert() -> dict[str, Any]:
    """Imports LiteRT."""
    from ai_edge_litert import interpreter

    return {"module": interpreter.__name__}


def start_mediapipe() -> dict[str, Any]:
    """Imports MediaPipe, with the native library of its tasks."""
    from mediapipe.tasks.python import vision

    return {"module": vision.__name__}


def run_litert(path: str, inputs: str, turns: int) -> dict[str, Any]:
    """Runs a .tflite file in LiteRT on one thread.

    Args:
      path: of the file.
      inputs: .npz file with input tensors.
      turns: number of runs that are timed.

    Returns:
      `outputs`, the output tensor for each input, and `seconds`, the median of this thread's time
      for a run.
    """
    import numpy as np
    from ai_edge_litert import interpreter

    opened = interpreter.Interpreter(model_path=path, num_threads=1)
    opened.allocate_tensors()
    index = opened.get_input_details()[0]["index"]
    result = opened.get_output_details()[0]["index"]

    def run(tensor):
        opened.set_tensor(index, tensor)
        opened.invoke()
        return opened.get_tensor(result)

    tensors = list(np.load(inputs).values())
    outputs = [run(tensor).tolist() for tensor in tensors]
    times = []
    for turn in range(turns):
        start = time.thread_time()
        run(tensors[turn % len(tensors)])
        times.append(time.thread_time() - start)
    return {"outputs": outputs, "seconds": float(np.median(times))}


def run_mediapipe(path: str, inputs: str) -> dict[str, Any]:
    """Classifies pictures with a .tflite file in MediaPipe's ImageClassifier.

    Args:
      path: of the file.
      inputs: .npz file with whole pictures, uint8 [H, W, 3].

    Returns:
      `results`: for each picture a list of [index of the class, its name, its score].
    """
    import mediapipe
    import numpy as np
    from mediapipe.tasks.python import vision

    base = mediapipe.tasks.BaseOptions(model_asset_path=path)
    options = vision.ImageClassifierOptions(base_options=base, max_results=-1)
    results = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for pixels in np.load(inputs).values():
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)
            )
            (head,) = classifier.classify(image).classifications
            results.append([[c.index, c.category_name, c.score] for c in head.categories])
    return {"results": results}


def compile_step(hlo: str, topology: str) -> dict[str, Any]:
    """Compiles a step with libtpu's compiler, by private interfaces of the pinned jax.

    Args:
      hlo: file with a serialized HloProto.
      topology: libtpu's name of a slice, such as 'v3:2x2'.

    Returns:
      The figures of the step: bytes, floating-point operations, seconds, device.
    """
    # Do not look for a TPU or a metadata server, and let another process have libtpu loaded.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    import numpy as np
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    with open(hlo, "rb") as f:
        step = f.read()
    device, *_ = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    with mlir.make_ir_context():
        module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(step))
        _drop_copies(module, ir)
        options = xla_client.CompileOptions()
        options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
        start = time.monotonic()
        executable = device.client.compile(module, xla_client.DeviceList((device,)), options)
    seconds = time.monotonic() - start
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return {
        "device": device.device_kind,
        "arguments": memory.argument_size_in_bytes,
        # Weights are updated in place: outputs that alias arguments need no memory of their own.
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "compile_seconds": seconds,
    }


def _drop_copies(module, ir) -> None:
    """Replaces each mhlo.copy by its operand, because the compiler does not know the operation."""
    copies = []

    def visit(op):
        if op.name == "mhlo.copy":
            copies.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()


def main(function: str, arguments: str, answer: str) -> None:
    """Calls a function of this module and writes its answer."""
    try:
        found = globals()[function](**json.loads(arguments))
    except Exception as e:  # the other side makes a sentence of it
        found = {"error": f"{type(e).__name__}: {e}"}
    with open(answer, "w") as f:
        json.dump(found, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
