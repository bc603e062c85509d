"""Defines every setting of the program once: name, type, default, limits and help.

The command line, the YAML files, `--help` and the default `params` of the model function follow
from the table below. None always means "unset". 0 and False are values, but for the few settings
where the published program writes 0 for "unset" (`zero_is_unset`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.base import files
from utils.base.errors import UserError, excerpt

IMAGENET_TRAIN_IMAGES = 1281167
IMAGENET_EVAL_IMAGES = 50000
IMAGENET_CLASSES = 1000

# In which order the settings of a run are merged, as `utils.training.configuration` does it.
ORDER = (
    "the defaults (with --init_checkpoint those of fine-tuning), params.yaml next to the "
    "checkpoint (network and images), dataset_info.json next to the data (counts of images and "
    "classes), --config_file, --params_override, flags"
)


class Limits(NamedTuple):
    """The numbers that a setting may have; None for no limit on this side."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None


ANY = Limits()
# No training reaches the largest number, and the product of two still fits in 64 bits.
COUNT = Limits(minimum=1, maximum=10**9)
NATURAL = Limits(minimum=0, maximum=10**9)
POSITIVE = Limits(above=0, maximum=10**6)
RATE = Limits(minimum=0, below=1)
SHARE = Limits(above=0, maximum=1)
DEPTH = Limits(minimum=1, maximum=1024)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Describes one setting.

    Attributes:
      kind: bool, int, float, str, or object (a str or a mapping).
      help: one sentence; `--help` adds the default.
      default: the value if nothing else gives one.
      limits: of a number.
      unset: what None means, for `--help`.
      choices: the only valid values; None for no such limit.
      alias: a second flag.
      fine_tuning: the default if --init_checkpoint is given; None if it does not differ.
      zero_is_unset: whether 0 means what None means, as in the published program's own defaults.
    """

    kind: type
    help: str
    default: Any = None
    limits: Limits = ANY
    unset: str = "unset"
    choices: tuple[str, ...] | None = None
    alias: str | None = None
    fine_tuning: Any = None
    zero_is_unset: bool = False

    @property
    def default_text(self) -> str:
        """The default as `--help` shows it."""
        return self.unset if self.default is None else str(self.default)


boolean = functools.partial(Setting, bool)
whole = functools.partial(Setting, int)
number = functools.partial(Setting, float)
text = functools.partial(Setting, str)

# Title in `--help` -> name of the flag, of the YAML key and of the entry of `params` -> setting.
GROUPS: dict[str, dict[str, Setting]] = {
    "Where things are": {
        "mode": text(
            "What to do.",
            "train_and_eval",
            choices=("train_and_eval", "train", "eval", "export_only"),
        ),
        "data_dir": text(
            "Folder or bucket with train-* and validation-* TFRecords; 'null' feeds black images, "
            "to measure a model alone."
        ),
        "model_dir": text("Folder or bucket for checkpoints and summaries."),
        "config_file": text(
            "YAML file of settings, or the name of a profile that ships with the package (cpu, "
            "gpu, v3-8, v2-32, finetune, sample), or the settings themselves as --params_override "
            "takes them."
        ),
        "params_override": text(
            "More settings, over those of --config_file: 'name=value,name=value', a YAML mapping, "
            "or a file or profile as --config_file takes it."
        ),
    },
    "Device": {
        "use_tpu": boolean(
            "Run on a TPU.",
            unset="on a TPU if --tpu or TPU_NAME names one, else on the GPU or CPU here",
        ),
        "tpu": text(
            "Name or grpc:// address of the Cloud TPU; 'local' on a TPU VM.",
            unset="the environment variable TPU_NAME",
        ),
        "gcp_project": text(
            "Google Cloud project of the TPU and of Bigtable.",
            unset="the one of the credentials",
            alias="project",
        ),
        "tpu_zone": text("Zone of the TPU.", unset="this machine's", alias="zone"),
        "iterations_per_loop": whole(
            "Steps that a TPU runs between returns to the host (1 on GPU and CPU).", 1251, COUNT
        ),
        "transpose_input": boolean(
            "Send batches to a TPU as [H, W, C, N] and transpose them there (never done on GPU "
            "and CPU).",
            True,
        ),
        "precision": text(
            "Precision of the activations; bfloat16 needs --use_keras=False. --use_bfloat16 is "
            "short for bfloat16.",
            "float32",
            choices=("float32", "bfloat16"),
        ),
        "data_format": text(
            "Layout of the activations; channels_first needs a GPU.",
            "channels_last",
            choices=("channels_last", "channels_first"),
        ),
        "skip_host_call": boolean("Write no training summaries on a TPU.", False),
        "num_workers": text(
            "Processes that train together on this machine, each on a GPU of its own where there "
            "are GPUs; auto for all GPUs. TF_CONFIG and srun name the workers of several machines "
            "without it.",
            "1",
        ),
        "max_restarts": whole(
            "How often to start the workers again from the last checkpoint when one of them was "
            "lost.",
            3,
            NATURAL,
        ),
        "step_timeout": number(
            "Seconds without a training step, or without a worker that should have come, after "
            "which a worker ends.",
            600.0,
            POSITIVE,
        ),
    },
    "Model": {
        "model_name": text(
            "Architecture: mnasnet-a1, mnasnet-b1, mnasnet-small, mnasnet-d1 or mnasnet-d1-320; "
            "with --model_spec, its name.",
            "mnasnet-a1",
        ),
        "model_spec": Setting(
            object,
            "YAML file that describes an architecture of your own.",
            unset="a built-in architecture",
        ),
        "depth_multiplier": number(
            "Scales the filters of stem and blocks; 0 for no scaling.",
            limits=Limits(above=0, maximum=10),
            unset="no scaling",
            zero_is_unset=True,
        ),
        "depth_divisor": whole("Scaled filters are multiples of this.", limits=DEPTH, unset="8"),
        "min_depth": whole(
            "Smallest number of filters after scaling; 0 for the depth divisor.",
            limits=DEPTH,
            unset="the depth divisor",
            zero_is_unset=True,
        ),
        "use_keras": boolean(
            "Keras layers for convolutions, else tf.layers; it decides the names in checkpoints.",
            unset="the model's own; tf.layers with bfloat16",
        ),
        "dropout_rate": number(
            "Dropout before the classifier.", limits=RATE, unset="the model's own"
        ),
        "batch_norm_momentum": number(
            "Decay of the moving means and variances.",
            limits=RATE,
            unset="the model's own, 0.99",
            fine_tuning=0.9,
        ),
        "sync_batch_norm": boolean(
            "Normalize each batch by its statistics over all workers, instead of each worker's "
            "part by its own.",
            False,
        ),
        "batch_norm_epsilon": number(
            "Added to variances in batch normalization; 0 for the model's own.",
            limits=SHARE,
            unset="the model's own, 0.001",
            zero_is_unset=True,
        ),
        "num_label_classes": whole(
            "Number of classes.",
            limits=Limits(minimum=2, maximum=10**6),
            unset="dataset_info.json's, else 1000",
        ),
    },
    "Training": {
        "train_steps": whole(
            "Global step at which training ends (350 epochs of ImageNet by default).", 437898, COUNT
        ),
        "train_batch_size": whole("Images a step, over all cores.", 1024, COUNT),
        "num_train_images": whole(
            "Images an epoch.", limits=COUNT, unset="dataset_info.json's, else 1281167"
        ),
        "base_learning_rate": number(
            "Learning rate for a batch of 256; it scales with the batch.",
            0.016,
            Limits(minimum=0, maximum=1000),
            fine_tuning=0.008,
        ),
        "warmup_epochs": number(
            "Epochs of linear warm-up from 0.",
            5.0,
            Limits(minimum=0, maximum=10**6),
            fine_tuning=1.0,
        ),
        "lr_decay_rate": number(
            "Factor of the learning rate's staircase.", 0.97, Limits(above=0, maximum=10)
        ),
        "lr_decay_epochs": number("Epochs between the steps of the staircase.", 2.4, POSITIVE),
        "momentum": number("Momentum of RMSProp.", 0.9, RATE),
        "rmsprop_decay": number("Decay of RMSProp's mean square.", 0.9, RATE),
        "rmsprop_epsilon": number("Added to RMSProp's mean square.", 0.001, SHARE),
        "weight_decay": number(
            "Factor of the L2 loss of all but batch-norm variables.",
            1e-5,
            Limits(minimum=0, maximum=1),
        ),
        "label_smoothing": number("Share of the label spread over all classes.", 0.1, RATE),
        "moving_average_decay": number("Decay of the averaged weights; 0 for none.", 0.9999, RATE),
        "init_checkpoint": text(
            "Checkpoint or folder to fine-tune from, a weights file of PyTorch, or weights to "
            "fetch: hf://OWNER/REPOSITORY or an https:// address."
        ),
        "freeze_backbone": boolean(
            "Train the classifier alone; all other layers, batch normalization too, stay as "
            "--init_checkpoint has them.",
            False,
        ),
        "freeze_until": text(
            "block_N: the stem and the blocks 0 to N, batch normalization too, stay as "
            "--init_checkpoint has them; none: all layers train.",
            unset="none",
        ),
        "cached_views": whole(
            "With --freeze_backbone: compute the features of so many augmented views of each "
            "picture once, and train on these; 0 reads the pictures in each epoch.",
            0,
            NATURAL,
        ),
        "tf_random_seed": whole(
            "Seed of initial weights, shuffling, augmentation and dropout.",
            limits=Limits(minimum=0, maximum=2**62),
            unset="another seed each run",
        ),
        "log_step_count_steps": whole("Steps between lines in the log and summaries.", 64, COUNT),
        "add_summaries": boolean("Write training summaries for TensorBoard.", True),
        "add_histograms": boolean("Write histograms of the weights, too.", False),
        "save_checkpoints_steps": whole(
            "Steps between checkpoints.",
            limits=COUNT,
            unset="on a TPU iterations_per_loop or 100, else steps_per_eval or 1000",
        ),
        "keep_checkpoint_max": whole(
            "Checkpoints to keep; 0 for all. The best stays in archive/.", 5, NATURAL
        ),
        "use_async_checkpointing": boolean("Save checkpoints in the background.", False),
        "quantized_training": boolean(
            "Flag of the published program, for training with imitated 8-bit rounding; only False "
            "is taken here, --quantize=int8 quantizes after the training.",
            False,
        ),
        "quantization_delay_epochs": whole(
            "Flag of the published program, for the epochs before that rounding; only 0 is taken "
            "here.",
            0,
            NATURAL,
        ),
    },
    "Evaluation": {
        "eval_batch_size": whole(
            "Images a step, over all cores (at most num_eval_images on GPU and CPU).", 1024, COUNT
        ),
        "num_eval_images": whole(
            "Images to evaluate.", limits=COUNT, unset="dataset_info.json's, else 50000"
        ),
        "steps_per_eval": whole("Training steps between evaluations.", 6255, COUNT),
        "eval_timeout": whole(
            "Seconds that --mode=eval waits for a checkpoint.", limits=NATURAL, unset="for ever"
        ),
        "eval_after_training": boolean(
            "Evaluate the last checkpoint of a --mode=train; --mode=train_and_eval always does.",
            False,
        ),
        "report": boolean(
            "At the end of a training or an evaluation, write model_dir/report/report.html: a "
            "page with confused classes, wrong pictures and curves.",
            False,
        ),
        "eval_master": text(
            "Flag of the published program, for the address of another machine that evaluates; "
            "only an empty one is taken here, --mode=eval runs on any machine.",
            unset="empty",
        ),
    },
    "Input": {
        "train_files": text(
            "Patterns of the names of the training files, joined by commas: relative to "
            "--data_dir, or absolute.",
            unset="train-*",
        ),
        "eval_files": text("Likewise of the evaluation files.", unset="validation-*"),
        "record_keys": text(
            "Features of a record that hold the encoded picture and the label: "
            "image=NAME,label=NAME.",
            unset="image=image/encoded,label=image/class/label",
        ),
        "first_label": whole("Label of the first class in the records.", 1, NATURAL),
        "input_image_size": whole(
            "Side of the images in pixels.", 224, Limits(minimum=32, maximum=4096)
        ),
        "resize_method": text(
            "Resizing kernel: bicubic at the date of the published accuracies, bilinear since "
            "July 2019.",
            "bicubic",
            choices=("bicubic", "bilinear"),
        ),
        "eval_crop_share": number(
            "Side of the centre square that evaluations and exports cut out, as a share of the "
            "picture's shorter side.",
            limits=SHARE,
            unset="size / (size + 32), as published",
        ),
        "min_crop_area": number(
            "Smallest area of a training crop, as a share of the picture.", 0.08, SHARE
        ),
        "random_flip": boolean("Mirror half of the training pictures.", True),
        "num_parallel_calls": whole(
            "Pictures decoded at a time (at most twice the cores).", 64, COUNT
        ),
        "skip_bad_images": boolean(
            "Leave out damaged records and pictures instead of stopping; the first run looks for "
            "them and keeps the list in model_dir. A file that was cut short is still an error, "
            "because its loss cannot be counted.",
            False,
        ),
        "use_cache": boolean(
            "Keep the encoded training pictures in memory.",
            unset="if they fit in a quarter of the free memory",
        ),
    },
    "Input from Cloud Bigtable": {
        "bigtable_project": text("Project of the instance.", unset="--gcp_project"),
        "bigtable_instance": text("Instance; naming one reads from Bigtable."),
        "bigtable_table": text("Table.", "imagenet"),
        "bigtable_train_prefix": text("Prefix of the training rows' keys.", "train_"),
        "bigtable_eval_prefix": text("Prefix of the evaluation rows' keys.", "validation_"),
        "bigtable_column_family": text("Column family.", "tfexample"),
        "bigtable_column_qualifier": text("Column qualifier.", "example"),
    },
    "Export": {
        "export_dir": text(
            "Folder or bucket for the SavedModel and the .tflite files; a training and "
            "--mode=eval export at their end."
        ),
        "export_checkpoint": text(
            "Checkpoint to export with --mode=export_only; 'best' is the archived one.",
            unset="the latest of model_dir",
        ),
        "export_moving_average": boolean(
            "Export the averaged weights if the checkpoint has them.", True
        ),
        "export_to_tpu": boolean(
            "Add a graph for TPUs to the SavedModel, under the tags serve and tpu; making it "
            "needs no TPU.",
            False,
        ),
        "post_quantize": boolean(
            "Also write a .tflite file with weights quantized to 8 bits.", False
        ),
        "quantize": text(
            "More .tflite files: float16, int8 (whole numbers alone) or both, joined by a comma.",
            unset="none",
        ),
        "tflite_contract": text(
            "What the .tflite files take and give. app: RGB in [0, 255], `images`, and "
            "probabilities, `probabilities`. published: normalized pixels, `truediv`, and "
            "`logits`, as historical files.",
            "app",
            choices=("app", "published"),
        ),
        "export_eval_images": whole(
            "Evaluation images that measure each exported file.", limits=COUNT, unset="all"
        ),
    },
}

SETTINGS: dict[str, Setting] = {
    name: setting for group in GROUPS.values() for name, setting in group.items()
}

# What belongs to a checkpoint: the network, and the size and the preparation of its images. A run
# that resumes takes from params.yaml in model_dir what it does not give; its network must be the
# checkpoint's.
CARRIED = (
    "model_name",
    "model_spec",
    "num_label_classes",
    "depth_multiplier",
    "depth_divisor",
    "min_depth",
    "use_keras",
    "batch_norm_epsilon",
    "input_image_size",
    "resize_method",
    "eval_crop_share",
)
# How the records of a data set are found and read. A run that resumes takes these from params.yaml
# if it reads the same folder; commands that read records have flags of these names.
RECORDS = ("train_files", "eval_files", "record_keys", "first_label")


def default_params() -> dict[str, Any]:
    """Returns the complete default `params` of `mnasnet_main.mnasnet_model_fn`.

    The dict maps a setting's name to its default; the counts of images and classes are ImageNet's.
    """
    return {
        **{name: setting.default for name, setting in SETTINGS.items()},
        "num_train_images": IMAGENET_TRAIN_IMAGES,
        "num_eval_images": IMAGENET_EVAL_IMAGES,
        "num_label_classes": IMAGENET_CLASSES,
    }


def fine_tuning_defaults() -> dict[str, Any]:
    """Returns the defaults that differ if --init_checkpoint is given: setting name -> value."""
    return {n: s.fine_tuning for n, s in SETTINGS.items() if s.fine_tuning is not None}


def completed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns complete settings: those given, and the defaults of those that are missing or None.

    Names that are not settings stay: TPUEstimator adds some.

    Raises:
      UserError: a value is invalid.
    """
    given = {
        name: convert(name, value, f"params: {name}={value!r}") if name in SETTINGS else value
        for name, value in params.items()
    }
    return {**default_params(), **{name: v for name, v in given.items() if v is not None}}


