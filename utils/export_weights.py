"""Writes a checkpoint of this program as a state dict for timm.

python -m utils.export_weights --model_dir=DIR --output=weights.safetensors

Keys are those of timm's EfficientNet family, which its semnasnet_*, mnasnet_* and mnasnet_small
models have; what else timm must be told (padding, epsilon) is printed. The file's metadata has the
network's specification, by which `utils.import_weights` takes the file back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

import mnasnet_model
import mnasnet_models
from utils import (
    averages,
    checkpoints,
    files,
    import_weights,
    model_files,
    network_settings,
    program,
    settings,
    state_dicts,
    warm_start,
    weights_file,
)
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip


def timm_state_dict(
    checkpoint: str, params: Mapping[str, Any], averaged: bool = True
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights under timm's keys, float32 in PyTorch's layout.

    Args:
      checkpoint: path of the checkpoint.
      params: complete settings, see `utils.settings.default_params`.
      averaged: the averages, where the checkpoint has them, instead of the raw weights.

    Raises:
      UserError: the checkpoint cannot be read, or is not of this network.
    """
    overrides = network_settings.overrides(dict(params))
    stages, global_params = mnasnet_models.get_model_params(params["model_name"], overrides)
    stem = mnasnet_model.round_filters(global_params.stem_size, global_params)
    blocks = state_dicts.unroll(stages, global_params)
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = reader.get_variable_to_shape_map()
        names = {
            common.split("/", 1)[-1]: name for name, common in warm_start.common_names(held).items()
        }
        state = {}
        for tensor in state_dicts.tensors(
            "timm", blocks, stem, global_params.head_size, global_params.num_classes
        ):
            name = names.get(tensor.name)
            if name is None:
                raise UserError(f"{checkpoint} lacks {tensor.name}: is it of another network?")
            average = name + averages.SUFFIX
            value = reader.get_tensor(average if averaged and average in held else name)
            array = state_dicts.to_pytorch(tensor.name, value)
            if array.shape != tensor.shape:
                raise UserError(
                    f"{checkpoint} has {name} as {list(value.shape)}, which is another network's "
                    "shape: name the model_dir that it was made in."
                )
            state[tensor.key] = np.ascontiguousarray(array, np.float32)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise UserError(f"{checkpoint} cannot be read: {files.reason(e)}.") from e
    _log_how_to_load(state, stages, global_params)
    return state


def _log_how_to_load(state, stages, global_params) -> None:
    model = state_dicts.timm_model(state, stages, global_params)
    if model is None:
        logging.info("timm has no model of just this network: its keys fit, its models do not.")
        return
    padding = "same" if global_params.padding == "same" else ""
    arguments = (
        f"num_classes={global_params.num_classes}, bn_eps={global_params.batch_norm_epsilon:g}, "
        f"pad_type={padding!r}"
    )
    if model.ready_made:
        logging.info(
            "timm.create_model(%r, %s, checkpoint_path=...) loads it.", model.name, arguments
        )
        return
    remedy = "write a model of its block strings there"
    if model.builder:
        remedy = (
            f"make it with net = timm.models.efficientnet.{model.builder}, {arguments}, "
            f"num_features={global_params.head_size}), then timm.models.load_checkpoint(net, ...)"
        )
    logging.info(
        "The keys fit timm's %s, but timm has no ready-made model of these filters: %s.",
        model.name, remedy,
    )  # fmt: skip


def main(argv: list[str]) -> None:
    """Reads the arguments and exports."""
    parser = program.ArgumentParser(
        prog="python -m utils.export_weights", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model_dir", required=True, help="folder of a checkpoint")
    parser.add_argument("--output", required=True, help=".safetensors file to write")
    parser.add_argument("--raw", action="store_true", help="the raw weights, not the averages")
    arguments = parser.parse_args(argv[1:])
    if not arguments.output.endswith(".safetensors"):
        raise UserError(f"--output={arguments.output} must end in .safetensors.")
    files.check_dir_name(arguments.model_dir, "model_dir")
    stored = model_files.stored_params(arguments.model_dir)
    checkpoint = checkpoints.latest(arguments.model_dir)
    if stored is None or checkpoint is None:
        raise UserError(
            f"--model_dir={arguments.model_dir} holds no checkpoint with its params.yaml: name the "
            "folder of a training or an import."
        )
    params = {**settings.default_params(), **stored}
    state = timm_state_dict(checkpoint, params, averaged=not arguments.raw)
    metadata = import_weights.metadata_of(params)
    weights_file.write_safetensors(arguments.output, state, metadata)
    logging.info("Wrote %d tensors to %s.", len(state), arguments.output)


def console() -> None:
    """The command `python -m utils.export_weights`."""
    program.run(main)


if __name__ == "__main__":
    console()
