"""Merges the sources of settings into one complete, checked `params` dict."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from absl import logging

import mnasnet_model
import mnasnet_models
from utils.base import files
from utils.base.errors import UserError
from utils.config import loading, network, settings
from utils.reading import dataset_info, examples, records
from utils.training import averages, checkpoints, devices, evaluations, model_files
from utils.workers import gang

import tensorflow.compat.v1 as tf

_MANY_EPOCHS = 2000  # the published recipe has 350
_KERNEL = re.compile(r"/mnas_\w+/.*kernel$")
_KERAS_KERNEL = re.compile(r"/mnas_net_model/mnas_\w+/.*kernel$")
_SLOT = "/RMSProp"  # only a training's checkpoint has slots


def resolve(
    given: Mapping[str, Any],
    initial_weights: Callable[[str], str] = lambda path: path,
) -> dict[str, Any]:
    """Returns the complete settings of a run.

    A later one wins: the defaults (with --init_checkpoint those of fine-tuning), params.yaml next
    to the checkpoint (network and images), dataset_info.json next to the data (counts of images and
    classes), --config_file, --params_override, flags. What then is unset follows from the device
    and from the variables of the checkpoint.

    Args:
      given: the settings given as flags, converted to their types.
      initial_weights: returns the checkpoint or folder that --init_checkpoint stands for; it is
        called only if the run needs it.

    Raises:
      UserError: a setting is unknown or invalid, or settings contradict each other.
    """
    explicit: dict[str, Any] = {}
    for source, layer in loading.layers(given):
        explicit.update(network.with_specification(layer, source))
    explicit = {name: value for name, value in explicit.items() if value is not None}
    stored = _stored_params(explicit)
    params = settings.default_params()
    if explicit.get("init_checkpoint"):
        params.update(settings.fine_tuning_defaults())
    params.update(_of_checkpoint(explicit, stored, initial_weights))
    params.update(_of_data_set({**params, **explicit}, explicit, has_classes=bool(stored)))
    params.update(explicit)

    _follow_device(params)
    _check_combinations(params)
    _follow_variables(params, explicit)
    _check_frozen(params)
    gang.check(params)
    if stored and checkpoints.latest(params["model_dir"]):
        _check_same_network(params, stored)
    return params


def _stored_params(explicit: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the settings that model_dir keeps; None if they bind no run."""
    model_dir = explicit.get("model_dir")
    if not model_dir:
        return None
    if explicit.get("init_checkpoint") and not checkpoints.has_any(model_dir):
        # A run stored them that ended before its first checkpoint: their network may be why.
        return None
    return model_files.stored_params(model_dir)


def _of_checkpoint(
    explicit: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
    initial_weights: Callable[[str], str],
) -> dict[str, Any]:
    """Returns what the settings next to the checkpoint, or to the initial weights, decide."""
    origin = stored or _initial_params(explicit.get("init_checkpoint"), initial_weights)
    carried = {name: origin[name] for name in settings.CARRIED if origin.get(name) is not None}
    if explicit.get("model_name") in mnasnet_models.MODELS:
        carried.pop("model_spec", None)
    return {**carried, **model_files.record_settings(stored or {}, explicit.get("data_dir"))}


def _initial_params(given: str | None, initial_weights: Callable[[str], str]) -> dict[str, Any]:
    """Returns the settings next to the initial weights; the number of classes may be another."""
    if not given:
        return {}
    path = initial_weights(given)
    folder = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
    stored = model_files.stored_params(model_files.without_archive(folder)) or {}
    return {name: value for name, value in stored.items() if name != "num_label_classes"}


def _of_data_set(
    params: Mapping[str, Any], explicit: Mapping[str, Any], has_classes: bool
) -> dict[str, Any]:
    """Returns the counts that dataset_info.json gives.

    Args:
      params: all other settings.
      explicit: those that the user gives.
      has_classes: whether params.yaml tells the classes of the model.

    Raises:
      UserError: the settings of the records are invalid, or the model has too few classes.
    """
    examples.record_format(params)
    info = dataset_info.of_run(params)
    if info is None:
        return {}
    # An export has the classes of its checkpoint, even if other data calibrate it; those of an
    # evaluation may lack some.
    fixed = has_classes and (
        params["mode"] == "export_only"
        or (params["mode"] == "eval" and model_files.class_order(params) is not None)
    )
    classes = params["num_label_classes"]
    if (fixed or "num_label_classes" in explicit) and classes < info.num_label_classes:
        raise UserError(
            f"--num_label_classes={classes} is less than the {info.num_label_classes} classes of "
            f"{params['data_dir']}."
        )
    names = ["num_train_images", "num_eval_images"] + ([] if fixed else ["num_label_classes"])
    return {name: getattr(info, name) for name in names if getattr(info, name)}


