"""Opens what a report is about: a checkpoint or an exported file, with all that is known of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import imagenet_input
import preprocessing
from utils.base.errors import UserError
from utils.config import settings
from utils.exporting import classifiers, measure
from utils.reading import dataset_info
from utils.showing import predictions
from utils.training import averages, checkpoints, configuration, devices, evaluations, model_files

import tensorflow.compat.v1 as tf


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier and what is known of it.

    Attributes:
      name: name of the network, or of the file.
      kind: what it is, in words.
      path: where it is, as the user gave it.
      num_classes: number of classes.
      label_names: names of the classes, in order; numbers if they are unknown.
      classify: gives probabilities for encoded pictures.
      step: global step of its checkpoint; None if unknown.
      model_dir: folder of its training; None if unknown.
      export_dir: folder of an export; None if unknown.
      label_smoothing: of its training; None if unknown.
      class_order: the index in the model of each class of the data set; None if they are the same.
    """

    name: str
    kind: str
    path: str
    num_classes: int
    label_names: Sequence[str]
    classify: predictions.Classifier
    step: int | None = None
    model_dir: str | None = None
    export_dir: str | None = None
    label_smoothing: float | None = None
    class_order: Sequence[int] | None = None


def record_settings(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by which records are found and read.

    Those that are not given are as in the training or export of a model, if it read the same
    folder.

    Args:
      path: of the model, as for `load`.
      given: data_dir, and the settings in `settings.RECORDS`; None for what is not given.
    """
    known: Mapping[str, Any] = {}
    if _is_exported(path):
        report = measure.read_report(_folder_of_export(path))
        known = report["identity"] if report else {}
    elif checkpoint := checkpoints.find(path):
        known = _stored(_training_dir(checkpoint))
    told = model_files.record_settings(known, given["data_dir"])
    defaults = {name: settings.SETTINGS[name].default for name in settings.RECORDS}
    flags = {name: given[name] for name in settings.RECORDS if given[name] is not None}
    return {**defaults, **told, **flags}


def load(
    path: str,
    data_dir: str,
    model_fn: Callable,
    labels: str | None = None,
    records_read: Mapping[str, Any] | None = None,
) -> Model:
    """Opens a .tflite file, a SavedModel, an export's folder, a model_dir or a checkpoint.

    Args:
      path: of one of these.
      data_dir: folder of the pictures to classify.
      model_fn: the model function of an estimator, for a checkpoint.
      labels: file of class names, one a line; None for those of the model.
      records_read: what `record_settings` returns; None for its defaults.

    Raises:
      UserError: the path is none of these, or it cannot be used.
    """
    if not tf.io.gfile.exists(path) and checkpoints.find(path) is None:
        raise UserError(f"--model={path} does not exist: name a trained or an exported model.")
    if _is_exported(path):
        return _of_file(path, data_dir, labels)
    checkpoint = checkpoints.find(path)
    if checkpoint is None:
        raise UserError(
            f"--model={path} is not a model: name a .tflite file, a SavedModel, the folder of an "
            "export, a --model_dir or a checkpoint."
        )
    model_dir = _training_dir(checkpoint)
    num_classes = _stored(model_dir).get("num_label_classes")
    if num_classes:
        class_order(_names_of(model_dir, labels, num_classes), num_classes, data_dir, labels)
    given = {
        "mode": "eval",
        "model_dir": model_dir,
        "data_dir": data_dir,
        "use_tpu": False,
        "num_label_classes": num_classes,
    }
    params = configuration.resolve({**given, **(records_read or {})})
    return of_checkpoint(params, checkpoint, model_fn, labels)


def _is_exported(path: str) -> bool:
    """Whether a path is one that `classifiers.load` takes."""
    return (
        classifiers.is_tflite(path)
        or _is_export_folder(path)
        or tf.io.gfile.exists(os.path.join(path, "saved_model.pb"))
    )


def class_order(
    names: Sequence[str] | None, num_classes: int, data_dir: str, labels: str | None = None
) -> tuple[int, ...] | None:
    """Returns the index in a model of each class of a data set; None if they are the same.

    Args:
      names: of the model's classes, in order; None or empty if they are not known.
      num_classes: of the model.
      data_dir: folder of the data set.
      labels: the user's file of these names, which may be others than the data set's: its classes
        then are those of the model by number.

    Raises:
      UserError: the data set has other classes than the model.
    """
    remedy = (
        "name a data set with the classes of the model, or, if only their names differ, a file of "
        "names in the order of the model's classes with --labels"
    )
    of_data = dataset_info.label_names(data_dir)
    if labels:
        order = dataset_info.compare_names(names or (), of_data).order
    else:
        order = dataset_info.class_order(names or (), of_data, data_dir, remedy)
    info = dataset_info.load(data_dir)
    if info and order is None and info.num_label_classes != num_classes:
        raise UserError(
            f"--data_dir={data_dir} has {info.num_label_classes} classes and the model "
            f"{num_classes}: name a data set with the classes of the model."
        )
    return order


def _names_of(model_dir: str, labels: str | None, num_classes: int) -> list[str]:
    """Returns the names that the user gives for a checkpoint's classes, or else its folder."""
    if labels:
        return classifiers.label_names(model_dir, labels, num_classes) or []
    kept = model_files.kept_label_names(model_dir)
    return kept if len(kept) == num_classes else []


def _is_export_folder(path: str) -> bool:
    return tf.io.gfile.exists(os.path.join(path, measure.REPORT_FILE))


def _folder_of_export(path: str) -> str:
    return path if _is_export_folder(path) else os.path.dirname(path.rstrip("/")) or "."


def _training_dir(checkpoint: str) -> str:
    """Returns the folder of the training that a checkpoint, perhaps an archived one, is of."""
    folder = os.path.dirname(checkpoint) or "."
    if os.path.basename(folder) == evaluations.ARCHIVE_DIR:
        return os.path.dirname(folder) or "."
    return folder


def _of_file(path: str, data_dir: str, labels: str | None) -> Model:
    """Opens an exported model; the report of its export leads to its training."""
    classifier = classifiers.load(path)
    folder = _folder_of_export(path)
    report = measure.read_report(folder)
    identity = report["identity"] if report else {}
    model_dir = _training_dir(identity.get("checkpoint") or "")
    stored = _stored(model_dir)
    is_tflite = classifiers.is_tflite(path)
    file_name = os.path.splitext(os.path.basename(path.rstrip("/")))[0]
    info = dataset_info.load(data_dir)
    names = classifiers.label_names(path, labels, classifier.num_classes)
    return Model(
        name=file_name if is_tflite else identity.get("model_name") or file_name,
        kind="TensorFlow Lite file" if is_tflite else "SavedModel",
        path=path,
        num_classes=classifier.num_classes,
        label_names=named(names or (info.label_names if info else None), classifier.num_classes),
        classify=lambda pictures: np.stack([classifier.probabilities(p) for p in pictures]),
        step=identity.get("global_step"),
        model_dir=model_dir if stored else None,
        export_dir=folder if report else None,
        label_smoothing=stored.get("label_smoothing"),
        class_order=class_order(names, classifier.num_classes, data_dir, labels),
    )


def _stored(model_dir: str) -> dict[str, Any]:
    """Returns the settings of a training whose folder may be gone."""
    if not model_dir or not tf.io.gfile.isdir(model_dir):
        return {}
    return model_files.stored_params(model_dir) or {}


def of_checkpoint(
    params: Mapping[str, Any], checkpoint: str, model_fn: Callable, labels: str | None = None
) -> Model:
    """Restores a checkpoint, with averaged weights if it has them, as an evaluation does.

    Args:
      params: complete settings.
      checkpoint: its path.
      model_fn: the model function of an estimator.
      labels: file of class names, one a line; None for those of the model.

    Raises:
      UserError: the checkpoint is of another network.
    """
    num_classes = params["num_label_classes"]
    stored = _stored(params["model_dir"])
    export_dir = params["export_dir"] or stored.get("export_dir")
    has_export = export_dir and measure.read_report(export_dir) is not None
    names = _names_of(params["model_dir"], labels, num_classes)
    return Model(
        name=params["model_name"],
        kind="checkpoint",
        path=checkpoint,
        num_classes=num_classes,
        label_names=named(names or model_files.label_names(params), num_classes),
        classify=_restored(params, checkpoint, model_fn),
        step=checkpoints.step_of(checkpoint),
        model_dir=params["model_dir"],
        export_dir=export_dir if has_export else None,
        label_smoothing=(stored or params).get("label_smoothing"),
        class_order=class_order(names, num_classes, params["data_dir"], labels),
    )


def _restored(
    params: Mapping[str, Any], checkpoint: str, model_fn: Callable
) -> predictions.Classifier:
    """Returns the network of a checkpoint as a classifier on this machine's GPU or CPU."""
    # The weights are the same whatever they were trained on.
    here = {"use_tpu": False, "precision": "float32", "data_format": "channels_last"}
    params = {**params, **here}
    with tf.Graph().as_default() as graph:
        received = imagenet_input.build_image_serving_input_fn(
            preparation=preprocessing.Preparation.of(params)
        )()
        tf.train.get_or_create_global_step()
        spec = model_fn(received.features, None, tf.estimator.ModeKeys.PREDICT, params)
        session = tf.Session(graph=graph, config=devices.config(params, training=False))
        averages.AveragesSaver().restore(session, checkpoint)
    pictures, found = received.receiver_tensors["image_bytes"], spec.predictions["probabilities"]

    def classify(image_bytes: Sequence[bytes]) -> np.ndarray:
        probabilities = session.run(found, {pictures: list(image_bytes)})
        if not np.isfinite(probabilities).all():
            raise UserError(
                f"{checkpoint} gives infinite numbers or NaN: its weights are damaged or its "
                "training failed; name another checkpoint."
            )
        return probabilities

    return classify


def named(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns the names of classes; without names, 'class' and their numbers.

    Args:
      names: of the classes, in order; None or empty if they are not known.
      num_classes: number of classes.
    """
    if names and len(names) == num_classes:
        return list(names)
    return [f"class {number}" for number in range(num_classes)]
