"""Compiles the training step with the real TPU compiler, on a machine without a TPU.

mnasnet-tpu-check --topology=v3 --batch_size=128 --precision=bfloat16

The command answers whether the step of one core compiles and fits in its memory; it runs nothing.
HLO, XLA's language, shows what a graph cannot: static shapes, custom calls, the precision of each
convolution. That of the step goes to libtpu's ahead-of-time compiler, which lives in a second
environment (`--env`, made at the first use). Cross-replica sums and the infeed are left out;
tests/test_tpu_graph.py covers them. The exit status is 1 if a step does not compile or does not
fit.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from utils.base import program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    import mnasnet_main
    from utils.checks import environments
    from utils.config import network, settings

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.52")
DEFAULT_ENV = ".venv-tpu"


class Topology(NamedTuple):
    """Names a slice for libtpu, and the memory of one device.

    A device is a core of v2, v3 and v4, and a chip of the later ones.

    Attributes:
      name: libtpu's name of the slice.
      memory: GiB that the compiler lets a program have on one device.
    """

    name: str
    memory: float


# The memory is what the compiler calls available when it refuses a program of 128 GiB.
TOPOLOGIES = {
    "v2": Topology("v2:2x2", 7.48),
    "v3": Topology("v3:2x2", 15.48),
    "v4": Topology("v4:2x2x1", 15.25),
    "v5e": Topology("v5e:2x2", 15.75),
    "v5p": Topology("v5p:2x2x1", 95.73),
    "v6e": Topology("v6e:2x2", 31.24),
}
COLUMNS = (
    "model",
    "precision",
    "device",
    "images",
    "pixels",
    "arguments MiB",
    "temporaries MiB",
    "code MiB",
    "total of memory",
    "flops",
    "bytes",
    "compiled in",
)

Lowered = collections.namedtuple("Lowered", ["text", "proto"])


def tpu_params(**given: Any) -> dict[str, Any]:
    """Returns complete settings of a run on a TPU: the defaults with `given` over them.

    bfloat16 needs tf.layers, so it sets use_keras=False unless `given` says otherwise.
    """
    params = {**settings.default_params(), "use_tpu": True, "data_dir": "null"}
    params["save_checkpoints_steps"] = params["iterations_per_loop"]
    if given.get("precision") == "bfloat16":
        params["use_keras"] = False
    return {**params, **given}


def step_specs(params: Mapping[str, Any], batch_size: int | None) -> list[tf.TensorSpec]:
    """Returns the specs of the images and labels that one core takes.

    Args:
      params: complete settings.
      batch_size: images of one core; None for an unknown number.
    """
    size = params["input_image_size"]
    shape = [batch_size, size, size, 3]
    if params["transpose_input"]:
        shape = shape[1:] + shape[:1]
    dtype = tf.bfloat16 if params["precision"] == "bfloat16" else tf.float32
    return [tf.TensorSpec(shape, dtype), tf.TensorSpec([batch_size], tf.int32)]


def step(params: Mapping[str, Any], training: bool) -> Callable:
    """Returns the model function as a function (images, labels) -> the results of one core's step.

    The cross-replica sums are left out, because XLA lowers them only on a machine with a TPU, and
    so are the summaries, which the host writes. The tests of TPUEstimator's graph cover both.

    Args:
      params: complete settings.
      training: whether it is the step of a training, else of an evaluation.
    """
    mode = tf.estimator.ModeKeys.TRAIN if training else tf.estimator.ModeKeys.EVAL
    transposed = params["transpose_input"]
    params = {**params, "use_tpu": False, "add_summaries": False, "model_dir": None}

    def run(images, labels):
        if transposed:  # what the model function does with use_tpu alone
            images = tf.transpose(images, [3, 0, 1, 2])
        spec = mnasnet_main.mnasnet_model_fn(images, labels, mode, params)
        if not training:
            return spec.loss, spec.eval_metrics[1]
        with tf.control_dependencies([spec.train_op]):
            return tf.identity(spec.loss)

    return run


def lower(function: Callable, specs: Sequence[tf.TensorSpec]) -> Lowered:
    """Lowers a step to HLO, before any optimization for a device.

    Args:
      function: maps tensors to tensors; it may make variables.
      specs: shapes and dtypes of its arguments.

    Returns:
      (text, proto): HLO as text and as a serialized HloProto.

    Raises:
      ValueError, TypeError, tf.errors.OpError: XLA cannot lower the step, because it handles
        strings, decodes pictures, calls Python or has an unknown batch.
    """
    # Imported here, because the module is internal to TensorFlow. Only functions of version 2 can
    # be lowered, and the rest of the package runs with version 1's behaviour.
    import tensorflow as tf2
    from tensorflow.python.eager import context

    with context.eager_mode():
        wrapped = tf.wrap_function(function, list(specs))
        compiled = tf2.function(lambda *arguments: wrapped(*arguments), jit_compile=True)
        lowering = compiled.experimental_get_compiler_ir(*specs)
        return Lowered(lowering(stage="hlo"), lowering(stage="hlo_serialized"))


def convolutions(hlo: str) -> collections.Counter[str]:
    """Counts the convolutions in HLO text by the dtype of their result: f32, bf16."""
    return collections.Counter(re.findall(r"= (\w+)\[[^=\n]*\bconvolution\(", hlo))


def hlo_problems(hlo: str, precision: str) -> list[str]:
    """Returns sentences for what a TPU could not run in a step's HLO text, or not as intended."""
    problems = [
        f"custom call {target}" for target in re.findall(r"custom_call_target=\"(\w+)\"", hlo)
    ] or (["custom call"] if "custom-call" in hlo else [])
    bounded = re.findall(r"\w+\[[\d,]*<=[\d,<=]*\]", hlo)
    if bounded:
        problems.append(f"shapes that depend on the data, such as {bounded[0]}")
    if re.search(r"\b(f64|c128)\[", hlo):
        problems.append("numbers of 64 bits")
    dtype = {"float32": "f32", "bfloat16": "bf16"}[precision]
    others = {k: n for k, n in convolutions(hlo).items() if k != dtype}
    if others:
        problems.append(f"convolutions that are not {dtype}: {others}")
    return problems


