"""Finds the settings that the names of a checkpoint's variables tell.

A checkpoint of the published program has no params.yaml next to it. Its names still tell which kind
of layers made it, and whether the training averaged its weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from utils.training import averages, checkpoints, evaluations

_KERNEL = re.compile(r"/mnas_\w+/.*kernel$")
_KERAS_KERNEL = re.compile(r"/mnas_net_model/mnas_\w+/.*kernel$")
_SLOT = "/RMSProp"  # only a training's checkpoint has slots


def told_by(names: Collection[str]) -> dict[str, Any]:
    """Returns the settings that variable names tell: use_keras, moving_average_decay or neither.

    Args:
      names: of all variables of a checkpoint.

    Returns:
      use_keras is there if the names are those of a network of this family. moving_average_decay
      is there, and 0, if a training without averages saved the checkpoint; the decay itself is in
      no checkpoint.
    """
    told: dict[str, Any] = {}
    if any(map(_KERNEL.search, names)):
        told["use_keras"] = any(map(_KERAS_KERNEL.search, names))
    is_averaged = any(name.endswith(averages.SUFFIX) for name in names)
    if not is_averaged and any(name.endswith(_SLOT) for name in names):
        told["moving_average_decay"] = 0.0
    return told


def told(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the checkpoint tells that a run resumes from, evaluates or exports.

    Args:
      params: the settings of a run.

    Raises:
      UserError: a checkpoint that may be good cannot be read.
    """
    path = params["export_checkpoint"] or params["model_dir"]
    if path == "best":
        path = os.path.join(params["model_dir"], evaluations.ARCHIVE_DIR)
    return told_by(checkpoints.variable_names(path))
