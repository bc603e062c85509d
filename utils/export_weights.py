"""Writes a checkpoint of this program as a state dict for timm.

mnasnet-export-weights --model_dir=DIR --output=weights.safetensors

The keys are those of timm's EfficientNet family, to which its semnasnet_*, mnasnet_* and
mnasnet_small belong. The command logs what else timm needs: padding, epsilon, and how to prepare
pictures. The file's metadata holds the network's specification, so that `utils.import_weights` can
read the file back.
"""

from __future__ import annotations

from absl import logging

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later
from utils.config import settings

with importing_later():
    from utils.training import checkpoints, model_files
    from utils.weights import conversion, weights_file


def main(argv: list[str]) -> None:
    """Reads the arguments and exports."""
    parser = program.ArgumentParser(
        prog="mnasnet-export-weights", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model_dir", required=True, help="folder of the checkpoint")
    parser.add_argument("--output", required=True, help=".safetensors file to write")
    parser.add_argument(
        "--raw", action="store_true", help="write the raw weights, not the averages"
    )
    arguments = parser.parse_args(argv[1:])
    if not arguments.output.endswith(".safetensors"):
        raise UserError(f"--output={arguments.output} is invalid: it must end in .safetensors.")
    files.check_dir_name(arguments.model_dir, "model_dir")
    stored = model_files.stored_params(arguments.model_dir)
    checkpoint = checkpoints.latest(arguments.model_dir)
    if stored is None or checkpoint is None:
        raise UserError(
            f"--model_dir={arguments.model_dir} holds no checkpoint with its params.yaml: name the "
            "folder of a training or an import."
        )
    params = {**settings.default_params(), **stored}
    state = conversion.timm_state_dict(checkpoint, params, averaged=not arguments.raw)
    weights_file.write_safetensors(arguments.output, state, conversion.metadata(params))
    logging.info("Wrote %d tensors to %s.", len(state), arguments.output)


def console() -> None:
    """Runs the console command `mnasnet-export-weights`."""
    program.run(main)


if __name__ == "__main__":
    console()
