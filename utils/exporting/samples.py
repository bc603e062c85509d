"""Reads the images that an export is measured and calibrated with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

import imagenet_input
import preprocessing
from utils.base.errors import UserError
from utils.reading import dataset_info, examples, pictures, records, scan
from utils.training import inputs, model_files

import tensorflow.compat.v1 as tf

NUM_CALIBRATION_IMAGES = 200
NUM_NOISE_IMAGES = 8


def has_split(params: Mapping[str, Any], prefix: str) -> bool:
    """Whether the data set has files whose names begin with a prefix."""
    data_dir = params["data_dir"]
    if not records.has_files(data_dir):
        return False
    return bool(records.find_files(data_dir, prefix, params))


def stretch(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes a picture and stretches the whole of it into a square, as MediaPipe does on a CPU.

    MediaPipe maps the corners of pixels onto corners, and so does TensorFlow 1's bilinear kernel.
    It resizes to whole numbers, which changes what a network makes of an unclear picture.

    Returns:
      float32 [image_size, image_size, 3], whole numbers in [0, 255].
    """
    whole = preprocessing.decode_whole(image_bytes)
    return tf.round(preprocessing.resize(whole, image_size, "bilinear"))


class _StretchedInput(imagenet_input.ImageNetInput):
    """Feeds pictures stretched whole into the input, instead of their centre squares."""

    def dataset_parser(self, value: tf.Tensor, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        _, label = super().dataset_parser(value, seed)
        image_bytes, _ = examples.parse(value, self.record_format)
        return stretch(image_bytes, self.image_size), label


class _UprightInput(imagenet_input.ImageNetInput):
    """Feeds the pictures of records as a phone shows them: turned as EXIF says.

    Training and evaluation take them as they are stored, as the published program does.
    """

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        pictures.require_pillow()
        stored = super().make_source_dataset(index, num_hosts)
        return stored.map(
            lambda serialized: tf.ensure_shape(
                tf.numpy_function(self._shown, [serialized], tf.string, stateful=False), []
            )
        )

    def _shown(self, serialized: bytes) -> bytes:
        """Returns an example with its picture as a phone shows it; one that is damaged as it is."""
        _, problem = examples.features(serialized, self.record_format)
        if problem:
            return serialized
        example = tf.train.Example.FromString(serialized)
        image_bytes = example.features.feature[self.record_format.image_key].bytes_list.value
        try:
            image_bytes[0] = pictures.for_tensorflow(image_bytes[0])
        except (pictures.Unreadable, pictures.MissingDecoder):  # the input says what is wrong
            return serialized
        return example.SerializeToString()


def _source(
    params,
    file_prefix: str,
    kind: type[imagenet_input.ImageNetInput] = imagenet_input.ImageNetInput,
) -> imagenet_input.ImageNetInput:
    """Returns the input of a split whose images are prepared as for evaluation, or as by `kind`."""
    good = scan.of_split(params, file_prefix)
    paths = records.list_files(params["data_dir"], file_prefix, params)
    source = kind(
        False,
        False,
        False,
        params["data_dir"],
        params["input_image_size"],
        resize_method=params["resize_method"],
        eval_crop_share=params["eval_crop_share"],
        num_classes=params["num_label_classes"],
        record_format=examples.record_format(params),
        segments=good.segments if good else [records.Segment(path) for path in paths],
        class_order=_compared(params).order,
    )
    source.file_prefix = file_prefix
    return source


def num_evaluation_images(params: Mapping[str, Any]) -> tuple[bool, int]:
    """Returns (whether labels are of the model's classes, number of images to measure with)."""
    if not has_split(params, imagenet_input.EVAL_PREFIX):
        logging.warning(
            "The export is measured on random images, without accuracies: name the folder of "
            "evaluation images with --data_dir."
        )
        return False, NUM_NOISE_IMAGES
    info = dataset_info.load(params["data_dir"])
    compared = _compared(params)
    others = info.num_label_classes if info else params["num_label_classes"]
    labelled = not compared.difference and (
        compared.order is not None or others == params["num_label_classes"]
    )
    if not labelled:
        logging.warning(
            "--data_dir=%s has other classes than the model (%s): the export is measured without "
            "accuracies.",
            params["data_dir"],
            compared.difference or f"{others} instead of {params['num_label_classes']}",
        )
    dataset_info.log_order(compared.order, model_files.label_names(params), params["data_dir"])
    wanted = params["export_eval_images"] or params["num_eval_images"]
    return labelled, min(wanted, params["num_eval_images"])


def _compared(params: Mapping[str, Any]) -> dataset_info.Comparison:
    """Compares the names of the model's classes with those of the data set."""
    given = dataset_info.label_names(params["data_dir"])
    return dataset_info.compare_names(model_files.label_names(params), given)


def evaluation_images(params: Mapping[str, Any]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image, label) for `measure.compare`; random images if there is no evaluation set.

    An image is float32 [S, S, 3] in [0, 255], prepared as for evaluation; a label is an index.
    """
    labelled = has_split(params, imagenet_input.EVAL_PREFIX)
    if labelled:
        total = min(params["export_eval_images"] or 2**62, params["num_eval_images"])
        source = _source(params, imagenet_input.EVAL_PREFIX)
        yield from _read(params, source, total)
        return
    size = params["input_image_size"]
    rng = np.random.RandomState(0)
    for _ in range(NUM_NOISE_IMAGES):
        yield rng.uniform(0, 255, (size, size, 3)).astype(np.float32), 0


def stretched_images(params: Mapping[str, Any]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the samples of `evaluation_images` with pictures stretched whole into the input.

    The data set must have evaluation images.
    """
    total = min(params["export_eval_images"] or 2**62, params["num_eval_images"])
    yield from _read(params, _source(params, imagenet_input.EVAL_PREFIX, _StretchedInput), total)


def calibration_images(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Returns training images, float32 [S, S, 3] in [0, 255], that set an int8 file's ranges.

    They are upright and prepared as for evaluation, because a phone prepares its pictures so. They
    come from all parts of the files, because a data set may be sorted by class.

    Raises:
      UserError: the files hold no image, or a damaged one.
    """
    source = _source(params, imagenet_input.TRAIN_PREFIX, _UprightInput)
    source.segments = records.spread_over(source.list_segments(), NUM_CALIBRATION_IMAGES)
    if not source.segments:
        raise UserError(
            f"--quantize=int8 needs training images for calibration, but the files "
            f"{imagenet_input.TRAIN_PREFIX}* of --data_dir={params['data_dir']} are empty."
        )
    return [image for image, _ in _read(params, source, NUM_CALIBRATION_IMAGES)]


def _read(
    params, source: imagenet_input.ImageNetInput, count: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image, label) of the first records of a source."""
    with tf.Graph().as_default(), tf.Session() as session:
        batches = source.input_fn({"batch_size": min(count, 50)})
        batch = tf.data.make_one_shot_iterator(batches).get_next()
        while count > 0:
            try:
                images, found_labels = session.run(batch)
            except tf.errors.OutOfRangeError:
                return
            except scan.data_errors() as e:
                is_training = source.file_prefix == imagenet_input.TRAIN_PREFIX
                raise inputs.Split(params, is_training).explain(e) or e from e
            for image, label in zip(images, found_labels, strict=True):
                if label != imagenet_input.PADDING and count > 0:
                    yield image, int(label)
                    count -= 1