def _follow_device(params: dict[str, Any]) -> None:
    """Resolves use_tpu, and the settings that depend on it."""
    params["tpu"] = params["tpu"] or os.environ.get("TPU_NAME") or None
    if params["use_tpu"] is None:
        params["use_tpu"] = params["tpu"] is not None
    if params["use_keras"] is None and params["precision"] == "bfloat16":
        params["use_keras"] = False
    params["bigtable_project"] = params["bigtable_project"] or params["gcp_project"]
    if params["use_tpu"]:
        steps = max(100, params["iterations_per_loop"])
    else:
        steps = min(params["steps_per_eval"], 1000)
        params["tpu"] = None
        params["iterations_per_loop"] = 1
        params["transpose_input"] = False
        params["eval_batch_size"] = min(params["eval_batch_size"], params["num_eval_images"])
    params["save_checkpoints_steps"] = params["save_checkpoints_steps"] or steps


def told_by(names: Collection[str]) -> dict[str, Any]:
    """Returns the settings that variable names tell: use_keras, moving_average_decay or neither.

    A checkpoint of the published program has no params.yaml next to it. Its names still tell which
    kind of layers made it, and whether the training averaged its weights.

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


def _follow_variables(params: dict[str, Any], explicit: Mapping[str, Any]) -> None:
    """Takes what the checkpoint's variables tell and nothing else says; the log names it."""
    origin = path = params["export_checkpoint"] or params["model_dir"]
    if path == "best":
        path = os.path.join(params["model_dir"], evaluations.ARCHIVE_DIR)
    told = told_by(checkpoints.variable_names(path))
    own = network.describe(params)["use_keras"]
    if params["use_keras"] is not None or told.get("use_keras") == own:
        told.pop("use_keras", None)
    if "moving_average_decay" in explicit:
        told.pop("moving_average_decay", None)
    params.update(told)
    if told:
        logging.info(
            "The variables of the checkpoint in %s tell that it was made with %s.",
            origin,
            ", ".join(f"--{name}={value}" for name, value in told.items()),
        )


