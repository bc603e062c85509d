"""Code written for the published program trains and exports with its own TPUEstimator."""

import glob
import os

import numpy as np
import pytest
from exports import SIZE, SPEC

import imagenet_input
import mnasnet_main
from utils.base.errors import UserError
from utils.config import settings
from utils.reading import records
from utils.training import checkpoints, configuration, inputs

import tensorflow.compat.v1 as tf

# What the code gives; the published program has more settings, and ours has more again.
GIVEN = {
    "model_name": "tiny",
    "model_spec": SPEC,
    "num_label_classes": 10,
    "input_image_size": SIZE,
    "train_batch_size": 4,
    "num_train_images": 40,
    "num_eval_images": 10,
    "use_tpu": False,
    "transpose_input": False,
}


def published_estimator(folder):
    return tf.estimator.tpu.TPUEstimator(
        use_tpu=False,
        model_fn=mnasnet_main.build_model_fn,
        config=tf.estimator.tpu.RunConfig(model_dir=str(folder)),
        train_batch_size=4,
        eval_batch_size=5,
        params=dict(GIVEN),
    )


class OneClass(imagenet_input.ImageNetInput):
    def dataset_parser(self, value):
        image, label = super().dataset_parser(value)
        return image, 0 * label


def test_an_estimator_of_ones_own_trains_evaluates_and_exports(digits_dir, tmp_path):
    estimator = published_estimator(tmp_path / "model")
    source = OneClass(True, False, False, digits_dir, image_size=SIZE)
    estimator.train(input_fn=source.input_fn, max_steps=2)
    source = OneClass(False, False, False, digits_dir, image_size=SIZE)
    assert estimator.evaluate(input_fn=source.input_fn, steps=2)["images"] == 10
    mnasnet_main.export(estimator, str(tmp_path / "export"), post_quantize=False)
    assert checkpoints.step_of(estimator.latest_checkpoint()) == 2
    assert os.listdir(tmp_path / "export").count("tiny.tflite") == 1
    assert not os.path.exists(tmp_path / "export" / "tiny_postquant.tflite")


@pytest.mark.parametrize(
    ("given", "suffixes"),
    [
        ((), {"", "_postquant"}),
        ((False,), {""}),
        (({"label_smoothing": 0.0}, False), {""}),
    ],
)
def test_an_export_quantizes_as_the_published_one_does(model_dir, tmp_path, given, suffixes):
    mnasnet_main.export(published_estimator(model_dir), str(tmp_path), *given)
    names = {os.path.basename(path) for path in glob.glob(str(tmp_path / "*.tflite"))}
    assert names == {f"tiny{suffix}.tflite" for suffix in suffixes}
    assert len(glob.glob(str(tmp_path / "*" / "saved_model.pb"))) == 1


@pytest.mark.parametrize("export_dir", ["", None])
def test_an_export_needs_a_folder(model_dir, export_dir):
    with pytest.raises(UserError, match="export_dir"):
        mnasnet_main.export(published_estimator(model_dir), export_dir)


def test_missing_settings_have_their_defaults():
    images = np.random.RandomState(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)
    complete = {**settings.default_params(), **GIVEN}
    losses = []
    for build, params in (
        (mnasnet_main.build_model_fn, {**GIVEN, "use_keras": None, "batch_size": 4}),
        (mnasnet_main.mnasnet_model_fn, complete),
    ):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(3)
            spec = build(
                features=tf.constant(images),
                labels=tf.constant([0, 1, 2, 3]),
                mode=tf.estimator.ModeKeys.EVAL,
                params=params,
            )
            session.run(tf.global_variables_initializer())
            losses.append(session.run(spec.loss))
    assert losses[0] == losses[1]


def test_settings_of_an_estimator_are_checked():
    assert settings.completed({"train_batch_size": "8"})["train_batch_size"] == 8
    with pytest.raises(UserError, match="params: momentum=2 is invalid"):
        settings.completed({"momentum": 2})


def test_published_constants():
    assert mnasnet_main.LR_SCHEDULE[0] == (1.0, 5)
    factors, epochs = zip(*mnasnet_main.LR_SCHEDULE, strict=True)
    assert list(factors) == sorted(factors, reverse=True)
    assert list(epochs) == sorted(epochs)
    assert mnasnet_main.FAKE_DATA_DIR.startswith("gs://")


def test_the_fake_data_set_is_not_read(tmp_path):
    data_dir = mnasnet_main.FAKE_DATA_DIR
    assert not records.has_files(data_dir)
    assert records.has_files(data_dir + "2")
    params = configuration.resolve({"data_dir": data_dir, "model_dir": str(tmp_path)})
    splits = inputs.checked_splits(params)
    assert splits.eval.is_endless
    dataset = splits.train.input().input_fn({"batch_size": 2})
    images, _ = tf.data.make_one_shot_iterator(dataset).get_next()
    with tf.Session() as session:
        assert not session.run(images).any()


def test_zero_is_unset_in_settings_of_an_estimator_where_published_so():
    zeros = {"min_depth": 0, "depth_multiplier": 0, "batch_norm_epsilon": 0, "dropout_rate": 0}
    found = settings.completed(zeros)
    assert {name: found[name] for name in zeros} == {
        "min_depth": None,
        "depth_multiplier": None,
        "batch_norm_epsilon": None,
        "dropout_rate": 0,
    }
