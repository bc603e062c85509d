"""Compiles an HLO file for a TPU with libtpu's compiler, in the second environment of `tpu_check`.

`tpu_compile.py STEP.hlo.pb v3:2x2` prints one JSON object. TensorFlow and jax do not fit in one
process, so only the file passes between them. The interfaces used are private ones of jax, so
`tpu_check` pins its version.
"""

from __future__ import annotations

import json
import os
import sys
import time

# Do not look for a TPU or a metadata server, and let another process have libtpu loaded.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
)  # fmt: skip


def compile_step(hlo: bytes, topology: str) -> dict[str, float | int | str]:
    """Returns the figures of a compiled step: bytes, floating-point operations, seconds, device.

    Args:
      hlo: a serialized HloProto.
      topology: libtpu's name of a slice, such as 'v3:2x2'.
    """
    import numpy
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    devices = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    with mlir.make_ir_context():
        module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(hlo))
        _drop_copies(module, ir)
        options = xla_client.CompileOptions()
        options.device_assignment = xla_client.DeviceAssignment.create(
            numpy.array([[devices[0].id]])
        )
        start = time.monotonic()
        executable = devices[0].client.compile(
            module, xla_client.DeviceList((devices[0],)), options
        )
    seconds = time.monotonic() - start
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return {
        "device": devices[0].device_kind,
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


def main(argv: list[str]) -> None:
    """Prints the figures, or {"error": ...}, as JSON."""
    with open(argv[1], "rb") as f:
        hlo = f.read()
    try:
        result = compile_step(hlo, argv[2])
    except Exception as e:  # the answer is the text of the compiler, of whatever kind
        result = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv)
