"""Describes networks as data: the codec of block strings, the table of models, the builders.

Sources: MnasNet-A1, -B1 and -small from Tan et al., arXiv:1807.11626 (figure 7 and its published
code's settings); -D1 and -D1-320 are the published searches for a GPU-class device.

A stage is written as fields joined by `_`: `r` repeats, `k` kernel size, `s` two stride digits, `e`
expansion ratio, `i` input filters, `o` output filters, `se` squeeze-and-excite ratio (optional) and
`noskip` (optional), for example `r1_k3_s11_e1_i32_o16_noskip`.
"""

from __future__ import annotations

import dataclasses
import decimal
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mnasnet_model import BlockArgs, GlobalParams, MnasNetModel, round_filters
from utils.base.errors import quoted

import tensorflow.compat.v1 as tf

# Far above every published network. A larger number is a typing error or an attack: the network
# would fill the memory before an error could be printed.
MOST_FILTERS = 16_384
MOST_BLOCKS = 1_000
MOST_DEPTH_MULTIPLIER = 100
_LIMITS = {
    "depth_multiplier": MOST_DEPTH_MULTIPLIER,
    "depth_divisor": MOST_FILTERS,
    "min_depth": MOST_FILTERS,
    "stem_size": MOST_FILTERS,
    "head_size": MOST_FILTERS,
}
_LONGEST_STRING = 200
_LONGEST_NAME = 200  # a name of files, too


class MnasNetDecoder:
    """Turns block strings into BlockArgs and back.

    encode(decode(strings)) is the same strings, but for a field `se` of no effect.
    """

    _FIELDS = {
        "r": ("num_repeat", r"[1-9]\d*"),
        "k": ("kernel_size", r"[1-9]\d*"),
        "s": ("strides", r"[1-9][1-9]"),
        "e": ("expand_ratio", r"[1-9]\d*"),
        "i": ("input_filters", r"[1-9]\d*"),
        "o": ("output_filters", r"[1-9]\d*"),
        "se": ("se_ratio", r"\d+(\.\d+)?"),
    }
    _MOST = {"r": 100, "k": 99, "e": 100, "i": MOST_FILTERS, "o": MOST_FILTERS}
    _REQUIRED = ("r", "k", "s", "e", "i", "o")

    def decode(self, string_list: Sequence[str]) -> list[BlockArgs]:
        """Decodes a list of block strings; ValueError names a malformed field and its string."""
        if isinstance(string_list, str):
            raise ValueError(
                f"Expected a list of block strings, not the string {quoted(string_list)}."
            )
        return [self._decode_string(string) for string in string_list]

    def encode(self, blocks_args: Sequence[BlockArgs]) -> list[str]:
        """Encodes a list of BlockArgs as block strings.

        A squeeze-and-excite ratio of no effect, outside of (0, 1], is left out.
        """
        return [self._encode_block(args) for args in blocks_args]

    def _decode_string(self, string: str) -> BlockArgs:
        if not isinstance(string, str):
            raise ValueError(f"A block string was expected, not {quoted(string)}.")
        if len(string) > _LONGEST_STRING:
            raise ValueError(
                f"Block string {quoted(string)} has {len(string)} characters: the most is "
                f"{_LONGEST_STRING}."
            )
        values: dict[str, str] = {}
        noskip = False
        for field in string.split("_"):
            if field == "noskip" and not noskip:
                noskip = True
                continue
            letters = re.match(r"[a-z]*", field).group()  # type: ignore[union-attr]
            text = field[len(letters) :]
            known = self._FIELDS.get(letters)
            if known is None or letters in values or not re.fullmatch(known[1], text):
                raise ValueError(
                    f"Field {field!r} of block string {string!r} is "
                    + (
                        "given twice."
                        if letters in values or field == "noskip"
                        else "malformed."
                        if known
                        else "unknown (r, k, s, e, i, o, se and noskip are known)."
                    )
                )
            if letters in self._MOST and int(text) > self._MOST[letters]:
                raise ValueError(
                    f"Field {field!r} of block string {string!r} is too large: {letters} must be "
                    f"at most {self._MOST[letters]}."
                )
            values[letters] = text
        missing = [letters for letters in self._REQUIRED if letters not in values]
        if missing:
            raise ValueError(
                f"Field {missing[0]!r} ({self._FIELDS[missing[0]][0]}) is missing from block "
                f"string {string!r}."
            )
        return BlockArgs(
            kernel_size=int(values["k"]),
            num_repeat=int(values["r"]),
            input_filters=int(values["i"]),
            output_filters=int(values["o"]),
            expand_ratio=int(values["e"]),
            id_skip=not noskip,
            strides=[int(digit) for digit in values["s"]],
            se_ratio=float(values["se"]) if "se" in values else None,
        )

    def _encode_block(self, block: BlockArgs) -> str:
        fields = [
            f"r{block.num_repeat}",
            f"k{block.kernel_size}",
            "s" + "".join(str(stride) for stride in block.strides),
            f"e{block.expand_ratio}",
            f"i{block.input_filters}",
            f"o{block.output_filters}",
        ]
        if block.has_se:
            fields.append(f"se{_decimal(block.se_ratio or 0)}")
        if not block.id_skip:
            fields.append("noskip")
        return "_".join(fields)


