"""Imports weights of other programs as a checkpoint for every mode of mnasnet_main.py.

mnasnet-import --weights=hf://timm/semnasnet_100.rmsp_in1k --model_dir=DIR
mnasnet-import --weights=semnasnet_075.safetensors --model_dir=DIR
mnasnet-import --weights=mnasnet0_5.pth --model_dir=DIR
mnasnet-import --weights=THEIRS/model.ckpt-1000 --mapping=names.yaml \
    --model_name=mnasnet-a1 --model_dir=DIR

State dicts of PyTorch are recognized by their names and shapes; files of `utils.export_weights`
carry a description. Shapes do not show padding, epsilon and activation: the command logs what it
assumes, and --model_spec and --batch_norm_epsilon correct it. Checkpoints of other TF1 programs
need the model's name and a mapping: a YAML file of lines `their name: our name`, or
`their name: null` for a tensor to leave out.
"""

from __future__ import annotations

from typing import Any

from utils.base import files, program
from utils.base.errors import UserError, quoted
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    import mnasnet_models
    from utils.config import network, settings
    from utils.weights import conversion, recognition


def main(argv: list[str]) -> None:
    """Reads the arguments and imports."""
    lines = (__doc__ or "").split("\n")
    parser = program.ArgumentParser(prog="mnasnet-import", description=lines[0])
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        help=".safetensors, .pth or .ckpt file; hf://OWNER/REPOSITORY, perhaps with @REVISION; an "
        "https:// address, perhaps with #sha256=; or with --mapping a checkpoint",
    )
    add("--model_dir", required=True, help="folder for the checkpoint")
    add(
        "--source",
        metavar="PROGRAM:MODEL",
        help="which program the file is from, if it fits more than one",
    )
    add("--labels", help="file of class names, one a line, or 'imagenet'")
    add("--mapping", help="YAML file of lines 'their name: our name' for a checkpoint of TF1")
    add("--model_name", help="name of the model; with --mapping, the network")
    add("--model_spec", help="YAML file that describes the network")
    add("--num_label_classes", help="number of classes, for weights without classifier")
    for name, when in {
        "depth_multiplier": "with --mapping or --model_spec: ",
        "batch_norm_epsilon": "",
        "input_image_size": "",
        "resize_method": "",
        "eval_crop_share": "",
        "use_keras": "",
    }.items():
        add(f"--{name}", help=when + settings.SETTINGS[name].help)
    arguments = parser.parse_args(argv[1:])
    if arguments.source not in (None, *recognition.SOURCE_NAMES):
        parser.error(
            f"--source={arguments.source} is not known: choose one of "
            f"{', '.join(recognition.SOURCE_NAMES)}"
        )
    run(vars(arguments))


def run(arguments: dict[str, Any]) -> None:
    """Imports a file.

    Args:
      arguments: flag -> text of the command line, None for a flag that is not given.

    Raises:
      UserError: a flag is invalid, or the file cannot be imported.
    """
    names = ("weights", "model_dir", "source", "labels", "mapping")
    weights, model_dir, source, labels, mapping = (arguments.pop(name) for name in names)
    given = {
        name: settings.convert(name, value, f"--{name}={value}")
        for name, value in arguments.items()
        if value is not None
    }
    if not mnasnet_models.is_scope_name(given.get("model_name") or "model"):
        raise UserError(
            f"--model_name={quoted(given['model_name'])} cannot name variables: use at most 200 "
            "letters, digits, . _ -."
        )
    if "model_spec" in given:
        named, given["model_spec"] = network.read_file(given["model_spec"])
        given.setdefault("model_name", named)
    if mapping:
        if files.is_download(weights):
            raise UserError("--mapping is for the checkpoint of a TF1 program on this machine.")
        conversion.import_checkpoint(weights, mapping, model_dir, labels, **given)
        return
    if "depth_multiplier" in given and "model_spec" not in given:
        raise UserError(
            "--depth_multiplier needs --mapping or --model_spec: the multiplier of a state dict is "
            "recognized."
        )
    if source and "model_spec" in given:
        raise UserError(
            "--source and --model_spec are both given: choose one description of the network."
        )
    if weights.endswith(".index") or (
        not files.is_download(weights) and tf.io.gfile.exists(weights + ".index")
    ):
        raise UserError(
            f"--weights={weights} is a TensorFlow checkpoint: give --mapping and --model_name. If "
            "this program wrote it, use it with --init_checkpoint."
        )
    conversion.import_weights(weights, model_dir, source, labels, **given)


def console() -> None:
    """Runs the console command `mnasnet-import`."""
    program.run(main)


if __name__ == "__main__":
    console()
