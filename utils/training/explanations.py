"""Turns the errors of a run into sentences that name the record, flag or variable."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base import disk_errors, files
from utils.base.errors import UserError
from utils.reading import bigtable_dataset, records, scan
from utils.training import checkpoints, inputs

import tensorflow.compat.v1 as tf  # isort: skip


@contextlib.contextmanager
def explaining_errors(params, is_training):
    """Turns an error of a run into a sentence."""
    try:
        yield
    except tf.train.NanLossDuringTrainingError as e:
        raise UserError(
            "The loss is not a number: lower --base_learning_rate, or check the labels."
        ) from e
    except tf.errors.NotFoundError as e:
        if "not found in checkpoint" not in str(e):
            raise
        raise UserError(
            f"The checkpoint in --model_dir={params['model_dir']} lacks variables that these "
            "settings need: use those it was made with (moving_average_decay, use_keras), or start "
            "from it in a new folder with --init_checkpoint."
        ) from e
    except RuntimeError as e:
        if "TPU cores" not in str(e):
            raise
        raise UserError(
            f"--tpu={params['tpu']} has no TPU cores: run on a TPU VM with its TensorFlow, or use "
            "--use_tpu=False."
        ) from e
    except (tf.errors.OpError, *scan.DATA_ERRORS) as e:
        reason = explanation(e, is_training, params)
        if reason is None:
            raise
        raise reason from e


@contextlib.contextmanager
def explaining_disk_errors(params):
    """Turns an error of the disk into a sentence that also says what is kept."""
    try:
        yield
    except disk_errors.ERRORS as e:
        failure = disk_errors.find(e)
        if failure is None:
            raise
        kept = checkpoints.latest(params["model_dir"])
        raise UserError(f"{failure}" + (f" ({kept} is kept)." if kept else ".")) from e


def explanation(error: Exception, is_training: bool, params: Mapping[str, Any]) -> UserError | None:
    """The sentence that names the record at which the input failed; None if it was not the input.

    Args:
      error: what the run ended with.
      is_training: whether it was a training.
      params: all settings.
    """
    if params["bigtable_instance"] and bigtable_dataset.first_error():
        return bigtable_dataset.first_error()
    has_records = params["bigtable_instance"] or params["data_dir"] not in (None, "null")
    if not has_records or not isinstance(error, scan.DATA_ERRORS):
        return None
    logging.info("The input failed (%s); looking for the record.", files.reason(error)[:200])
    if params["bigtable_instance"]:
        return bigtable_dataset.first_bad_row(
            inputs.rows(is_training, params), inputs.num_images(is_training, params)
        )
    paths = records.list_files(params["data_dir"], inputs.file_prefix(is_training))
    found = scan.first_problem(paths, params["num_label_classes"])
    return UserError(str(found)) if found else None
