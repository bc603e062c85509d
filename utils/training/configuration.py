"""Merges the layers of settings into one complete, checked `params` dict."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

import mnasnet_model
import mnasnet_models
from utils.base import files
from utils.base.errors import UserError, excerpt
from utils.config import model_spec, network_settings, settings, strict_yaml
from utils.reading import dataset_info, examples, labels, records
from utils.training import (
    checkpoint_settings,
    checkpoints,
    devices,
    evaluations,
    model_files,
)
from utils.workers import sizing

import tensorflow.compat.v1 as tf

_MANY_EPOCHS = 2000  # the published recipe has 350


def resolve(
    given: Mapping[str, Any],
    initial_weights: Callable[[str], str] = lambda path: path,
) -> dict[str, Any]:
    """Returns the complete settings of a run.

    A later layer wins: the defaults (of fine-tuning, if --init_checkpoint is given), the settings
    stored with the checkpoint of model_dir or else of --init_checkpoint, --config_file,
    --params_override, flags. What follows from the data set, the device and the variables of the
    checkpoint is filled in last.

    Args:
      given: settings given on the command line, converted to their types.
      initial_weights: returns the checkpoint or folder that --init_checkpoint stands for; it is
        called only if the run needs it.

    Raises:
      UserError: a setting is unknown or invalid, or settings contradict each other.
    """
    explicit = _explicit(given)
    params = {name: setting.default for name, setting in settings.SETTINGS.items()}
    if explicit.get("init_checkpoint"):
        params.update(settings.fine_tuning_defaults())
    model_dir = explicit.get("model_dir")
    stored = model_files.stored_params(model_dir) if model_dir else None
    if model_dir and explicit.get("init_checkpoint") and not checkpoints.has_any(model_dir):
        # A run stored them that ended before its first checkpoint: their network may be why.
        stored = None
    origin = stored or _initial_params(explicit.get("init_checkpoint"), initial_weights)
    if origin:
        params.update({key: origin[key] for key in settings.CARRIED if origin.get(key) is not None})
        if "model_name" in explicit and explicit["model_name"] in mnasnet_models.MODELS:
            params["model_spec"] = None
    params.update(model_files.record_settings(stored or {}, explicit.get("data_dir")))
    params.update(explicit)
    examples.record_format(params)  # an error of its own if it is invalid
    _follow_data_set(params, explicit)
    _follow_device(params)
    _check_combinations(params)
    network_settings.check(params)
    _follow_checkpoint(params, explicit)
    _check_frozen(params)
    sizing.check(params)
    _check_cached_views(params)
    if stored and model_dir and checkpoints.latest(model_dir):
        _check_same_network(params, stored, model_dir)
    return params


def _explicit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Merges what the user says: --config_file, then --params_override, then flags."""
    explicit: dict[str, Any] = {}
    layers = {
        "config_file": given.get("config_file"),
        "params_override": given.get("params_override"),
    }
    for source, layer in (_layer(flag, text) for flag, text in layers.items() if text):
        settings.check_known(layer, source)
        for name in ("config_file", "params_override"):
            if name in layer:
                raise UserError(f"{source}: {name} can be given on the command line only.")
        explicit.update(_converted(layer, source))
    explicit.update(_with_spec(given))
    return {name: value for name, value in explicit.items() if value is not None}


def _converted(layer: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Converts a layer of known settings to their types and reads its model file."""
    given = {
        name: settings.convert(name, value, f"{source}: {name}={value!r}")
        for name, value in layer.items()
    }
    return _with_spec(given, f"{source}: model_spec")


def _layer(flag: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns (source for errors, settings) of --config_file or --params_override.

    Both take a profile, a YAML file, 'name=value,name=value' and a YAML mapping, as the published
    program does. A file comes before pairs, because a folder may be called 'lr=0.1'.
    """
    path = _profiles().get(text, text)
    if tf.io.gfile.exists(path):
        return path, strict_yaml.read_mapping(path)
    pairs = [pair.partition("=") for pair in text.split(",")]
    is_mapping = text.lstrip().startswith("{")
    if not is_mapping and all(equals and name.strip() for name, equals, _ in pairs):
        return f"--{flag}", _pairs(flag, pairs)
    source = f"--{flag}={excerpt(text)}"
    content = strict_yaml.load(text, source)
    if not isinstance(content, dict):
        raise UserError(
            f"{source} is neither a file nor one of the profiles {', '.join(_profiles())} nor "
            "'name=value,name=value' nor a YAML mapping."
        )
    return f"--{flag}", content


def _profiles() -> dict[str, str]:
    """Returns name -> file of the profiles that ship with the package."""
    folder = importlib.resources.files("utils.config") / "profiles"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): str(folder / name) for name in names}


