"""Exports a checkpoint as SavedModel and TensorFlow Lite files, which are measured against it.

All files are made and measured in a folder of their own inside export_dir. When the export is
complete, each takes the place of the earlier one by a rename, so that readers see the old file or
the new one; the report comes last.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from absl import logging

import imagenet_input
from utils.base import files, folder_lock, memory
from utils.base.errors import UserError
from utils.config import settings
from utils.exporting import measure, metadata, samples, saved_model, tflite
from utils.reading import dataset_info, records
from utils.training import checkpoints, model_files

import tensorflow.compat.v1 as tf

LARGEST_DIFFERENCE = 1e-3
_UNFINISHED_DIR = "unfinished-mnasnet-export"


def check(params: Mapping[str, Any]) -> None:
    """Checks before hours of training that the export at their end is possible.

    Args:
      params: complete settings; without export_dir there is nothing to check.

    Raises:
      UserError: the folder cannot be written, it holds another program's file under a name that
        the export needs, or images are missing.
    """
    if not params["export_dir"]:
        return
    if files.absolute(params["export_dir"]) == files.absolute(params["model_dir"]):
        raise UserError(
            f"--export_dir={params['export_dir']} is the --model_dir, which has files of the same "
            "names: choose a folder of its own, such as one below it."
        )
    files.make_writable_dir(params["export_dir"], "export_dir")
    made = [_tflite_name(params, kind) for kind in _kinds(params)]
    if model_files.label_names(params):
        made.append(dataset_info.LABELS_FILE)
    _check_not_foreign(params["export_dir"], made, _earlier_files(params["export_dir"]))
    _check_images(params)


def _check_images(params: Mapping[str, Any]) -> None:
    data_dir = params["data_dir"]
    is_given = records.has_files(data_dir)
    if is_given and not tf.io.gfile.isdir(data_dir):
        raise UserError(f"--data_dir={data_dir} is not a folder: check the path.")
    if "int8" in _kinds(params) and not samples.has_split(params, imagenet_input.TRAIN_PREFIX):
        raise UserError(
            "--quantize=int8 needs training images for calibration: name their folder with "
            "--data_dir, or leave int8 out."
        )
    if is_given and not samples.has_split(params, imagenet_input.TRAIN_PREFIX):
        # It raises an error if these are missing, too.
        records.list_files(data_dir, imagenet_input.EVAL_PREFIX, params)


def export(params: Mapping[str, Any], checkpoint: str, model_fn: Callable) -> None:
    """Exports a checkpoint to params['export_dir'], in the place of an earlier export.

    Args:
      params: complete settings, for a network without TPU and bfloat16.
      checkpoint: path of the checkpoint.
      model_fn: the model function of an estimator.

    Raises:
      UserError: `check` fails, the checkpoint is damaged or of another network, or a file in
        float32 does not compute what the SavedModel computes.
    """
    check(params)
    export_dir = params["export_dir"]
    if not checkpoints.is_complete(checkpoint):
        raise UserError(
            f"{checkpoint} cannot be read, its files are damaged or cut short: copy it again, or "
            "name another one with --export_checkpoint."
        )
    start = time.monotonic()
    identity = _identity(params, checkpoint)
    with (
        folder_lock.hold(export_dir, "export_dir", "export"),
        _explaining_full_disk(export_dir),
        _unfinished(export_dir) as (folder, earlier),
        memory.no_collection(),
    ):
        with _local(folder) as made_in:
            made = _make(params, checkpoint, model_fn, made_in)
            _check_not_foreign(export_dir, list(made), earlier)
            if made_in != folder:
                for name in made:
                    files.copy(os.path.join(made_in, name), os.path.join(folder, name))
        measure.write_report(folder, {"identity": identity, "files": made})
        _place(folder, export_dir, made, earlier)
    logging.info(
        "Exported step %d to %s in %.1f s: %s.",
        identity["global_step"],
        export_dir,
        time.monotonic() - start,
        ", ".join(made),
    )


@contextlib.contextmanager
def _unfinished(export_dir: str) -> Iterator[tuple[str, set[str]]]:
    """Yields an empty folder inside export_dir for the block, and `_earlier_files`."""
    folder = os.path.join(export_dir, _UNFINISHED_DIR)
    earlier = _earlier_files(export_dir)
    files.remove(folder)
    files.make_dirs(folder)
    try:
        yield folder, earlier
    finally:
        files.remove(folder)


def _earlier_files(export_dir: str) -> set[str]:
    """Returns what earlier exports made, also one that was killed while its files were placed.

    Of that one the report, which is placed last, still lies with the unfinished files.
    """
    folders = (export_dir, os.path.join(export_dir, _UNFINISHED_DIR))
    reports = filter(None, map(measure.read_report, folders))
    return {name for report in reports for name in report["files"]}


def _place(folder: str, export_dir: str, names: Iterable[str], earlier: set[str]) -> None:
    """Renames files to their places; removes those that only earlier exports had."""
    for name in names:
        files.rename(os.path.join(folder, name), os.path.join(export_dir, name))
    for name in earlier - {*names}:
        files.remove(os.path.join(export_dir, name))
    report = measure.REPORT_FILE
    files.rename(os.path.join(folder, report), os.path.join(export_dir, report))


@contextlib.contextmanager
def _local(folder: str) -> Iterator[str]:
    """Yields the folder to make an export in: the one given, or a local one for a bucket."""
    if not files.is_remote(folder):
        yield folder
        return
    with files.temporary_folder("mnasnet-export-") as local:
        yield local


@contextlib.contextmanager
def _explaining_full_disk(export_dir: str) -> Iterator[None]:
    try:
        yield
    except files.failure_types() as e:
        failure = files.failure_of(e)
        if failure is None or export_dir not in (failure.path or ""):
            raise
        raise UserError(f"--export_dir={export_dir} cannot be written: {failure}.") from e


def _identity(params: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Returns what an export is made of, for its report."""
    names = (
        "model_name",
        "num_label_classes",
        "input_image_size",
        "resize_method",
        "eval_crop_share",
        "post_quantize",
        "quantize",
        "export_to_tpu",
        "export_moving_average",
        "tflite_contract",
        "export_eval_images",
        "num_eval_images",
        "skip_bad_images",
        *settings.RECORDS,
    )
    data_dir = params["data_dir"]
    return {
        "checkpoint": files.absolute(checkpoint),
        "global_step": checkpoints.step_of(checkpoint),
        "data_dir": files.absolute(data_dir) if records.has_files(data_dir) else None,
        **{name: params[name] for name in names},
    }


