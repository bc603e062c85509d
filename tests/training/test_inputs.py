"""Tests of the splits of a run: how often a training asks a bucket for its files."""

import collections
import os

import numpy as np
import pytest
from built_data import write_in_order
from shades import batches, labels_of

import mnasnet_main
from imagenet_input import PADDING
from utils.config import settings
from utils.training import evaluations, inputs

import tensorflow.compat.v1 as tf

SPEC = {"stages": ["r1_k3_s22_e1_i8_o8_noskip"], "stem_size": 8, "head_size": 16}


def params_of(data_dir, model_dir, **more):
    """Settings of a training that evaluates after each step."""
    return {
        **settings.default_params(),
        "model_name": "tiny",
        "model_spec": SPEC,
        "use_tpu": False,
        "data_dir": data_dir,
        "model_dir": str(model_dir),
        "num_label_classes": 10,
        "num_train_images": 1437,
        "num_eval_images": 360,
        "input_image_size": 32,
        "train_batch_size": 8,
        "eval_batch_size": 360,
        "mode": "train_and_eval",
        "steps_per_eval": 1,
        "save_checkpoints_steps": 100,
        "iterations_per_loop": 1,
        "add_summaries": False,
        **more,
    }


@pytest.fixture
def bucket(digits_dir, tmp_path):
    """The address of a copy of the sample data in a file system that is not local."""
    address = f"ram://{tmp_path.name}/digits"
    tf.io.gfile.makedirs(address)
    for name in tf.io.gfile.listdir(digits_dir):
        if not tf.io.gfile.isdir(os.path.join(digits_dir, name)):
            tf.io.gfile.copy(os.path.join(digits_dir, name), f"{address}/{name}")
    yield address
    tf.io.gfile.rmtree(address)


def count_calls(monkeypatch, address):
    """A counter of the (function, path) with which files at an address are asked for."""
    calls = collections.Counter()

    def counting(name):
        function = getattr(tf.io.gfile, name)

        def counted(path, *more):
            if str(path).startswith(address):
                calls[name, path] += 1
            return function(path, *more)

        return counted

    for name in ("glob", "listdir", "stat"):
        monkeypatch.setattr(tf.io.gfile, name, counting(name))
    return calls


@pytest.mark.parametrize("skip", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_evaluations_list_and_size_no_file_again(bucket, tmp_path, monkeypatch, skip):
    calls = count_calls(monkeypatch, bucket)
    splits = inputs.checked_splits(
        params_of(bucket, tmp_path / "once", train_steps=2, skip_bad_images=skip)
    )
    splits.train.input()
    splits.eval.input()
    once = dict(calls)
    calls.clear()
    model_dir = tmp_path / "model"
    mnasnet_main.run_training(params_of(bucket, model_dir, train_steps=2, skip_bad_images=skip))
    assert [e["global_step"] for e in evaluations.read(str(model_dir))] == [1, 2]
    assert dict(calls) == once
    assert {path: n for (name, path), n in once.items() if name != "stat"} == {
        f"{bucket}/{prefix}*": 1 for prefix in ("train-", "validation-")
    }


@pytest.mark.parametrize(
    ("changes", "endless"),
    [
        ({}, False),
        ({"data_dir": "null"}, True),
        ({"use_tpu": True}, True),
        ({"data_dir": None, "bigtable_instance": "i"}, False),
    ],
)
def test_which_evaluations_count_their_steps(changes, endless):
    split = inputs.Split({**params_of("data", "model"), **changes}, is_training=False)
    assert split.is_endless == endless


def test_labels_are_those_of_the_model_by_name(digits_dir, tmp_path):
    """An evaluation set in another order that lacks a class."""
    names = [str(digit) for digit in range(10) if digit != 3]
    data_dir = write_in_order(digits_dir, tmp_path / "data", names[::-1])
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    found = []
    for source in (digits_dir, data_dir):
        split = inputs.Split(params_of(source, tmp_path), is_training=False)
        labels = labels_of(batches(split.input(), 100))
        found.append(labels[(labels != PADDING) & (labels != 3)])
    assert len(found[0]) > 300
    np.testing.assert_array_equal(*found)