_KIND_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    object: "a file name or a mapping",
}


_HOLDS = (operator.ge, operator.le, operator.gt, operator.lt)
_LIMIT_NAMES = ("at least", "at most", "greater than", "less than")


def convert(name: str, value: Any, given: str) -> Any:
    """Returns a value in the type of a setting, with ~ replaced; None stays None.

    Args:
      name: of the setting.
      value: from a flag or a YAML file; 0 becomes None for a setting with `zero_is_unset`.
      given: how the user gave it, for the error: '--name=value' or 'FILE: name=value'.

    Raises:
      UserError: the value cannot be converted, or lies outside the limits of the setting.
    """
    setting = SETTINGS[name]
    if value is None:
        return None
    converted = _to_kind(setting.kind, value)
    if converted is None:
        raise UserError(f"{excerpt(given)} is not {_KIND_NAMES[setting.kind]}.")
    if setting.zero_is_unset and converted == 0:
        return None
    if isinstance(converted, str):  # many are paths, and no other text begins with ~
        converted = files.expand_home(converted)
    wrong = _outside_limits(setting, converted)
    if wrong:
        raise UserError(f"{excerpt(given)} is invalid: {wrong}.")
    return converted


def _to_kind(kind: type, value: Any) -> Any:
    """Returns the value as `kind`; None if it cannot be converted."""
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return words.get(str(value).strip().lower())
    if kind is object:
        return value if isinstance(value, (str, dict)) else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if kind is str:
        return str(value)
    if kind is int and not isinstance(value, float):
        with contextlib.suppress(ValueError):  # a detour over float would keep 53 bits alone
            return int(value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        return None
    return kind(number)


def _outside_limits(setting: Setting, value: Any) -> str | None:
    """Returns what a value must be instead; None for a valid one."""
    if isinstance(value, str):
        if setting.choices is not None and value not in setting.choices:
            return f"choose one of {', '.join(setting.choices)}"
        # TensorFlow needs names in UTF-8, and cuts some off at a zero byte.
        if any((c < " " and c not in "\t\n") or "\ud800" <= c <= "\udfff" for c in value):
            return "it has a character that cannot be printed, or is not in UTF-8; rename it"
        return None
    for limit, holds, words in zip(setting.limits, _HOLDS, _LIMIT_NAMES, strict=True):
        if limit is not None and not holds(value, limit):
            return f"it must be {words} {limit}"
    return None
