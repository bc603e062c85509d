"""The images of a split, as the settings name them: reading, checking and explaining them."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

import imagenet_input
import preprocessing
from utils.base import files, memory
from utils.base.errors import UserError
from utils.reading import bigtable, dataset_info, examples, reading_order, records, scan
from utils.training import devices, model_files

import tensorflow.compat.v1 as tf

# For a session that must leave the memory of a GPU to the training.
HOST_ALONE = tf.ConfigProto(device_count={"GPU": 0})


class Split:
    """The training or the evaluation images that the settings name.

    Make a Split once a run: it lists its files and asks for their sizes at their first use only.
    In a bucket both take seconds, and a training with evaluations would pay them at each.

    Attributes:
      params: all settings.
      is_training: whether these are the training images.
      file_prefix: what the names of the TFRecord files begin with.
      num_images: how many images the settings say there are.
      form: format of the records.
    """

    def __init__(self, params: Mapping[str, Any], is_training: bool):
        self.params = params
        self.is_training = is_training
        self.file_prefix = (
            imagenet_input.TRAIN_PREFIX if is_training else imagenet_input.EVAL_PREFIX
        )
        self.num_images = params["num_train_images" if is_training else "num_eval_images"]
        self.form = examples.record_format(params)

    def input(
        self,
        step: int = 0,
        kind: type[imagenet_input.ImageNetInput] = imagenet_input.ImageNetInput,
        **others: Any,
    ) -> imagenet_input.ImageNetTFExampleInput:
        """Builds the input: from TFRecords, from Bigtable, or of black images.

        Args:
          step: global step at which a training resumes; its input starts behind the images that
            the steps before took.
          kind: the input from TFRecords.
          others: arguments of the input in place of those that follow from the settings.
        """
        common: dict[str, Any] = dict(
            is_training=self.is_training,
            use_bfloat16=self.params["precision"] == "bfloat16",
            transpose_input=self.params["use_tpu"] and self.params["transpose_input"],
            image_size=self.params["input_image_size"],
            num_parallel_calls=self.params["num_parallel_calls"],
            cache=self._caches,
            resize_method=self.params["resize_method"],
            eval_crop_share=self.params["eval_crop_share"],
            augmentation=preprocessing.Augmentation(
                area_range=(self.params["min_crop_area"], 1.0), flip=self.params["random_flip"]
            ),
            num_classes=self.params["num_label_classes"],
            class_order=self.class_order,
            seed=self.params["tf_random_seed"],
            first_image=step * self.params["train_batch_size"] if self.is_training else 0,
            record_format=self.form,
        )
        common.update(others)
        if self._is_table:
            return imagenet_input.ImageNetBigtableInput(
                selection=self._selection(), num_images=self.num_images, **common
            )
        return kind(data_dir=self.params["data_dir"], segments=self._segments(), **common)

    def first_images(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the first images as a run from step 0 would be fed them, whatever the device.

        With --tf_random_seed they are the first of its first batch, else others.

        Args:
          count: number of images.

        Returns:
          (images, uint8 [count, S, S, 3]; labels, int32 [count], 0-based); None if the input is
          black images, or ends before the first batch, as the training will say.
        """
        if not self._has_files and not self._is_table:
            return None
        # As a person sees them, not as a TPU takes them; and nobody reads them a second time.
        source = self.input(use_bfloat16=False, transpose_input=False, cache=False)
        with tf.Graph().as_default(), tf.Session(config=HOST_ALONE) as session:
            batches = source.input_fn({"batch_size": count})
            iterator = tf.data.make_initializable_iterator(batches)
            images, labels = iterator.get_next()
            session.run(iterator.initializer)
            # Bicubic resizing leaves the range of a byte.
            pixels = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
            try:
                return session.run((pixels, labels))
            except tf.errors.OutOfRangeError:
                return None

    @functools.cached_property
    def class_order(self) -> tuple[int, ...] | None:
        """Returns the index in the model of each class of the data set; None if labels stay.

        Ask when model_dir has the model's names: from the start of its training on.
        """
        return model_files.class_order(self.params)

    def identity(self) -> dict[str, Any]:
        """Returns what tells the images of TFRecord files from others, as JSON has it.

        These are the names, sizes and dates of the files, the format of their records, and the
        bad records that are left out.
        """
        problems = self._good.problems if self._good else ()
        return {
            "files": [[os.path.basename(s.path), s.size, s.changed] for s in self._states],
            "format": self.form,
            "left_out": [[os.path.basename(p.path), p.record] for p in problems],
        }

    @property
    def is_endless(self) -> bool:
        """Whether the evaluation has to count its steps, as its input never ends.

        Padding follows the images on a TPU, where all cores take the same number of batches. Black
        images have no end anywhere.
        """
        return bool(self.params["use_tpu"]) or not (self._has_files or self._is_table)

    @property
    def num_skipped(self) -> int:
        """Counts the bad images that --skip_bad_images leaves out."""
        return len(self._good.problems) if self._good else 0

    def log_skipped(self) -> None:
        """Says how many bad training images --skip_bad_images left out, if any."""
        if self.num_skipped:
            logging.info(
                "%d bad training images were left out in each epoch: see %s.",
                self.num_skipped,
                os.path.join(self.params["model_dir"], scan.FILE_NAME),
            )

    def log_shares(self, num_workers: int) -> None:
        """Says if workers share out records, because the files cannot be shared out alike."""
        if not self._has_files or num_workers == 1:
            return
        if reading_order.is_uneven(len(self.paths), num_workers):
            logging.info(
                "%d files cannot be shared out alike to %d workers: each reads all of them, and "
                "takes every %dth record.",
                len(self.paths),
                num_workers,
                num_workers,
            )

    def check(self) -> None:
        """Checks, before anything is built, that the split exists and its first records are good.

        Raises:
          UserError: names the file, row or flag and what is wrong with it.
        """
        if self._is_table:
            rows = self._rows()
            rows.check(self.num_images)
            rows.check_first_rows(self.num_images)
        elif self._has_files:
            self._check_files()

    def check_count(self, counted: int) -> None:
        """Checks that as many images were counted as num_eval_images says; bad ones count, too.

        Raises:
          UserError: it is another number. Black images, which fill the last batch, have none.
        """
        if not self._has_files and not self._is_table:
            return
        if not self._is_enough(counted):
            raise UserError(
                f"There are {counted} images to evaluate but num_eval_images is "
                f"{self.num_images}: set --num_eval_images={counted}, or correct "
                "dataset_info.json, if that is their number."
            )

    def explain(self, error: Exception) -> UserError | None:
        """Returns the sentence that names the record or row at which the input failed.

        Args:
          error: what the run ended with.

        Returns:
          None if the input was not what failed.
        """
        if self._is_table and bigtable.first_error():
            return bigtable.first_error()
        if not isinstance(error, scan.data_errors()) or not (self._is_table or self._has_files):
            return None
        logging.info("The input failed (%s); looking for the record.", files.reason(error)[:200])
        if self._is_table:
            return bigtable.first_bad_row(self._rows(), self.num_images)
        found = scan.first_problem(self.paths, self.params["num_label_classes"], self.form)
        return UserError(str(found)) if found else None

    @property
    def _is_table(self) -> bool:
        return bool(self.params["bigtable_instance"])

    @property
    def _has_files(self) -> bool:
        return records.has_files(self.params["data_dir"])

    @functools.cached_property
    def paths(self) -> list[str]:
        """The paths of the files, sorted."""
        return records.list_files(self.params["data_dir"], self.file_prefix, self.params)

    @functools.cached_property
    def _states(self) -> list[records.FileState]:
        return records.states(self.paths)

    @functools.cached_property
    def _good(self) -> scan.GoodRecords | None:
        """Returns the records that --skip_bad_images leaves; None without it, as all are read."""
        if not self._has_files or not self.params["skip_bad_images"]:
            return None
        return scan.of_files(self.params, self.file_prefix, self._states)

    @functools.cached_property
    def _caches(self) -> bool | None:
        """Decides whether encoded pictures stay in memory; None if each host of a TPU decides.

        The hosts of a TPU decide by the share of the files that each of them reads.
        """
        if not self.is_training:
            return False
        given = self.params["use_cache"]
        if given is not None or self.params["use_tpu"] or not self._has_files:
            return given
        return memory.fits_bytes(sum(state.size for state in self._states))

    def _segments(self) -> list[records.Segment] | None:
        """Returns the parts of the files to read; None for black images."""
        if not self._has_files:
            return None
        if self._good:
            return list(self._good.segments)
        return [records.Segment(path) for path in self.paths]

    def _selection(self) -> bigtable.BigtableSelection:
        params = self.params
        prefix = params["bigtable_train_prefix" if self.is_training else "bigtable_eval_prefix"]
        return bigtable.BigtableSelection(
            project=params["bigtable_project"],
            instance=params["bigtable_instance"],
            table=params["bigtable_table"],
            prefix=prefix,
            column_family=params["bigtable_column_family"],
            column_qualifier=params["bigtable_column_qualifier"],
        )

    def _rows(self) -> bigtable.RowReader:
        return bigtable.RowReader(self._selection(), self.params["num_label_classes"], self.form)

    def _check_files(self) -> None:
        info = dataset_info.of_run(self.params)
        if info is not None:
            described = info.num_train_images if self.is_training else info.num_eval_images
            dataset_info.check_files(info, self.file_prefix, self.paths, described, self.params)
        if self._good is None:
            records.check_first_records(
                self.paths, self.params["num_label_classes"], form=self.form
            )
        if not self.is_training:
            self._check_count_of_files(info)

    def _check_count_of_files(self, info: dataset_info.DatasetInfo | None) -> None:
        """Says before the training what the first evaluation would fail at."""
        total: int | None
        if self._good:
            total = self._good.num_records
        else:
            described = info.num_eval_images if info else 0
            total = described or records.count(self.paths)
        if total is None or self._is_enough(total):
            return
        if self._good is None:  # damage, too, makes counts differ
            damaged = scan.first_problem(self.paths, self.params["num_label_classes"], self.form)
            if damaged:
                raise UserError(str(damaged))
        self.check_count(total)

    def _is_enough(self, counted: int) -> bool:
        """Checks that so many images are what num_eval_images asks for.

        An evaluation on a TPU has a number of steps and may ask for fewer images than there are;
        its last batch then brings some more. Elsewhere the data end it, so the number must be
        theirs.
        """
        if self.params["use_tpu"]:
            return counted >= self.num_images
        return counted == self.num_images