def set_up(env: str) -> str:
    """Makes the second environment if it is missing; returns its Python.

    Raises:
      UserError: the packages cannot be installed here.
    """
    needs = "Linux on x86-64, Python 3.11 or later and access to PyPI"
    return environments.set_up(env, "The TPU compiler", PACKAGES, needs, "1 GB")


def check(
    python: str, params: dict[str, Any], topology: Topology, batch_size: int
) -> dict[str, Any]:
    """Compiles the training step; returns the figures of `compile_step` with `fits` and `total`.

    A step that does not compile has `error`, a sentence, and a false `fits`.

    Args:
      python: the interpreter of the second environment.
      params: complete settings.
      topology: what to compile for.
      batch_size: images a device.
    """
    lowered = lower(step(params, True), step_specs(params, batch_size))
    problems = hlo_problems(lowered.text, params["precision"])
    if problems:
        return {"error": "; ".join(problems), "fits": False}
    with tempfile.NamedTemporaryFile(suffix=".hlo.pb") as f:
        f.write(lowered.proto)
        f.flush()
        try:
            result = environments.run(python, "compile_step", hlo=f.name, topology=topology.name)
        except UserError as e:
            return {"error": str(e), "fits": False}
    total = sum(result[part] for part in ("arguments", "outputs", "temporaries", "code"))
    return {**result, "total": total, "fits": total <= topology.memory * 2**30}


def row(params: dict[str, Any], name: str, batch_size: int, result: dict[str, Any]) -> str:
    """Returns one row of the Markdown table."""
    cells = [params["model_name"], params["precision"], name]
    cells += [str(batch_size), str(params["input_image_size"])]
    if "error" in result:
        return program.markdown_row([*cells, f"DOES NOT COMPILE: {result['error']}"])
    memory = TOPOLOGIES[name].memory
    share = f"{result['total'] / 2**30:.2f} of {memory} GiB" + ("" if result["fits"] else " NO")
    cells += [f"{result[part] / 2**20:.0f}" for part in ("arguments", "temporaries", "code")]
    cells += [share, f"{result['flops']:.3g}", f"{result['bytes_accessed']:.3g}"]
    cells.append(f"{result['compile_seconds']:.0f} s")
    return program.markdown_row(cells)


