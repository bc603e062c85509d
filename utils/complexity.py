"""Computes parameters, multiply-adds, activations and memory of a network from its graph.

mnasnet-complexity --model_name=mnasnet-a1,mnasnet-b1 --input_image_size=224 --per_stage

The inference graph for one image is built, and the shapes of its tensors give all figures; only
--latency runs anything. `DEFINITIONS`, which the command prints too, says what the columns mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from utils.base import program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    import mnasnet_main
    import mnasnet_models
    from utils.config import network, settings
    from utils.exporting import measure

DEFINITIONS = {
    "parameters": "numbers in trainable variables",
    "multiply_adds": "convolutions and dense layers, plus half of the numbers that batch "
    "normalizations and squeeze-and-excite products give and squeeze-and-excite means take "
    "(one operation each, hence half a multiply-add); this is how the published figures count",
    "layer_multiply_adds": "multiply-adds of convolutions and dense layers alone",
    "activations": "numbers that convolutions and dense layers give for one image",
    "weights_bytes": "parameters and batch-norm statistics in float32",
    "inference_bytes": "most memory for activations at a time, for one image, operations one "
    "after the other and elementwise ones in place",
    "training_bytes": "tensors kept from the forward for the backward pass, for one image",
}
PRECISION_BYTES = {"float32": 4, "bfloat16": 2}

_INPUT = "images"
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_ELEMENTWISE = (
    "FusedBatchNormV3",
    "Relu",
    "Relu6",
    "BiasAdd",
    "Mul",
    "AddV2",
    "Sigmoid",
    "Identity",
)
_STATISTICS = ("moving_mean", "moving_variance")


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Holds the figures of a network or of one of its stages; see `DEFINITIONS`."""

    parameters: int
    multiply_adds: float
    layer_multiply_adds: int
    activations: int
    weights_bytes: int
    inference_bytes: int
    training_bytes: int


