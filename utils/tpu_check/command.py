"""Compiles the training step with the real TPU compiler, on a machine without a TPU.

mnasnet-tpu-check --topology=v3 --batch_size=128 --precision=bfloat16

The command answers whether the step of one core compiles and fits in its memory; it runs nothing.
XLA's HLO of the step goes to libtpu's ahead-of-time compiler, which lives in a second environment
(`--env`, made at the first use). Cross-replica sums and the infeed are left out;
tests/tpu_check/test_tpu_graph.py covers them. The exit status is 1 if a step does not compile or
does not fit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from utils.base import program, tables
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later

with importing_later():
    from utils.config import model_spec, network_settings, settings
    from utils.environments import second
    from utils.tpu_check import tpu_program

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


def set_up(env: str) -> str:
    """Makes the second environment if it is missing; returns its Python.

    Raises:
      UserError: the packages cannot be installed here.
    """
    needs = "Linux on x86-64, Python 3.11 or later and access to PyPI"
    return second.set_up(env, "The TPU compiler", PACKAGES, needs, "1 GB")


def check(python: str, params: dict[str, Any], topology: Topology, batch_size: int):
    """Compiles the training step; returns the figures of `tpu_compile` with `fits` and `total`.

    A step that does not compile has `error`, a sentence, and a false `fits`.

    Args:
      python: the interpreter of the second environment.
      params: complete settings.
      topology: what to compile for.
      batch_size: images a device.
    """
    step, specs = tpu_program.step(params, True), tpu_program.step_specs(params, batch_size)
    lowered = tpu_program.lower(step, specs)
    problems = tpu_program.hlo_problems(lowered.text, params["precision"])
    if problems:
        return {"error": "; ".join(problems), "fits": False}
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tpu_compile.py")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.hlo.pb")
        with open(path, "wb") as f:
            f.write(lowered.proto)
        # -I keeps the folder of this package off the path of that Python.
        process = subprocess.run(
            [python, "-I", script, path, topology.name], capture_output=True, text=True
        )
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        tail = process.stderr.strip().splitlines()[-1:]
        return {"error": f"the compiler ended with {process.returncode}: {tail}", "fits": False}
    result = json.loads(lines[-1])
    if "error" in result:
        return {**result, "fits": False}
    total = sum(result[part] for part in ("arguments", "outputs", "temporaries", "code"))
    return {**result, "total": total, "fits": total <= topology.memory * 2**30}


_COLUMNS = (
    "model", "precision", "device", "images", "pixels", "arguments MiB", "temporaries MiB",
    "code MiB", "total of memory", "flops", "bytes", "compiled in",
)  # fmt: skip


def head() -> str:
    """Returns the two lines above the rows of the Markdown table."""
    return tables.markdown_head(_COLUMNS, left=3)


def row(params: dict[str, Any], name: str, batch_size: int, result: dict[str, Any]) -> str:
    """Returns one row of the Markdown table."""
    cells = [params["model_name"], params["precision"], name, str(batch_size),
             str(params["input_image_size"])]  # fmt: skip
    if "error" in result:
        failure = f"DOES NOT COMPILE: {_shorten(result['error'])}"
        return tables.markdown_row([*cells, failure])
    memory = TOPOLOGIES[name].memory
    share = f"{result['total'] / 2**30:.2f} of {memory} GiB" + ("" if result["fits"] else " NO")
    cells += [f"{result[part] / 2**20:.0f}" for part in ("arguments", "temporaries", "code")]
    cells += [share, f"{result['flops']:.3g}", f"{result['bytes_accessed']:.3g}",
              f"{result['compile_seconds']:.0f} s"]  # fmt: skip
    return tables.markdown_row(cells)


def _shorten(error: str) -> str:
    return " ".join(error.split())[:300]


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
    given: dict[str, Any] = {}
    if flags.depth_multiplier:
        text = f"--depth_multiplier={flags.depth_multiplier}"
        given["depth_multiplier"] = settings.convert(
            "depth_multiplier", flags.depth_multiplier, text
        )
    models = _values(flags, "model_name", "model_name")
    if flags.model_spec:
        if flags.model_name:
            raise UserError("--model_spec and --model_name are both given: choose one network.")
        name, given["model_spec"] = model_spec.load(flags.model_spec)
        models = [name]
    combinations = itertools.product(
        names,
        models,
        _values(flags, "precision", "precision"),
        _values(flags, "batch_size", "train_batch_size"),
        _values(flags, "input_image_size", "input_image_size"),
    )
    result = []
    for topology, model, precision, batch, size in combinations:
        params = tpu_program.tpu_params(
            **given, model_name=model, precision=precision, input_image_size=size
        )
        network_settings.check(params)
        result.append((topology, batch, params))
    return result


def main(argv: list[str]) -> int:
    """Compiles every combination; returns 1 if one does not compile or does not fit, else 0."""
    flags = _parser().parse_args(argv[1:])
    todo = cases(flags)
    python = set_up(flags.env)
    if not flags.json:
        print("Compiled ahead of time for one device, not run:\n\n" + head(), flush=True)
    fits = True
    for topology, batch_size, params in todo:
        result = check(python, params, TOPOLOGIES[topology], batch_size)
        fits = fits and result["fits"]
        multiplier = network_settings.describe(params)["depth_multiplier"]
        identity = {"topology": topology, "batch_size": batch_size, "depth_multiplier": multiplier,
                    **{k: params[k] for k in ("model_name", "precision", "input_image_size")}}  # fmt: skip  # noqa: E501
        line = json.dumps({**identity, **result}) if flags.json else ""
        print(line or row(params, topology, batch_size, result), flush=True)
    if not fits:
        print("error: a step does not compile or does not fit: see above.", file=sys.stderr)
    return 0 if fits else 1


def console() -> None:
    """Runs the console command `mnasnet-tpu-check`."""
    program.run(main)