def _parser() -> argparse.ArgumentParser:
    parser = program.ArgumentParser(
        prog="mnasnet-tpu-check",
        description="Compiles the training step with the real TPU compiler.",
    )
    lists = "separated by commas (default: %(default)s)"
    parser.add_argument("--topology", default="v3", help=f"{', '.join(TOPOLOGIES)}; {lists}")
    parser.add_argument("--model_name", help="networks, separated by commas (default: mnasnet-a1)")
    parser.add_argument("--precision", default="float32", help=f"float32, bfloat16; {lists}")
    parser.add_argument("--batch_size", default="128", help=f"images a device, {lists}")
    parser.add_argument("--input_image_size", default="224", help=f"sides in pixels, {lists}")
    parser.add_argument("--depth_multiplier", help="factor of the filters (default: none)")
    parser.add_argument("--model_spec", help="YAML file that describes a network instead")
    parser.add_argument("--env", default=DEFAULT_ENV, help="folder of the second environment")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    return parser


def _values(flags: argparse.Namespace, flag: str, setting: str) -> list[Any]:
    text = getattr(flags, flag)
    if text is None:
        return [settings.SETTINGS[setting].default]
    texts = text.split(",")
    return [settings.convert(setting, text, f"--{flag}={text}") for text in texts]


def cases(flags: argparse.Namespace) -> list[tuple[str, int, dict[str, Any]]]:
    """Returns (topology, images a device, settings) of every combination that the flags name.

    Raises:
      UserError: a combination is invalid; this is known before anything is installed.
    """
    names = flags.topology.split(",")
    for name in names:
        if name not in TOPOLOGIES:
            raise UserError(f"--topology={name} is unknown: choose from {', '.join(TOPOLOGIES)}.")
    spec = None
    models = _values(flags, "model_name", "model_name")
    if flags.model_spec:
        if flags.model_name:
            raise UserError("--model_spec and --model_name are both given: choose one network.")
        name, spec = network.read_file(flags.model_spec)
        models = [name]
    combinations = itertools.product(
        names,
        models,
        _values(flags, "precision", "precision"),
        _values(flags, "batch_size", "train_batch_size"),
        _values(flags, "input_image_size", "input_image_size"),
        _values(flags, "depth_multiplier", "depth_multiplier"),
    )
    result = []
    for topology, model, precision, batch, size, multiplier in combinations:
        params = tpu_params(
            model_name=model,
            model_spec=spec,
            precision=precision,
            input_image_size=size,
            depth_multiplier=multiplier,
        )
        network.model_params(params)
        result.append((topology, batch, params))
    return result


def main(argv: list[str]) -> int:
    """Compiles every combination; returns 1 if one does not compile or does not fit, else 0."""
    flags = _parser().parse_args(argv[1:])
    todo = cases(flags)
    python = set_up(flags.env)
    if not flags.json:
        head = program.markdown_head(COLUMNS, left=3)
        print(f"Compiled ahead of time for one device, not run:\n\n{head}", flush=True)
    fits = True
    for topology, batch_size, params in todo:
        result = check(python, params, TOPOLOGIES[topology], batch_size)
        fits = fits and result["fits"]
        if flags.json:
            line = json.dumps({**_identity(topology, batch_size, params), **result})
        else:
            line = row(params, topology, batch_size, result)
        print(line, flush=True)
    if not fits:
        print("error: a step does not compile or does not fit: see above.", file=sys.stderr)
    return 0 if fits else 1


def _identity(topology: str, batch_size: int, params: dict[str, Any]) -> dict[str, Any]:
    return {
        "topology": topology,
        "batch_size": batch_size,
        "depth_multiplier": network.describe(params)["depth_multiplier"],
        "model_name": params["model_name"],
        "precision": params["precision"],
        "input_image_size": params["input_image_size"],
    }


def console() -> None:
    """Runs the console command `mnasnet-tpu-check`."""
    program.run(main)


if __name__ == "__main__":
    console()