def _check_combinations(params: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other, before anything is built."""
    mode, use_tpu = params["mode"], params["use_tpu"]
    exports = mode == "export_only"
    freezes_blocks = params["freeze_until"] not in (None, "none")
    views = f"--cached_views={params['cached_views']}"
    kinds = set((params["quantize"] or "").split(","))
    problems = (
        (not params["model_dir"], "--model_dir is missing: name a folder for checkpoints."),
        (
            use_tpu and not params["tpu"],
            "--use_tpu needs --tpu=NAME or the variable TPU_NAME; --use_tpu=False runs here.",
        ),
        (
            not exports and not params["data_dir"] and not params["bigtable_instance"],
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
        (exports and not params["export_dir"], "--mode=export_only needs --export_dir."),
        (
            exports and params["report"],
            "--report is for trainings and evaluations: mnasnet-report makes one of any model.",
        ),
        (
            not exports and params["export_checkpoint"],
            "--export_checkpoint is for --mode=export_only: a training exports its last one.",
        ),
        (
            kinds - {"", "float16", "int8"},
            f"--quantize={params['quantize']} is unknown: choose float16, int8 or both.",
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
        (
            params["freeze_backbone"] and freezes_blocks,
            f"--freeze_backbone and --freeze_until={params['freeze_until']} are both given: choose "
            "one (the backbone is all but the classifier; --freeze_until=none undoes a profile's).",
        ),
        (
            params["cached_views"] and not params["freeze_backbone"],
            f"{views} needs --freeze_backbone: other layers that train would change the features.",
        ),
        (
            params["cached_views"] and use_tpu,
            f"{views} is for GPU and CPU: leave it out, or add --use_tpu=False.",
        ),
        (
            params["cached_views"] and not records.has_files(params["data_dir"]),
            f"{views} needs the TFRecord files of a --data_dir, by which a changed picture is "
            "found out.",
        ),
    )
    for wrong, sentence in problems:
        if wrong:
            raise UserError(sentence)
    for name in ("model_dir", "data_dir", "export_dir", "export_checkpoint", "init_checkpoint"):
        if not files.is_download(params[name] or ""):
            files.check_no_pattern(params[name], name)


def _check_frozen(params: Mapping[str, Any]) -> None:
    """Refuses to freeze a block that the network does not have."""
    stages, _ = network.model_params(params)
    try:
        mnasnet_model.num_frozen_blocks(
            network.frozen(params), sum(stage.num_repeat for stage in stages)
        )
    except ValueError as e:
        raise UserError(f"--freeze_until={params['freeze_until']}: {e}") from e


def _check_same_network(params: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Refuses to resume a training with settings that describe another network."""
    now, then = network.describe(params), network.describe({**settings.default_params(), **stored})
    changed = [key for key in now if now[key] != then[key]]
    if not changed:
        return
    if "model_name" in changed:
        changed = ["model_name"]  # the rest follows
    model_dir = params["model_dir"]
    remedy = "choose another folder or the old settings"
    if changed == ["num_classes"] and params["mode"] == "eval":
        remedy = "name a data set with the classes of the model"
    elif changed == ["num_classes"]:
        remedy = (
            "to train on other classes, start from it in a new folder, with "
            f"--init_checkpoint={model_dir} --model_dir=NEW"
        )
    differences = "; ".join(f"{key} {then[key]!r} -> {now[key]!r}" for key in changed)
    raise UserError(
        f"--model_dir={model_dir} holds a checkpoint of another network ({differences}): {remedy}."
    )


def log_summary(params: Mapping[str, Any]) -> None:
    """Prints in one line what will run where; for a training also what is fine-tuned."""
    size = params["input_image_size"]
    logging.info(
        f"{params['mode']} on {devices.in_words(params)}: {params['model_name']}, {size} x {size} "
        f"pixels ({params['resize_method']}), {params['num_label_classes']} classes, "
        f"{params['precision']}."
    )
    devices.log_missing_libraries()
    is_training = params["mode"] in gang.TRAINING_MODES
    if is_training:
        devices.log_slow_kernels(params)
        _log_fine_tuning(params)
        _log_few_images(params)
    info = dataset_info.load(params["data_dir"])
    if info and params["mode"] != "export_only":
        counts = info.images_by_class.get("train" if is_training else "validation", ())
        unequal = dataset_info.unequal_sizes(info.label_names, counts)
        if unequal:
            logging.info(
                f"The {unequal}: --report and mnasnet-evaluate --per_class show how good each is."
            )


def _log_few_images(params: Mapping[str, Any]) -> None:
    """Prints a line if the data set is far smaller than batch and number of steps are made for."""
    images, batch, steps = (
        params[name] for name in ("num_train_images", "train_batch_size", "train_steps")
    )
    epochs = steps * batch / images
    is_given = records.has_files(params["data_dir"]) or params["bigtable_instance"]
    if is_given and (batch > images or epochs > _MANY_EPOCHS):
        logging.warning(
            f"{images} training images are few for a batch of {batch} and {steps} steps, which are "
            f"{epochs:.0f} epochs: --config_file=cpu has a smaller batch and "
            "--config_file=finetune, with --init_checkpoint, fewer steps, too; or give "
            "--train_batch_size and --train_steps."
        )


def _log_fine_tuning(params: Mapping[str, Any]) -> None:
    """Prints a line on the settings with defaults of fine-tuning, and one on what is frozen."""
    given = params["init_checkpoint"]
    if given and checkpoints.has_any(params["model_dir"]):
        logging.info(
            f"--init_checkpoint={given} is not read again: {params['model_dir']} has a checkpoint "
            "to resume from."
        )
    elif given:
        values = [
            f"{name}={params[name]:g}" + ("" if params[name] == default else " (given)")
            for name, default in settings.fine_tuning_defaults().items()
        ]
        logging.info(f"Fine-tuning from {given}: {', '.join(values)}.")
    if params["freeze_backbone"]:
        logging.info("Frozen: all but the classifier.")
    elif network.frozen(params):
        logging.info(f"Frozen: the stem and the blocks up to {network.frozen(params)}.")