class Splits(NamedTuple):
    """The two splits of a run."""

    train: Split
    eval: Split


def checked_splits(params: Mapping[str, Any]) -> Splits:
    """Returns the splits of a run, and checks those that its mode reads.

    Raises:
      UserError: as `Split.check`, or --data_dir is not a folder, or a TPU cannot read Bigtable.
    """
    splits = Splits(Split(params, is_training=True), Split(params, is_training=False))
    _check_python_input(params)
    data_dir = params["data_dir"]
    if records.has_files(data_dir) and not tf.io.gfile.isdir(data_dir):
        raise UserError(f"--data_dir={data_dir} is not a folder: check the path.")
    used = {"train": [splits.train], "eval": [splits.eval], "train_and_eval": splits}
    if params["eval_after_training"] or params["report"]:
        used["train"] = splits
    for split in used[params["mode"]]:
        split.check()
    if len(used[params["mode"]]) == 2 and records.has_files(data_dir):
        _warn_of_shared_files(splits)
    return splits


def _warn_of_shared_files(splits: Splits) -> None:
    """Warns if --train_files and --eval_files name the same files."""
    shared = sorted({*splits.train.paths} & {*splits.eval.paths})
    if shared:
        logging.warning(
            "%s is among the training and the evaluation files (%d files are): the evaluation "
            "will look better than the network is.",
            shared[0],
            len(shared),
        )


def _check_python_input(params: Mapping[str, Any]) -> None:
    """UserError if the TPU's workers could not read Bigtable.

    Python reads its rows. It runs on this machine, not on another one's TPU workers.
    """
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
