"""Says what is published next to weights: how their pictures are prepared, and their classes.

timm writes it into the config.json of a repository. Without it, an evaluation could not repeat the
published accuracy, because no weight tells size, crop and interpolation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

import preprocessing
from utils.base.errors import UserError, quoted
from utils.config import network, settings
from utils.weights import recognition

_IMAGENET = settings.IMAGENET_CLASSES
# Our setting -> its name in config.json.
_SETTINGS = {"resize_method": "interpolation", "eval_crop_share": "crop_pct"}


@dataclasses.dataclass(frozen=True)
class Description:
    """Holds what is known of weights beside their tensors.

    Attributes:
      source: the family, one of `recognition.SOURCE_NAMES`; None if nothing names it.
      num_classes: width of the classifier; None if nothing tells it.
      labels: names of the classes in their order, or ('imagenet',) for those of ImageNet; none if
        they are not known.
      settings: input_image_size, resize_method and eval_crop_share, as far as they are known.
      normalization: mean_rgb and stddev_rgb of pixels in [0, 255], as in a model specification, if
        they are not those of ImageNet.
    """

    source: str | None = None
    num_classes: int | None = None
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    normalization: Mapping[str, Any] = dataclasses.field(default_factory=dict)


IMAGENET_LABELS = ("imagenet",)


def of_timm_config(content: Any, name: str) -> Description:
    """Returns what the config.json of a timm repository says.

    A value that this program cannot use is left out with a warning. A config.json of another
    program says nothing.

    Args:
      content: the parsed file.
      name: of the weights, for messages.

    Raises:
      UserError: the network is of another family.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("architecture"), str):
        return Description()
    source = recognition.source_of(content["architecture"])
    if source is None:
        raise UserError(
            f"{name} is a network of another family, {quoted(content['architecture'])}: name "
            f"weights of one of {', '.join(recognition.SOURCE_NAMES)}."
        )
    inner = content.get("pretrained_cfg")  # older files have its entries beside the architecture
    found = {**content, **(inner if isinstance(inner, Mapping) else {})}
    num_classes = content.get("num_classes", found.get("num_classes"))
    is_count = isinstance(num_classes, int) and num_classes > 0
    return Description(
        source=source,
        num_classes=num_classes if is_count else None,
        labels=_labels(found.get("label_names", found.get("labels")), num_classes),
        settings=_settings(found, name),
        normalization=_normalization(found, name),
    )


def _labels(names: Any, num_classes: Any) -> tuple[str, ...]:
    """Returns the names in a config.json; without any, 1000 classes are ImageNet's, as in timm."""
    if isinstance(names, list) and len(names) == num_classes and all(map(_is_text, names)):
        return tuple(" ".join(name.split()) for name in names)
    return IMAGENET_LABELS if num_classes == _IMAGENET else ()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _settings(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = {ours: found[theirs] for ours, theirs in _SETTINGS.items() if found.get(theirs)}
    size = found.get("input_size")
    if isinstance(size, Sequence) and len(size) == 3 and size[1] == size[2]:
        given["input_image_size"] = size[1]
    elif size is not None:
        _warn(name, f"input_size={quoted(size)}", "--input_image_size")
    taken = {}
    for setting, value in given.items():
        try:
            taken[setting] = settings.convert(setting, value, setting)
        except UserError:
            their_name = _SETTINGS.get(setting, "input_size")
            _warn(name, f"{their_name}={quoted(value)}", f"--{setting}")
    return taken


def _normalization(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the normalization of pixels in [0, 255]; timm scales them to [0, 1] first."""
    taken: dict[str, Any] = {}
    for ours, theirs, default in (
        ("mean_rgb", "mean", preprocessing.MEAN_RGB),
        ("stddev_rgb", "std", preprocessing.STDDEV_RGB),
    ):
        value = found.get(theirs)
        if value is None:
            continue
        if not network.is_rgb(value, ours):
            _warn(name, f"{theirs}={quoted(value)}", "--model_spec")
            continue
        scaled = [255 * v for v in value]
        if scaled != default:
            taken[ours] = scaled
    return taken


def _warn(name: str, entry: str, flag: str) -> None:
    logging.warning(
        "The config.json of %s asks for %s, which this program cannot do: it is left out, and %s "
        "may say what to do instead.", name, entry, flag,
    )  # fmt: skip