def _pairs(flag: str, pairs: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Returns name -> value, in the types of YAML, for ('a', '=', '1') and the like."""
    given: dict[str, Any] = {}
    for name, _, value in pairs:
        pair = excerpt(f"{name.strip()}={value}")
        if name.strip() in given:
            raise UserError(f"--{flag} gives {pair} after another value: remove one.")
        given[name.strip()] = strict_yaml.load(value, f"--{flag}: {pair}")
    return given


def _with_spec(layer: Mapping[str, Any], source: str = "--model_spec") -> dict[str, Any]:
    """Reads a layer's model file; the file names the model unless the layer does."""
    spec = layer.get("model_spec")
    if spec == "":  # as for every other file, an empty name means none
        return {**layer, "model_spec": None}
    if isinstance(spec, str):
        name, content = model_spec.load(spec)
        return {"model_name": name, **layer, "model_spec": content}
    if isinstance(spec, dict):
        return {**layer, "model_spec": model_spec.check(spec, source)}
    return dict(layer)


def _initial_params(
    init_checkpoint: str | None, initial_weights: Callable[[str], str]
) -> dict[str, Any] | None:
    """Returns the settings next to the initial weights; the number of classes may be another."""
    if not init_checkpoint:
        return None
    init_checkpoint = initial_weights(init_checkpoint)
    is_folder = tf.io.gfile.isdir(init_checkpoint)
    folder = init_checkpoint if is_folder else os.path.dirname(init_checkpoint)
    if os.path.basename(folder.rstrip("/")) == evaluations.ARCHIVE_DIR:
        folder = os.path.dirname(folder.rstrip("/"))  # the settings are next to the archive
    stored = model_files.stored_params(folder) or {}
    return {name: value for name, value in stored.items() if name != "num_label_classes"}


def _follow_data_set(params: dict[str, Any], explicit: Mapping[str, Any]) -> None:
    """Fills in the counts of images and classes, from the data set or else ImageNet's."""
    info = dataset_info.of_run(params)
    if info is not None:
        # An export has the classes of its checkpoint, even if other data calibrate it; those of an
        # evaluation may lack some.
        fixed = params["num_label_classes"] is not None and (
            params["mode"] == "export_only"
            or (params["mode"] == "eval" and model_files.class_order(params) is not None)
        )
        for name in ("num_train_images", "num_eval_images", "num_label_classes"):
            value = getattr(info, name)
            if name not in explicit and value and not (fixed and name == "num_label_classes"):
                params[name] = value
        if params["num_label_classes"] < info.num_label_classes:
            raise UserError(
                f"--num_label_classes={params['num_label_classes']} is less than the "
                f"{info.num_label_classes} classes of {params['data_dir']}."
            )
    params.update(settings.with_imagenet_counts(params))


def _follow_device(params: dict[str, Any]) -> None:
    """Resolves use_tpu, and the settings that depend on it."""
    params["tpu"] = params["tpu"] or os.environ.get("TPU_NAME") or None
    if params["use_tpu"] is None:
        params["use_tpu"] = params["tpu"] is not None
    if params["use_keras"] is None and params["precision"] == "bfloat16":
        params["use_keras"] = False
    params["bigtable_project"] = params["bigtable_project"] or params["gcp_project"]
    if params["use_tpu"]:
        params["save_checkpoints_steps"] = params["save_checkpoints_steps"] or max(
            100, params["iterations_per_loop"]
        )
        return
    params["tpu"] = None
    params["iterations_per_loop"] = 1
    params["transpose_input"] = False
    params["eval_batch_size"] = min(params["eval_batch_size"], params["num_eval_images"])
    params["save_checkpoints_steps"] = params["save_checkpoints_steps"] or min(
        params["steps_per_eval"], 1000
    )


def _follow_checkpoint(params: dict[str, Any], explicit: Mapping[str, Any]) -> None:
    """Takes what the checkpoint's variables tell and no layer says; the log names what it is."""
    told = checkpoint_settings.told(params)
    taken = {}
    own = network_settings.describe(params)["use_keras"]
    if params["use_keras"] is None and told.get("use_keras", own) != own:
        taken["use_keras"] = told["use_keras"]
    if "moving_average_decay" in told and "moving_average_decay" not in explicit:
        taken["moving_average_decay"] = told["moving_average_decay"]
    if taken:
        params.update(taken)
        logging.info(
            "The variables of the checkpoint in %s tell that it was made with %s.",
            params["export_checkpoint"] or params["model_dir"],
            ", ".join(f"--{name}={value}" for name, value in taken.items()),
        )


def _check_combinations(params: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other, before anything is built."""
    mode, use_tpu = params["mode"], params["use_tpu"]
    problems = (
        (not params["model_dir"], "--model_dir is missing: name a folder for checkpoints."),
        (
            use_tpu and not params["tpu"],
            "--use_tpu needs --tpu=NAME or the variable TPU_NAME; --use_tpu=False runs here.",
        ),
        (
            mode != "export_only" and not params["data_dir"] and not params["bigtable_instance"],
            "--data_dir is missing: name a folder of TFRecords (or --bigtable_instance, or "
            "--data_dir=null to feed black images).",
        ),
        (
            params["data_dir"] and params["bigtable_instance"],
            "--data_dir and --bigtable_instance are both given: choose one source of images.",
        ),
        (
            params["bigtable_instance"] and not params["bigtable_project"],
            "--bigtable_instance needs --bigtable_project (or --gcp_project).",
        ),
        (
            params["skip_bad_images"] and params["bigtable_instance"],
            "--skip_bad_images is for TFRecord files: check a table with mnasnet-data "
            "bigtable-verify.",
        ),
        (
            mode == "export_only" and not params["export_dir"],
            "--mode=export_only needs --export_dir.",
        ),
        (
            mode == "export_only" and params["report"],
            "--report is for trainings and evaluations: mnasnet-report makes one of any model.",
        ),
        (
            mode != "export_only" and params["export_checkpoint"],
            "--export_checkpoint is for --mode=export_only: a training exports its last one.",
        ),
        (
            params["precision"] == "bfloat16" and params["use_keras"],
            "--precision=bfloat16 needs --use_keras=False: Keras layers mix types and fail.",
        ),
        (
            params["data_format"] == "channels_first" and (use_tpu or not devices.has_gpu()),
            "--data_format=channels_first needs a GPU; use channels_last here.",
        ),
        (
            params["quantized_training"] or params["quantization_delay_epochs"],
            "--quantized_training and --quantization_delay_epochs ask for a training with "
            "TensorFlow 1's contrib, which this program does not do: leave them out, and let "
            "--quantize=int8 quantize the trained weights.",
        ),
        (
            params["eval_master"],
            f"--eval_master={params['eval_master']} is not supported: leave it out, and run "
            "--mode=eval on the machine that is to evaluate.",
        ),
    )
    unknown = set((params["quantize"] or "").split(",")) - {"", "float16", "int8"}
    if unknown:
        raise UserError(
            f"--quantize={params['quantize']}: {sorted(unknown)[0]!r} is unknown: choose float16, "
            "int8 or both."
        )
    for name in ("model_dir", "data_dir", "export_dir", "export_checkpoint"):
        files.check_no_pattern(params[name], name)
    if not files.is_download(params["init_checkpoint"] or ""):
        files.check_no_pattern(params["init_checkpoint"], "init_checkpoint")
    for wrong, sentence in problems:
        if wrong:
            raise UserError(sentence)


def _check_frozen(params: Mapping[str, Any]) -> None:
    """Refuses two ways of freezing, and a block that the network does not have."""
    if params["freeze_backbone"] and params["freeze_until"] not in (None, "none"):
        raise UserError(
            f"--freeze_backbone and --freeze_until={params['freeze_until']} are both given: choose "
            "one (the backbone is all but the classifier; --freeze_until=none undoes a profile's)."
        )
    try:
        mnasnet_model.num_frozen_blocks(
            network_settings.frozen(params), network_settings.num_blocks(params)
        )
    except ValueError as e:
        raise UserError(f"--freeze_until={params['freeze_until']}: {e}") from e


def _check_cached_views(params: Mapping[str, Any]) -> None:
    """Refuses cached features where they would not be constant, or their images not be known."""
    if not params["cached_views"]:
        return
    problems = (
        (
            not params["freeze_backbone"],
            "needs --freeze_backbone: other layers that train would change the features.",
        ),
        (params["use_tpu"], "is for GPU and CPU: leave it out, or add --use_tpu=False."),
        (
            not records.has_files(params["data_dir"]),
            "needs the TFRecord files of a --data_dir, by which a changed picture is found out.",
        ),
    )
    for wrong, reason in problems:
        if wrong:
            raise UserError(f"--cached_views={params['cached_views']} {reason}")


def _check_same_network(params, stored, model_dir) -> None:
    """Refuses to resume a training with settings that describe another network."""
    complete = {**{name: s.default for name, s in settings.SETTINGS.items()}, **stored}
    now, then = network_settings.describe(params), network_settings.describe(complete)
    differences = [f"{key} {then[key]!r} -> {now[key]!r}" for key in now if now[key] != then[key]]
    if now["model_name"] != then["model_name"]:
        differences = differences[:1]  # the rest follows
    if not differences:
        return
    remedy = "choose another folder or the old settings"
    if {key for key in now if now[key] != then[key]} == {"num_classes"}:
        remedy = (
            "name a data set with the classes of the model"
            if params["mode"] == "eval"
            else "to train on other classes, start from it in a new folder, with "
            f"--init_checkpoint={model_dir} --model_dir=NEW"
        )
    raise UserError(
        f"--model_dir={model_dir} holds a checkpoint of another network "
        f"({'; '.join(differences)}): {remedy}."
    )


def log_summary(params: Mapping[str, Any]) -> None:
    """Prints in one line what will run where; for a training also what is fine-tuned."""
    logging.info(
        "%s on %s: %s, %d x %d pixels (%s), %d classes, %s.",
        params["mode"], devices.in_words(params), params["model_name"], params["input_image_size"],
        params["input_image_size"], params["resize_method"], params["num_label_classes"],
        params["precision"],
    )  # fmt: skip
    devices.log_missing_libraries()
    is_training = params["mode"] in ("train", "train_and_eval")
    if is_training:
        devices.log_slow_kernels(params)
        _log_fine_tuning(params)
        _log_few_images(params)
    if params["mode"] != "export_only":
        _log_unequal_classes(params, "train" if is_training else "validation")


def _log_few_images(params: Mapping[str, Any]) -> None:
    """Prints a line if the data set is far smaller than batch and number of steps are made for."""
    images, batch = params["num_train_images"], params["train_batch_size"]
    epochs = params["train_steps"] * batch / images
    is_given = records.has_files(params["data_dir"]) or params["bigtable_instance"]
    if not is_given or (batch <= images and epochs <= _MANY_EPOCHS):
        return
    logging.warning(
        "%d training images are few for a batch of %d and %d steps, which are %.0f epochs: "
        "--config_file=cpu has a smaller batch and --config_file=finetune, with --init_checkpoint, "
        "fewer steps, too; or give --train_batch_size and --train_steps.",
        images, batch, params["train_steps"], epochs,
    )  # fmt: skip


def _log_unequal_classes(params: Mapping[str, Any], split: str) -> None:
    """Prints a line if a few classes have most of the images of a split."""
    info = dataset_info.load(params["data_dir"])
    if info is None:
        return
    unequal = labels.unequal_sizes(info.label_names, info.images_by_class.get(split, ()))
    if unequal:
        logging.info(
            "The %s: --report and mnasnet-evaluate --per_class show how good each is.", unequal
        )


def _log_fine_tuning(params: Mapping[str, Any]) -> None:
    """Prints a line on the settings with defaults of fine-tuning, and one on what is frozen."""
    if params["init_checkpoint"] and checkpoints.has_any(params["model_dir"]):
        logging.info(
            "--init_checkpoint=%s is not read again: %s has a checkpoint to resume from.",
            params["init_checkpoint"], params["model_dir"],
        )  # fmt: skip
    elif params["init_checkpoint"]:
        values = [
            f"{name}={params[name]:g}" + ("" if params[name] == default else " (given)")
            for name, default in settings.fine_tuning_defaults().items()
        ]
        logging.info("Fine-tuning from %s: %s.", params["init_checkpoint"], ", ".join(values))
    if params["freeze_backbone"]:
        logging.info("Frozen: all but the classifier.")
    elif network_settings.frozen(params):
        logging.info("Frozen: the stem and the blocks up to %s.", network_settings.frozen(params))
