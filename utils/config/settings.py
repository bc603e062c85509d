"""Defines every setting of the program once: name, type, default, limits and help.

The command line, the YAML files, `--help` and the default `params` of the model function follow
from the table below. None always means "unset". 0 and False are values, but for the few settings
where the published program writes 0 for "unset" (`zero_is_unset`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from utils.base.errors import UserError, excerpt
from utils.config.setting import Setting

IMAGENET_TRAIN_IMAGES = 1281167
IMAGENET_EVAL_IMAGES = 50000
IMAGENET_CLASSES = 1000
# No training reaches these, and their product still fits in 64 bits.
MOST_STEPS = 10**9
MOST_IMAGES = 10**9
MOST_BATCH = 2**20


GROUPS: dict[str, tuple[Setting, ...]] = {
    "Where things are": (
        Setting("mode", str, "train_and_eval", "What to do.",
                choices=("train_and_eval", "train", "eval", "export_only")),
        Setting("data_dir", str, None, "Folder or bucket with train-* and validation-* TFRecords; "
                "'null' feeds black images, to measure a model alone."),
        Setting("model_dir", str, None, "Folder or bucket for checkpoints and summaries."),
        Setting("config_file", str, None, "YAML file of settings, or the name of a profile that "
                "ships with the package (cpu, gpu, v3-8, v2-32, finetune, sample), or the settings "
                "themselves as --params_override takes them.", maximum=100_000),
        Setting("params_override", str, None, "More settings, over those of --config_file: "
                "'name=value,name=value', a YAML mapping, or a file or profile as --config_file "
                "takes it.", maximum=100_000),
    ),
    "Device": (
        Setting("use_tpu", bool, None, "Run on a TPU.",
                unset="on a TPU if --tpu or TPU_NAME names one, else on the GPU or CPU here"),
        Setting("tpu", str, None, "Name or grpc:// address of the Cloud TPU; 'local' on a TPU VM.",
                unset="the environment variable TPU_NAME"),
        Setting("gcp_project", str, None, "Google Cloud project of the TPU and of Bigtable.",
                unset="the one of the credentials", alias="project"),
        Setting("tpu_zone", str, None, "Zone of the TPU.", unset="this machine's", alias="zone"),
        Setting("iterations_per_loop", int, 1251, "Steps that a TPU runs between returns to the "
                "host (1 on GPU and CPU).", minimum=1, maximum=MOST_STEPS),
        Setting("transpose_input", bool, True, "Send batches to a TPU as [H, W, C, N] and "
                "transpose them there (never done on GPU and CPU)."),
        Setting("precision", str, "float32", "Precision of the activations; bfloat16 needs "
                "--use_keras=False. --use_bfloat16 is short for bfloat16.",
                choices=("float32", "bfloat16"), alias="use_bfloat16",
                alias_values={True: "bfloat16", False: "float32"}),
        Setting("data_format", str, "channels_last", "Layout of the activations; channels_first "
                "needs a GPU.", choices=("channels_last", "channels_first")),
        Setting("skip_host_call", bool, False, "Write no training summaries on a TPU."),
        Setting("num_workers", str, "1", "Processes that train together on this machine, each on a "
                "GPU of its own where there are GPUs; auto for all GPUs. TF_CONFIG and srun name "
                "the workers of several machines without it."),
        Setting("max_restarts", int, 3, "How often to start the workers again from the last "
                "checkpoint when one of them was lost.", minimum=0, maximum=1_000_000),
        Setting("step_timeout", float, 600.0, "Seconds without a training step, or without a "
                "worker that should have come, after which a worker ends.", above=0, maximum=10**6),
    ),
    "Model": (
        Setting("model_name", str, "mnasnet-a1", "Architecture: mnasnet-a1, mnasnet-b1, "
                "mnasnet-small, mnasnet-d1 or mnasnet-d1-320; with --model_spec, its name."),
        Setting("model_spec", object, None, "YAML file that describes an architecture of your own.",
                unset="a built-in architecture"),
        Setting("depth_multiplier", float, None, "Scales the filters of stem and blocks; 0 for no "
                "scaling.", unset="no scaling", above=0, maximum=10, zero_is_unset=True),
        Setting("depth_divisor", int, None, "Scaled filters are multiples of this.", unset="8",
                minimum=1, maximum=1024),
        Setting("min_depth", int, None, "Smallest number of filters after scaling; 0 for the depth "
                "divisor.", unset="the depth divisor", minimum=1, maximum=1024, zero_is_unset=True),
        Setting("use_keras", bool, None, "Keras layers for convolutions, else tf.layers; it decides"
                " the names in checkpoints.", unset="the model's own; tf.layers with bfloat16"),
        Setting("dropout_rate", float, None, "Dropout before the classifier.",
                unset="the model's own", minimum=0, below=1),
        Setting("batch_norm_momentum", float, None, "Decay of the moving means and variances.",
                unset="the model's own, 0.99", minimum=0, below=1, fine_tuning=0.9),
        Setting("sync_batch_norm", bool, False, "Normalize each batch by its statistics over all "
                "workers, instead of each worker's part by its own."),
        Setting("batch_norm_epsilon", float, None, "Added to variances in batch normalization; 0 "
                "for the model's own.", unset="the model's own, 0.001", minimum=1e-12, maximum=1,
                zero_is_unset=True),
        Setting("num_label_classes", int, None, "Number of classes.",
                unset="dataset_info.json's, else 1000", minimum=2, maximum=1_000_000),
    ),
    "Training": (
        Setting("train_steps", int, 437898, "Global step at which training ends (350 epochs of "
                "ImageNet by default).", minimum=1, maximum=MOST_STEPS),
        Setting("train_batch_size", int, 1024, "Images a step, over all cores.", minimum=1,
                maximum=MOST_BATCH),
        Setting("num_train_images", int, None, "Images an epoch.",
                unset="dataset_info.json's, else 1281167", minimum=1, maximum=MOST_IMAGES),
        Setting("base_learning_rate", float, 0.016, "Learning rate for a batch of 256; it scales "
                "with the batch.", minimum=0, maximum=1000, fine_tuning=0.008),
        Setting("warmup_epochs", float, 5.0, "Epochs of linear warm-up from 0.", minimum=0,
                maximum=10_000, fine_tuning=1.0),
        Setting("lr_decay_rate", float, 0.97, "Factor of the learning rate's staircase.",
                minimum=1e-6, maximum=10),
        Setting("lr_decay_epochs", float, 2.4, "Epochs between the steps of the staircase.",
                minimum=1e-6, maximum=10_000),
        Setting("momentum", float, 0.9, "Momentum of RMSProp.", minimum=0, below=1),
        Setting("rmsprop_decay", float, 0.9, "Decay of RMSProp's mean square.", minimum=0, below=1),
        Setting("rmsprop_epsilon", float, 0.001, "Added to RMSProp's mean square.", minimum=1e-20,
                maximum=1),
        Setting("weight_decay", float, 1e-5, "Factor of the L2 loss of all but batch-norm "
                "variables.", minimum=0, maximum=1),
        Setting("label_smoothing", float, 0.1, "Share of the label spread over all classes.",
                minimum=0, below=1),
        Setting("moving_average_decay", float, 0.9999, "Decay of the averaged weights; 0 for "
                "none.", minimum=0, below=1),
        Setting("init_checkpoint", str, None, "Checkpoint or folder to fine-tune from, a "
                "weights file of PyTorch, or weights to fetch: hf://OWNER/REPOSITORY or an "
                "https:// address."),
        Setting("freeze_backbone", bool, False, "Train the classifier alone; all other layers, "
                "batch normalization too, stay as --init_checkpoint has them."),
        Setting("freeze_until", str, None, "block_N: the stem and the blocks 0 to N, batch "
                "normalization too, stay as --init_checkpoint has them; none: all layers train.",
                unset="none"),
        Setting("cached_views", int, 0, "With --freeze_backbone: compute the features of so many "
                "augmented views of each picture once, and train on these; 0 reads the pictures in "
                "each epoch.", minimum=0, maximum=1000),
        Setting("tf_random_seed", int, None, "Seed of initial weights, shuffling, augmentation "
                "and dropout.", unset="another seed each run", minimum=0, maximum=2**62),
        Setting("log_step_count_steps", int, 64, "Steps between lines in the log and summaries.",
                minimum=1, maximum=MOST_STEPS),
        Setting("add_summaries", bool, True, "Write training summaries for TensorBoard."),
        Setting("add_histograms", bool, False, "Write histograms of the weights, too."),
        Setting("save_checkpoints_steps", int, None, "Steps between checkpoints.",
                unset="on a TPU iterations_per_loop or 100, else steps_per_eval or 1000",
                minimum=1, maximum=MOST_STEPS),
        Setting("keep_checkpoint_max", int, 5, "Checkpoints to keep; 0 for all. The best stays in "
                "archive/.", minimum=0, maximum=1_000_000),
        Setting("use_async_checkpointing", bool, False, "Save checkpoints in the background."),
        Setting("quantized_training", bool, False, "Flag of the published program, for training "
                "with imitated 8-bit rounding; only False is taken here, --quantize=int8 quantizes "
                "after the training."),
        Setting("quantization_delay_epochs", int, 0, "Flag of the published program, for the "
                "epochs before that rounding; only 0 is taken here.", minimum=0, maximum=10_000),
    ),
    "Evaluation": (
        Setting("eval_batch_size", int, 1024, "Images a step, over all cores (at most "
                "num_eval_images on GPU and CPU).", minimum=1, maximum=MOST_BATCH),
        Setting("num_eval_images", int, None, "Images to evaluate.",
                unset="dataset_info.json's, else 50000", minimum=1, maximum=MOST_IMAGES),
        Setting("steps_per_eval", int, 6255, "Training steps between evaluations.", minimum=1,
                maximum=MOST_STEPS),
        Setting("eval_timeout", int, None, "Seconds that --mode=eval waits for a checkpoint.",
                unset="for ever", minimum=0, maximum=10**9),
        Setting("eval_after_training", bool, False, "Evaluate the last checkpoint of a --mode=train"
                "; --mode=train_and_eval always does."),
        Setting("report", bool, False, "At the end of a training or an evaluation, write "
                "model_dir/report/report.html: a page with confused classes, wrong pictures and "
                "curves."),
        Setting("eval_master", str, None, "Flag of the published program, for the address of "
                "another machine that evaluates; only an empty one is taken here, --mode=eval runs "
                "on any machine.", unset="empty"),
    ),
    "Input": (
        Setting("train_files", str, None, "Patterns of the names of the training files, joined by "
                "commas: relative to --data_dir, or absolute.", unset="train-*"),
        Setting("eval_files", str, None, "Likewise of the evaluation files.",
                unset="validation-*"),
        Setting("record_keys", str, None, "Features of a record that hold the encoded picture and "
                "the label: image=NAME,label=NAME.",
                unset="image=image/encoded,label=image/class/label"),
        Setting("first_label", int, 1, "Label of the first class in the records.", minimum=0,
                maximum=1_000_000),
        Setting("input_image_size", int, 224, "Side of the images in pixels.", minimum=32,
                maximum=4096),
        Setting("resize_method", str, "bicubic", "Resizing kernel: bicubic at the date of the "
                "published accuracies, bilinear since July 2019.", choices=("bicubic", "bilinear")),
        Setting("eval_crop_share", float, None, "Side of the centre square that evaluations and "
                "exports cut out, as a share of the picture's shorter side.",
                unset="size / (size + 32), as published", above=0, maximum=1),
        Setting("min_crop_area", float, 0.08, "Smallest area of a training crop, as a share of the "
                "picture.", minimum=1e-6, maximum=1),
        Setting("random_flip", bool, True, "Mirror half of the training pictures."),
        Setting("num_parallel_calls", int, 64, "Pictures decoded at a time (at most twice the "
                "cores).", minimum=1, maximum=1_000_000),
        Setting("skip_bad_images", bool, False, "Leave out damaged records and pictures instead of "
                "stopping; the first run looks for them and keeps the list in model_dir. A file "
                "that was cut short is still an error, because its loss cannot be counted."),
        Setting("use_cache", bool, None, "Keep the encoded training pictures in memory.",
                unset="if they fit in a quarter of the free memory"),
    ),
    "Input from Cloud Bigtable": (
        Setting("bigtable_project", str, None, "Project of the instance.", unset="--gcp_project"),
        Setting("bigtable_instance", str, None, "Instance; naming one reads from Bigtable."),
        Setting("bigtable_table", str, "imagenet", "Table."),
        Setting("bigtable_train_prefix", str, "train_", "Prefix of the training rows' keys."),
        Setting("bigtable_eval_prefix", str, "validation_", "Prefix of the evaluation rows' keys."),
        Setting("bigtable_column_family", str, "tfexample", "Column family."),
        Setting("bigtable_column_qualifier", str, "example", "Column qualifier."),
    ),
    "Export": (
        Setting("export_dir", str, None, "Folder or bucket for the SavedModel and the .tflite "
                "files; a training and --mode=eval export at their end."),
        Setting("export_checkpoint", str, None, "Checkpoint to export with --mode=export_only; "
                "'best' is the archived one.", unset="the latest of model_dir"),
        Setting("export_moving_average", bool, True, "Export the averaged weights if the "
                "checkpoint has them."),
        Setting("export_to_tpu", bool, False, "Add a graph for TPUs to the SavedModel, under the "
                "tags serve and tpu; making it needs no TPU."),
        Setting("post_quantize", bool, False, "Also write a .tflite file with weights quantized "
                "to 8 bits."),
        Setting("quantize", str, None, "More .tflite files: float16, int8 (whole numbers "
                "alone) or both, joined by a comma.", unset="none"),
        Setting("tflite_contract", str, "app", "What the .tflite files take and give. app: RGB in "
                "[0, 255], `images`, and probabilities, `probabilities`. published: normalized "
                "pixels, `truediv`, and `logits`, as historical files.",
                choices=("app", "published")),
        Setting("export_normalized_input", bool, False, "The float .tflite files of "
                "--tflite_contract=app take normalized pixels, (x - mean) / std, under the same "
                "names; int8 files still take raw pixels. All files of "
                "--tflite_contract=published take normalized pixels anyway."),
        Setting("export_eval_images", int, None, "Evaluation images that measure each exported "
                "file.", unset="all", minimum=1, maximum=MOST_IMAGES),
    ),
}  # fmt: skip

SETTINGS: dict[str, Setting] = {s.name: s for group in GROUPS.values() for s in group}

# The meaning of a checkpoint's weights depends on these: a run that resumes must agree with the
# checkpoint, and takes what it does not give from params.yaml in model_dir.
ARCHITECTURE = (
    "model_name", "model_spec", "num_label_classes", "depth_multiplier", "depth_divisor",
    "min_depth", "use_keras", "batch_norm_epsilon",
)  # fmt: skip
# A run that resumes takes these from params.yaml as well, but may give other values.
CARRIED = (*ARCHITECTURE, "input_image_size", "resize_method", "eval_crop_share")
# How the records of a data set are found and read. A run that resumes takes these from params.yaml
# if it reads the same folder; commands that read records have flags of these names.
RECORDS = ("train_files", "eval_files", "record_keys", "first_label")


def default_params() -> dict[str, Any]:
    """Returns the complete default `params` of `mnasnet_main.mnasnet_model_fn`.

    The dict maps a setting's name to its default; the counts of images and classes are ImageNet's.
    """
    params = {name: setting.default for name, setting in SETTINGS.items()}
    return with_imagenet_counts(params)


def fine_tuning_defaults() -> dict[str, Any]:
    """Returns the defaults that differ if --init_checkpoint is given: setting name -> value."""
    return {n: s.fine_tuning for n, s in SETTINGS.items() if s.fine_tuning is not None}


def with_imagenet_counts(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings whose unset counts of images and classes are ImageNet's."""
    counts = {
        "num_train_images": IMAGENET_TRAIN_IMAGES,
        "num_eval_images": IMAGENET_EVAL_IMAGES,
        "num_label_classes": IMAGENET_CLASSES,
    }
    return {**params, **{k: v for k, v in counts.items() if params[k] is None}}


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


def check_known(names, source: str) -> None:
    """Raises UserError for the first unknown name; the message names the most similar setting."""
    for name in names:
        if name not in SETTINGS:
            near = difflib.get_close_matches(str(name), SETTINGS, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see --help for the settings."
            raise UserError(f"{source} has the unknown setting {excerpt(repr(name))}: {hint}")


def convert(name: str, value: Any, given: str) -> Any:
    """Returns a value in the type of a setting; None stays None.

    Args:
      name: of the setting.
      value: from a flag or a YAML file; 0 becomes None for a setting with `zero_is_unset`.
      given: how the user gave it, for the error: '--name=value' or 'FILE: name=value'.

    Raises:
      UserError: the value cannot be converted, or lies outside the limits of the setting.
    """
    return SETTINGS[name].convert(value, given)