class Network:
    """Builds a network's inference graph once and measures it at any image size.

    Attributes:
      depth_multiplier: of the network; None for no scaling.
      stage_names: "stem", the block strings of the stages, "head".
    """

    def __init__(self, model_name: str, override_params: Mapping[str, Any] | None = None):
        """Builds the graph; see `mnasnet_models.get_model_params` for arguments and errors."""
        overrides = {**(override_params or {}), "data_format": "channels_last"}
        stages, global_params = mnasnet_models.get_model_params(model_name, overrides)
        self.depth_multiplier = global_params.depth_multiplier
        self._stage_of_block = [
            number for number, stage in enumerate(stages, 1) for _ in range(stage.num_repeat)
        ]
        strings = mnasnet_models.MnasNetDecoder().encode(stages)
        self.stage_names = ["stem", *strings, "head"]
        with tf.Graph().as_default() as graph:
            images = tf.placeholder(tf.float32, [1, None, None, 3], _INPUT)
            logits, _ = mnasnet_models.build_mnasnet_model(images, model_name, False, overrides)
            self._trainable = self._by_stage(tf.trainable_variables())
            self._statistics = self._by_stage(
                v for v in tf.global_variables() if v.op.name.endswith(_STATISTICS)
            )
            # Initializers are most of a graph; without them a further size takes 0.1 s.
            self._graph_def = tf.graph_util.extract_sub_graph(
                graph.as_graph_def(), [logits.op.name]
            )

    def measure(self, image_size: int, precision: str = "float32") -> Complexity:
        """Returns the figures of the whole network at an image size in pixels."""
        return self._measure(self._ops(image_size), self.stage_names, precision)

    def measure_stages(self, image_size: int, precision: str = "float32") -> list[Complexity]:
        """Returns the figures of stem, stages and head, in the order of `stage_names`."""
        ops = self._ops(image_size)
        return [self._measure(ops, [name], precision, i) for i, name in enumerate(self.stage_names)]

    def _stage(self, name: str) -> int | None:
        """Returns the index in `stage_names` of the stage of an operation or a variable."""
        match = re.search(r"/mnas_(stem|head|blocks_(\d+))/", name)
        if match is None:
            return None
        if match.group(2):
            return self._stage_of_block[int(match.group(2))]
        return 0 if match.group(1) == "stem" else len(self.stage_names) - 1

    def _by_stage(self, variables) -> list[list[tf.Variable]]:
        groups: list[list[tf.Variable]] = [[] for _ in self.stage_names]
        for variable in variables:
            stage = self._stage(variable.op.name)
            assert stage is not None, f"{variable.op.name} is in no stage"
            groups[stage].append(variable)
        return groups

    def _ops(self, image_size: int) -> list[tf.Operation]:
        """Returns the operations that depend on the image, in the order in which they were made."""
        graph_def = tf.GraphDef()
        graph_def.CopyFrom(self._graph_def)
        (node,) = (n for n in graph_def.node if n.name == _INPUT)
        node.attr["shape"].shape.CopyFrom(tf.TensorShape([1, image_size, image_size, 3]).as_proto())
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
        ops, moving = [], {_INPUT + ":0"}
        for op in graph.get_operations():
            if any(tensor.name in moving for tensor in op.inputs):
                ops.append(op)
                moving.update(tensor.name for tensor in op.outputs)
        return ops

    def _measure(self, ops, names, precision, stage=None) -> Complexity:
        if stage is not None:
            ops = [op for op in ops if self._stage(op.name) == stage]
        stages = range(len(self.stage_names)) if stage is None else [stage]
        from tf_slim import model_analyzer

        # tf.size would not do: the analyzer knows shared and partitioned variables.
        parameters, parameter_bytes = model_analyzer.analyze_vars(
            [v for s in stages for v in self._trainable[s]]
        )
        _, statistic_bytes = model_analyzer.analyze_vars(
            [v for s in stages for v in self._statistics[s]]
        )
        layers = sum(_layer_multiply_adds(op) for op in ops)
        size = PRECISION_BYTES[precision]
        return Complexity(
            parameters=int(parameters),
            multiply_adds=layers + sum(_single_operations(op) for op in ops) / 2,
            layer_multiply_adds=layers,
            activations=sum(_elements(op.outputs[0]) for op in ops if _layer_multiply_adds(op)),
            weights_bytes=int(parameter_bytes + statistic_bytes),
            inference_bytes=size * _peak_elements(ops),
            training_bytes=size * _kept_elements(ops),
        )


