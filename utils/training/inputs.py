"""The input that the settings name: building it, checking it, explaining its errors."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import imagenet_input
import preprocessing
from utils.base.errors import UserError
from utils.reading import bad_images, bigtable, dataset_info, records, scan
from utils.training import devices

import tensorflow.compat.v1 as tf  # isort: skip


def build(is_training: bool, params: Mapping[str, Any], step: int = 0):
    """The input that the settings name: TFRecords, Bigtable or black images.

    A training's goes on behind what `step` steps were fed.
    """
    common = dict(
        is_training=is_training,
        use_bfloat16=params["precision"] == "bfloat16",
        transpose_input=params["use_tpu"] and params["transpose_input"],
        image_size=params["input_image_size"],
        num_parallel_calls=params["num_parallel_calls"],
        cache=params["use_cache"] if is_training else False,
        resize_method=params["resize_method"],
        augmentation=preprocessing.Augmentation(
            area_range=(params["min_crop_area"], 1.0), flip=params["random_flip"]
        ),
        num_classes=params["num_label_classes"],
        seed=params["tf_random_seed"],
        first_image=step * params["train_batch_size"] if is_training else 0,
    )
    if not params["bigtable_instance"]:
        good = bad_images.of_split(params, file_prefix(is_training))
        return imagenet_input.ImageNetInput(
            data_dir=params["data_dir"], segments=good.segments if good else None, **common
        )
    return imagenet_input.ImageNetBigtableInput(
        selection=_selection(is_training, params),
        num_images=num_images(is_training, params),
        **common,
    )


def _selection(is_training: bool, params) -> imagenet_input.BigtableSelection:
    return imagenet_input.BigtableSelection(
        project=params["bigtable_project"],
        instance=params["bigtable_instance"],
        table=params["bigtable_table"],
        prefix=params["bigtable_train_prefix" if is_training else "bigtable_eval_prefix"],
        column_family=params["bigtable_column_family"],
        column_qualifier=params["bigtable_column_qualifier"],
    )


def rows(is_training: bool, params) -> bigtable.RowReader:
    return bigtable.RowReader(_selection(is_training, params), params["num_label_classes"])


def file_prefix(is_training: bool) -> str:
    return imagenet_input.TRAIN_PREFIX if is_training else imagenet_input.EVAL_PREFIX


def num_images(is_training: bool, params) -> int:
    return params["num_train_images" if is_training else "num_eval_images"]


def num_skipped(is_training: bool, params: Mapping[str, Any]) -> int:
    """Bad images of a split that --skip_bad_images leaves out."""
    good = bad_images.of_split(params, file_prefix(is_training))
    return len(good.problems) if good else 0


def check(params: Mapping[str, Any]) -> None:
    """Before anything is built: the splits exist and their first records are good."""
    _check_python_input(params)
    data_dir = params["data_dir"]
    if data_dir == "null":
        return
    if data_dir and not tf.io.gfile.isdir(data_dir):
        raise UserError(f"--data_dir={data_dir} is no folder: check the path.")
    uses = {"train": [True], "eval": [False], "train_and_eval": [True, False]}
    for is_training in uses[params["mode"]]:
        if params["bigtable_instance"]:
            reader = rows(is_training, params)
            reader.check(num_images(is_training, params))
            reader.check_first_rows(num_images(is_training, params))
        else:
            paths = records.list_files(data_dir, file_prefix(is_training))
            info = dataset_info.load(data_dir)
            if info is not None:
                listed = info.num_train_images if is_training else info.num_eval_images
                dataset_info.check_files(info, file_prefix(is_training), paths, listed)
            good = bad_images.of_split(params, file_prefix(is_training))
            if good is None:
                records.check_first_records(paths, params["num_label_classes"])
            if not is_training:
                _check_num_eval_images(params, paths, info, good)


def _check_num_eval_images(params, paths: list[str], info, good: bad_images.Split | None) -> None:
    """Says before the training what the first evaluation would fail at."""
    total: int | None
    if good:
        total = good.num_records
    else:
        total = info.num_eval_images if info else records.count(paths)
    if total is None or is_enough(total, params):
        return
    if good is None:  # counts differ for damage, too
        damaged = scan.first_problem(paths, params["num_label_classes"])
        if damaged:
            raise UserError(str(damaged))
    raise wrong_count(total, params)


def is_enough(counted: int, params: Mapping[str, Any]) -> bool:
    """Whether so many images are what num_eval_images asks for.

    On a TPU an evaluation has a number of steps and may ask for fewer images than there are, and
    its last batch then brings some more. Elsewhere the data end it, and it must be their number.
    """
    wanted = params["num_eval_images"]
    return counted >= wanted if params["use_tpu"] else counted == wanted


def wrong_count(counted: int, params: Mapping[str, Any]) -> UserError:
    """What is wrong where so many images are there to evaluate, and not num_eval_images."""
    return UserError(
        f"There are {counted} images to evaluate but num_eval_images is "
        f"{params['num_eval_images']}: set --num_eval_images={counted}, or correct "
        "dataset_info.json, if that is their number."
    )


def _check_python_input(params) -> None:
    """Rows of Bigtable are read by Python, which runs here, not on another machine's TPU worker."""
    if not (params["use_tpu"] and params["bigtable_instance"]):
        return
    address = devices.resolve_tpu(params).master()
    host = address.removeprefix("grpc://").rpartition(":")[0]
    here = {"", "localhost", "127.0.0.1", socket.gethostname()}
    with contextlib.suppress(OSError):
        here.add(socket.gethostbyname(socket.gethostname()))
    if host not in here:
        raise UserError(
            f"--tpu={params['tpu']} has its workers on another machine ({address}), which cannot "
            "run the Python that reads Bigtable: run on the TPU VM itself with --tpu=local, or "
            "copy the data to TFRecords in a bucket and give --data_dir."
        )