# AutoGraph, which nothing here needs, writes to the temporary folder what a kill would leave there.
@tf.autograph.experimental.do_not_convert
def _make(
    params: Mapping[str, Any], checkpoint: str, model_fn: Callable, folder: str
) -> dict[str, dict[str, Any]]:
    """Makes and measures all files in a local folder; returns name -> row of the report."""
    made: dict[str, dict[str, Any]] = {}
    names = model_files.label_names(params)
    if names:
        dataset_info.write_labels(folder, names)
        made[dataset_info.LABELS_FILE] = {"kind": measure.LABELS_KIND}
    with futures.ThreadPoolExecutor(1) as pool:
        # Reading runs next to building graphs, which takes one core.
        calibration = pool.submit(_calibration_images, params)
        saved = saved_model.write(params, checkpoint, model_fn, folder)
        path = os.path.join(folder, saved)
        made[saved] = {"kind": saved_model.KIND, "bytes": _size(path)}
        # What is served is also what is converted, and what the other files are compared with.
        served = saved_model.SavedModel(path)
        with _network(params, model_fn, served) as network:
            for kind in _kinds(params):
                name = _tflite_name(params, kind)
                content = network.convert(kind, calibration.result())
                description = metadata.Description(
                    network.contract, params["model_name"], names, network.preparation
                )
                content = metadata.add(content, description)
                files.write_bytes(os.path.join(folder, name), content)
                made[name] = {"kind": kind, "bytes": len(content)}
    _measure(params, served, folder, made)
    return made