def _elements(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements()


def _layer_multiply_adds(op: tf.Operation) -> int:
    """Returns the multiply-adds of a convolution or dense layer; 0 for another operation."""
    if op.type in _CONVOLUTIONS:
        height, width, in_filters, _ = op.inputs[1].shape.as_list()
        taps = height * width * (in_filters if op.type == "Conv2D" else 1)
        return _elements(op.outputs[0]) * taps
    if op.type == "MatMul":
        return _elements(op.outputs[0]) * op.inputs[0].shape.as_list()[1]
    return 0


def _single_operations(op: tf.Operation) -> int:
    """Returns the number of operations that count as half a multiply-add; see `DEFINITIONS`."""
    in_se = "/se/" in op.name
    if op.type == "FusedBatchNormV3" or (in_se and op.type == "Mul"):
        return _elements(op.outputs[0])
    return _elements(op.inputs[0]) if in_se and op.type == "Mean" else 0


def _peak_elements(ops: Sequence[tf.Operation]) -> int:
    """Returns the most numbers alive at a time.

    Elementwise operations write into an input that no later operation reads.
    """
    last_use = {tensor.name: i for i, op in enumerate(ops) for tensor in op.inputs}
    made = {op.outputs[0].name for op in ops}
    # The input of a stage, made by the stage before, is alive from the start.
    live = {
        t.name: _elements(t)
        for op in ops
        for t in op.inputs
        if t.name not in made and _is_activation(t)
    }
    peak = 0
    for i, op in enumerate(ops):
        output = op.outputs[0]
        done = [t.name for t in op.inputs if t.name in live and last_use[t.name] == i]
        reused = None
        if op.type in _ELEMENTWISE:
            reused = next((n for n in done if live[n] == _elements(output)), None)
        if reused is not None:
            live.pop(reused)
        live[output.name] = _elements(output)
        peak = max(peak, sum(live.values()))
        for name in done:
            live.pop(name, None)
    return peak


def _is_activation(tensor: tf.Tensor) -> bool:
    return tensor.op.type not in ("Const", "Identity", "ReadVariableOp", "VariableV2")


def _kept_elements(ops: Sequence[tf.Operation]) -> int:
    """Returns how many numbers the gradients of the operations read."""
    kept: dict[str, int] = {}
    for op in ops:
        tensors: list[tf.Tensor] = []
        if op.type in (*_CONVOLUTIONS, "MatMul", "FusedBatchNormV3"):
            tensors = [op.inputs[0]]
        elif op.type == "Mul":
            tensors = list(op.inputs)
        elif op.type in ("Relu", "Relu6", "Sigmoid"):
            tensors = [op.outputs[0]]
        kept.update({t.name: _elements(t) for t in tensors})
    return sum(kept.values())


# The command.


def report(network: Network, image_size: int, precision: str, per_stage: bool) -> dict[str, Any]:
    """Returns all figures of a network at an image size, as a dict for JSON."""
    result = dataclasses.asdict(network.measure(image_size, precision))
    if per_stage:
        stages = network.measure_stages(image_size, precision)
        result["stages"] = [
            {"stage": name, **dataclasses.asdict(figures)}
            for name, figures in zip(network.stage_names, stages, strict=True)
        ]
    return result


def _params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns complete settings with those given that are not None."""
    return {**settings.default_params(), **{k: v for k, v in given.items() if v is not None}}


def build(given: Mapping[str, Any]) -> Network:
    """Builds the network that settings describe; UserError if they describe none.

    Args:
      given: setting name -> value; None or missing for the default.
    """
    params = _params(given)
    try:
        return Network(params["model_name"], network.overrides(params))
    except (NotImplementedError, ValueError) as e:
        raise UserError(f"--model_name={params['model_name']}: {e}") from e


_COLUMNS = (
    ("parameters", "parameters", lambda c: f"{c['parameters']:,}"),
    ("multiply-adds", "multiply_adds", lambda c: f"{c['multiply_adds'] / 1e6:,.2f} M"),
    ("layers alone", "layer_multiply_adds", lambda c: f"{c['layer_multiply_adds'] / 1e6:,.2f} M"),
    ("activations", "activations", lambda c: f"{c['activations'] / 1e6:,.3f} M"),
    ("weights", "weights_bytes", lambda c: f"{c['weights_bytes'] / 2**20:,.2f} MiB"),
    ("inference", "inference_bytes", lambda c: f"{c['inference_bytes'] / 2**20:,.2f} MiB"),
    ("training", "training_bytes", lambda c: f"{c['training_bytes'] / 2**20:,.2f} MiB"),
)


def table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Formats a table of (name, figures), with the meaning of its columns below."""
    header = ["", *(title for title, _, _ in _COLUMNS)]
    cells = [[name, *(text(figures) for _, _, text in _COLUMNS)] for name, figures in rows]
    meanings = [f"{title}: {DEFINITIONS[key]}." for title, key, _ in _COLUMNS]
    if any("latency_ms" in figures for _, figures in rows):
        header += [f"{kind} ms" for kind in measure.LATENCY_KINDS]
        for line, (_, figures) in zip(cells, rows, strict=True):
            found = figures.get("latency_ms", {})  # stages have none
            line += [f"{found[kind]:.2f}" if found else "" for kind in measure.LATENCY_KINDS]
        meanings.append(f"float32 ms, int8 ms: {measure.latency_definition()}.")
    return "\n".join([program.plain(header, cells), "", *meanings])


def _list_of(name: str, text: str | None) -> list[Any]:
    """Returns the values of a flag that may have several, checked as `mnasnet` checks its flag."""
    if text is None:
        return [settings.SETTINGS[name].default]
    values = text.split(",")
    return [settings.convert(name, value, f"--{name}={value}") for value in values]


def _one_of(flags: argparse.Namespace, name: str) -> Any:
    """Returns the value of a flag that may have only one."""
    text = getattr(flags, name)
    if text is None:
        return settings.SETTINGS[name].default
    return settings.convert(name, text, f"--{name}={text}")


def _parser() -> argparse.ArgumentParser:
    parser = program.ArgumentParser(
        prog="mnasnet-complexity",
        description="Prints parameters, multiply-adds, activations and memory of networks.",
    )
    parser.add_argument("--model_name", help="names, separated by commas (default: mnasnet-a1)")
    parser.add_argument("--model_spec", help="YAML file that describes a network instead")
    parser.add_argument("--depth_multiplier", help="numbers, separated by commas (default: none)")
    parser.add_argument("--input_image_size", help="sides, separated by commas (default: 224)")
    parser.add_argument("--num_label_classes", help="number of classes (default: 1000)")
    parser.add_argument("--precision", help="of the activations")
    parser.add_argument("--per_stage", action="store_true", help="print stem, stages and head, too")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="add milliseconds of the float32 and the int8 file, on one thread of this machine",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: list[str]) -> None:
    """Prints the figures of each model, depth multiplier and image size asked for."""
    flags = _parser().parse_args(argv[1:])
    given: dict[str, Any] = {"num_label_classes": _one_of(flags, "num_label_classes")}
    precision = _one_of(flags, "precision")
    names = _list_of("model_name", flags.model_name)
    if flags.model_spec:
        if flags.model_name:
            raise UserError("--model_spec and --model_name are both given: choose one network.")
        name, given["model_spec"] = network.read_file(flags.model_spec)
        names = [name]
    rows, networks = [], []
    multipliers = _list_of("depth_multiplier", flags.depth_multiplier)
    sizes = _list_of("input_image_size", flags.input_image_size)
    for name, multiplier in itertools.product(names, multipliers):
        described = {**given, "model_name": name, "depth_multiplier": multiplier}
        built = build(described)
        for size in sizes:
            networks.append(_params({**described, "input_image_size": size}))
            # From the network, because the file of a network may set the multiplier.
            identity = {
                "model_name": name,
                "depth_multiplier": built.depth_multiplier,
                "input_image_size": size,
                "precision": precision,
            }
            rows.append({**identity, **report(built, size, precision, flags.per_stage)})
    definitions = DEFINITIONS
    if flags.latency:
        definitions = {**DEFINITIONS, "latency_ms": measure.latency_definition()}
        found = measure.latencies_of_networks(networks, mnasnet_main.mnasnet_model_fn)
        for row, milliseconds in zip(rows, found, strict=True):
            row["latency_ms"] = milliseconds
    if flags.json:
        print(json.dumps({"definitions": definitions, "networks": rows}, indent=2))
    else:
        print(table([line for row in rows for line in _lines(row)]))


def _lines(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the lines of a network: its stages, then the whole."""
    multiplier = row["depth_multiplier"]
    name = row["model_name"] + (f" x {multiplier:g}" if multiplier else "")
    stages = [(f"  {stage['stage']}", stage) for stage in row.get("stages", [])]
    return [*stages, (f"{name} at {row['input_image_size']}", row)]


def console() -> None:
    """Runs the command `mnasnet-complexity`."""
    program.run(main)


if __name__ == "__main__":
    console()
