"""Makes checkpoints and exports of a tiny network."""

import json
import os
import shutil

import pytest

import mnasnet_main
from utils.base import files
from utils.config import settings
from utils.exporting import export, measure

import tensorflow.compat.v1 as tf

SIZE = 32


SPEC = {
    "stages": ["r1_k3_s22_e1_i8_o8_noskip", "r2_k3_s22_e3_i8_o16_se0.5"],
    "stem_size": 8,
    "head_size": 32,
}


def settings_of(model_dir, export_dir, **more):
    return {
        **settings.default_params(),
        "use_tpu": False,
        "model_name": "tiny",
        "model_spec": SPEC,
        "num_label_classes": 10,
        "num_eval_images": 10,
        "eval_batch_size": 10,
        "train_batch_size": 4,
        "num_train_images": 40,
        "iterations_per_loop": 1,
        "save_checkpoints_steps": 1,
        "input_image_size": SIZE,
        "resize_method": "bilinear",
        "model_dir": str(model_dir),
        "export_dir": str(export_dir),
        **more,
    }


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A folder with the checkpoint of a training graph: with optimizer slots and averages."""
    folder = str(tmp_path_factory.mktemp("model"))
    params = settings_of(folder, None)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)  # before the first operation: it fixes those that are made later
        images = tf.random_uniform([4, SIZE, SIZE, 3], 0, 255, seed=1)
        labels = tf.constant([0, 1, 2, 3])
        tf.train.get_or_create_global_step()
        spec = mnasnet_main.mnasnet_model_fn(images, labels, tf.estimator.ModeKeys.TRAIN, params)
        session.run(tf.global_variables_initializer())
        for _ in range(3):
            session.run(spec.train_op)
        tf.train.Saver().save(session, folder + "/model.ckpt", 3, write_meta_graph=False)
    return folder


def make_export(params):
    checkpoint = params["model_dir"] + "/model.ckpt-3"
    export.export(params, checkpoint, mnasnet_main.mnasnet_model_fn)


def report_of(export_dir):
    return json.loads(files.read_text(os.path.join(export_dir, measure.REPORT_FILE)))


def saved_model_in(export_dir):
    made = report_of(export_dir)["files"]
    return os.path.join(export_dir, next(n for n in made if made[n]["kind"] == "SavedModel"))


@pytest.fixture(scope="session")
def exported(model_dir, digits_dir, tmp_path_factory):
    """A folder with all files and the graph for TPUs."""
    folder = str(tmp_path_factory.mktemp("export"))
    make_export(
        settings_of(
            model_dir,
            folder,
            data_dir=digits_dir,
            post_quantize=True,
            quantize="float16,int8",
            export_to_tpu=True,
            export_eval_images=10,
        )
    )
    return folder


@pytest.fixture(scope="session")
def plain(model_dir, tmp_path_factory):
    """A folder with a SavedModel and a float32 file, measured on random images."""
    folder = str(tmp_path_factory.mktemp("plain"))
    make_export(settings_of(model_dir, folder))
    return folder


def listing(folder):
    """Every file below a folder of any file system, by its path from there, with its size."""
    found = {}
    for place, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[path.removeprefix(folder).lstrip("/")] = tf.io.gfile.stat(path).length
    return found


def copied(folder, path):
    """Copies a folder; returns the copy's path."""
    shutil.copytree(folder, path)
    return str(path)