@contextlib.contextmanager
def _network(
    params: Mapping[str, Any], model_fn: Callable, served: saved_model.SavedModel
) -> Iterator[tflite.Converter]:
    """Yields the network of a SavedModel; converters cannot read it in the layout for GPUs."""
    if params["data_format"] == "channels_last":
        yield tflite.Converter(served.session, params)
        return
    with tflite.restored(model_fn, params, saved_model.weights_in(served.path)) as network:
        yield network


def _calibration_images(params: Mapping[str, Any]) -> Sequence[np.ndarray]:
    """Returns the images that set the ranges of an int8 file; none if no such file is made."""
    return samples.calibration_images(params) if "int8" in _kinds(params) else ()


def _kinds(params: Mapping[str, Any]) -> list[str]:
    """Returns the kinds of .tflite files to make."""
    wanted = ["float32"] + (["dynamic"] if params["post_quantize"] else [])
    return wanted + [kind for kind in (params["quantize"] or "").split(",") if kind]


def _tflite_name(params: Mapping[str, Any], kind: str) -> str:
    return f"{params['model_name']}{tflite.SUFFIXES[kind]}.tflite"


def _size(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(folder)
        for name in names
    )


def _measure(
    params: Mapping[str, Any],
    served: saved_model.SavedModel,
    folder: str,
    made: dict[str, dict[str, Any]],
) -> None:
    """Adds measurements to the rows of `made`; UserError if a float file is wrong.

    Files are compared with the SavedModel by what their contract gives.
    """
    contract = metadata.CONTRACTS[params["tflite_contract"]]
    reference = os.path.basename(served.path)
    opened = {reference: _scores_of_logits(served.logits, contract)}
    for name, row in made.items():
        if row["kind"] in tflite.SUFFIXES:
            opened[name] = tflite.Interpreter(os.path.join(folder, name)).scores
    labelled, total = samples.num_evaluation_images(params)
    found = measure.compare(opened, reference, samples.evaluation_images(params), total)
    for name, measurement in found.items():
        _check_agreement(name, made[name]["kind"], measurement, contract)
        difference = measure.DIFFERENCES[contract.gives_probabilities]
        made[name].update(measurement.report(labelled, difference))
        if made[name]["kind"] == "float32" and labelled:
            stretched = samples.stretched_images(params)
            made[name][measure.STRETCHED] = measure.top_1(opened[name], stretched, total)
    images = max(measurement.images for measurement in found.values())
    measured = {name: made[name] for name in opened}
    logging.info("Measured on %d images:\n%s", images, measure.table(measured))


def _check_agreement(
    name: str, kind: str, measurement: measure.Measurement, contract: metadata.Contract
) -> None:
    """Raises UserError if the file in float32 does not compute what the SavedModel does."""
    difference = measurement.largest_difference
    if kind == "float32" and difference > LARGEST_DIFFERENCE:
        raise UserError(
            f"{name} differs from the SavedModel's {contract.output_name} by {difference:.2g} "
            f"relative (at most {LARGEST_DIFFERENCE:g} is expected): nothing was exported."
        )


def _scores_of_logits(
    logits: measure.Classifier, contract: metadata.Contract
) -> measure.Classifier:
    """Returns a classifier that gives what a contract wants, of one that gives logits."""
    if not contract.gives_probabilities:
        return logits
    return lambda image: metadata.softmax(logits(image))


def _check_not_foreign(export_dir: str, names: list[str], earlier: set[str]) -> None:
    """Raises UserError if a file is in the way that no earlier export made."""
    for name in sorted({*names} - earlier):
        target = os.path.join(export_dir, name)
        if tf.io.gfile.exists(target):
            raise UserError(
                f"{target} is there already and was not made by this program: remove it, or choose "
                "another --export_dir."
            )