def _decimal(number: float) -> str:
    """Returns the shortest text without an exponent that reads back as the same number."""
    text = format(decimal.Decimal(repr(float(number))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Describes a network: its stages, and the global parameters that differ from the defaults."""

    stages: tuple[str, ...]
    global_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def params(self) -> GlobalParams:
        """Returns the complete global parameters."""
        return GlobalParams(**self.global_params)


MODELS: dict[str, ModelSpec] = {
    "mnasnet-a1": ModelSpec(
        (
            "r1_k3_s11_e1_i32_o16_noskip",  # 112 x 112 at an input of 224 x 224
            "r2_k3_s22_e6_i16_o24",  # 56
            "r3_k5_s22_e3_i24_o40_se0.25",  # 28
            "r4_k3_s22_e6_i40_o80",  # 14
            "r2_k3_s11_e6_i80_o112_se0.25",  # 14
            "r3_k5_s22_e6_i112_o160_se0.25",  # 7
            "r1_k3_s11_e6_i160_o320",  # 7
        ),
    ),
    "mnasnet-b1": ModelSpec(
        (
            "r1_k3_s11_e1_i32_o16_noskip",  # 112
            "r3_k3_s22_e3_i16_o24",  # 56
            "r3_k5_s22_e3_i24_o40",  # 28
            "r3_k5_s22_e6_i40_o80",  # 14
            "r2_k3_s11_e6_i80_o96",  # 14
            "r4_k5_s22_e6_i96_o192",  # 7
            "r1_k3_s11_e6_i192_o320_noskip",  # 7
        ),
    ),
    "mnasnet-small": ModelSpec(
        (
            "r1_k3_s11_e1_i16_o8",  # 112
            "r1_k3_s22_e3_i8_o16",  # 56
            "r2_k3_s22_e6_i16_o16",  # 28
            "r4_k5_s22_e6_i16_o32_se0.25",  # 14
            "r3_k3_s11_e6_i32_o32_se0.25",  # 14
            "r3_k5_s22_e6_i32_o88_se0.25",  # 7
            "r1_k3_s11_e6_i88_o144",  # 7
        ),
        {"stem_size": 8, "dropout_rate": 0.0},
    ),
    "mnasnet-d1": ModelSpec(
        (
            "r1_k3_s11_e9_i32_o24",  # 112
            "r3_k3_s22_e9_i24_o36",  # 56
            "r5_k3_s22_e9_i36_o48",  # 28
            "r4_k5_s22_e9_i48_o96",  # 14
            "r5_k7_s11_e3_i96_o96",  # 14
            "r3_k3_s22_e9_i96_o80",  # 7
            "r1_k7_s11_e6_i80_o320_noskip",  # 7
        ),
        {"use_keras": False},
    ),
    "mnasnet-d1-320": ModelSpec(
        (
            "r3_k5_s11_e6_i32_o24",  # 112
            "r4_k7_s22_e9_i24_o36",  # 56
            "r5_k5_s22_e9_i36_o48",  # 28
            "r5_k7_s22_e6_i48_o96",  # 14
            "r5_k3_s11_e9_i96_o144",  # 14
            "r5_k5_s22_e6_i144_o160",  # 7
            "r1_k7_s11_e9_i160_o320",  # 7
        ),
        {"use_keras": False},
    ),
}


def get_model_spec(model_name: str) -> ModelSpec:
    """Returns a model of the table; NotImplementedError, for an unknown name, lists all."""
    if model_name not in MODELS:
        raise NotImplementedError(
            f"Model {model_name!r} is unknown: choose one of {', '.join(MODELS)}, or describe "
            "your own in a file and name it with --model_spec."
        )
    return MODELS[model_name]


def get_model_params(
    model_name: str, override_params: Mapping[str, Any] | None = None
) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns the stages and the global parameters of a model.

    Args:
      model_name: a name of the table, or any name where `override_params` has `stages`.
      override_params: fields of GlobalParams that replace the model's; `stages`, a list of block
        strings, replaces its stages.

    Raises:
      NotImplementedError: the model is unknown.
      ValueError: an override is not a field of GlobalParams, a block string is malformed, or the
        network is too large.
    """
    overrides = dict(override_params or {})
    strings = overrides.pop("stages", None)
    unknown = sorted(set(overrides) - set(GlobalParams._fields))
    if unknown:
        raise ValueError(
            f"override_params has the unknown field {unknown[0]!r}: "
            f"known are {', '.join(GlobalParams._fields)}."
        )
    spec = ModelSpec(tuple(strings)) if strings is not None else get_model_spec(model_name)
    stages, params = MnasNetDecoder().decode(spec.stages), spec.params()._replace(**overrides)
    _check_size(stages, params)
    return stages, params


def mnasnet_a1(depth_multiplier: float | None = None) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns the stages and the global parameters of MnasNet-A1; the published name for them.

    Args:
      depth_multiplier: scales the filters of the stem and the blocks; None for no scaling.
    """
    return get_model_params("mnasnet-a1", {"depth_multiplier": depth_multiplier})


def mnasnet_b1(depth_multiplier: float | None = None) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns those of MnasNet-B1, as `mnasnet_a1` does."""
    return get_model_params("mnasnet-b1", {"depth_multiplier": depth_multiplier})


def mnasnet_small(depth_multiplier: float | None = None) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns those of MnasNet-small, as `mnasnet_a1` does."""
    return get_model_params("mnasnet-small", {"depth_multiplier": depth_multiplier})


def mnasnet_d1(depth_multiplier: float | None = None) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns those of MnasNet-D1, as `mnasnet_a1` does."""
    return get_model_params("mnasnet-d1", {"depth_multiplier": depth_multiplier})


def mnasnet_d1_320(depth_multiplier: float | None = None) -> tuple[list[BlockArgs], GlobalParams]:
    """Returns those of MnasNet-D1-320, as `mnasnet_a1` does."""
    return get_model_params("mnasnet-d1-320", {"depth_multiplier": depth_multiplier})


def _check_size(stages: Sequence[BlockArgs], params: GlobalParams) -> None:
    """Raises ValueError for a network that no machine can hold, before a layer is made."""
    for name, most in _LIMITS.items():
        value = getattr(params, name)
        if value is not None and not value <= most:
            raise ValueError(f"{name} {quoted(value)} is too large: it must be at most {most}.")
    blocks = sum(stage.num_repeat for stage in stages)
    if blocks > MOST_BLOCKS:
        raise ValueError(f"The network has {blocks} blocks: the most is {MOST_BLOCKS}.")
    filters = [params.stem_size]
    filters += [width for stage in stages for width in (stage.input_filters, stage.output_filters)]
    widest = max(round_filters(width, params) for width in filters)
    if widest > MOST_FILTERS:
        raise ValueError(
            f"depth_multiplier {params.depth_multiplier:g} makes {widest} filters of "
            f"{max(filters)}: the most is {MOST_FILTERS}, so choose a smaller one."
        )


def _build(images, model_name, training, override_params, features_only):
    blocks_args, global_params = get_model_params(model_name, override_params)
    with tf.variable_scope(model_name):
        model = MnasNetModel(blocks_args, global_params)
        outputs = model(images, training=training, features_only=features_only)
    return outputs, model.endpoints


def build_mnasnet_model(
    images: tf.Tensor,
    model_name: str,
    training: bool,
    override_params: Mapping[str, Any] | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Builds a classifier in the default graph.

    Args:
      images: normalized images, [N, H, W, 3] (or [N, 3, H, W] with channels_first).
      model_name: a name of `MODELS`; it is also the variable scope.
      training: whether batch norm uses batch statistics and dropout is on.
      override_params: see `get_model_params`.

    Returns:
      (logits, endpoints): logits [N, num_classes], named `logits`, and the tensors of
      `MnasNetModel.endpoints`.
    """
    outputs, endpoints = _build(images, model_name, training, override_params, False)
    return tf.identity(outputs, "logits"), endpoints


def build_mnasnet_base(
    images: tf.Tensor,
    model_name: str,
    training: bool,
    override_params: Mapping[str, Any] | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Builds the network without its head; see `build_mnasnet_model`.

    Returns:
      (features, endpoints): the last block's output, [N, H / 32, W / 32, filters], named
      `global_pool`.
    """
    outputs, endpoints = _build(images, model_name, training, override_params, True)
    return tf.identity(outputs, "global_pool"), endpoints


def is_scope_name(name: str) -> bool:
    """Whether a model's name can be a variable scope and the name of a file."""
    fits = re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*", name) is not None
    return fits and len(name) <= _LONGEST_NAME
