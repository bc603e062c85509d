"""Which model a path names, and what is known of it."""

import os
import shutil

import made_predictions
import numpy as np
import pytest
from exports import saved_model_in, settings_of

import mnasnet_main
from utils.base.errors import UserError
from utils.exporting import classifiers
from utils.reading import records
from utils.showing import models
from utils.training import evaluations

import tensorflow.compat.v1 as tf

NAMES = [str(number) for number in range(10)]


def load(path, data_dir, labels=None):
    return models.load(str(path), data_dir, mnasnet_main.mnasnet_model_fn, labels)


def pictures_of(data_dir, count=5):
    [path] = records.list_files(data_dir, records.EVAL_PREFIX)
    found = [
        records.unpack(record, path, n)[0] for n, record in enumerate(records.read_records(path))
    ]
    return found[:count]


def test_a_checkpoint_and_its_exports_give_the_same(model_dir, plain, digits_dir, tmp_path):
    """The exports have the averaged weights of the checkpoint, and so has the report."""
    pictures = pictures_of(digits_dir)
    expected = classifiers.load(plain)
    expected = np.stack([expected.probabilities(picture) for picture in pictures])
    for path, kind in (
        (plain, "SavedModel"),
        (saved_model_in(plain), "SavedModel"),
        (f"{plain}/tiny.tflite", "TensorFlow Lite file"),
    ):
        model = load(path, digits_dir)
        assert (model.kind, model.step, model.num_classes) == (kind, 3, 10)
        assert (model.export_dir, model.name) == (plain, "tiny")
        np.testing.assert_allclose(model.classify(pictures), expected, atol=1e-5)
    params = settings_of(model_dir, None, data_dir=digits_dir)
    model = models.of_checkpoint(params, f"{model_dir}/model.ckpt-3", mnasnet_main.mnasnet_model_fn)
    np.testing.assert_allclose(model.classify(pictures), expected, atol=1e-5)
    assert (model.step, model.label_smoothing) == (3, 0.1)


def test_a_model_dir_its_checkpoints_and_its_archive(trained, digits_dir):
    best = evaluations.best(trained)["global_step"]
    for path, step in (
        (trained, 20),
        (f"{trained}/model.ckpt-10", 10),
        (f"{trained}/model.ckpt-10.index", 10),
        (f"{trained}/archive", best),
    ):
        model = load(path, digits_dir)
        assert (model.kind, model.step, model.name) == ("checkpoint", step, "tiny")
        assert model.model_dir.rstrip("/") == trained
        assert list(model.label_names) == NAMES
        assert model.export_dir is None


def test_names_of_classes(trained, plain, digits_dir, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"digit {name}\n" for name in NAMES))
    for path in (trained, plain):
        model = load(path, digits_dir, str(tmp_path / "names.txt"))
        assert model.label_names[3] == "digit 3"
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="2 label names do not fit"):
        load(trained, digits_dir, str(tmp_path / "few.txt"))


def test_without_names_classes_have_numbers(plain, tmp_path):
    saved = shutil.copytree(saved_model_in(plain), tmp_path / "model")
    shutil.rmtree(saved / "assets.extra", ignore_errors=True)
    data = tmp_path / "data"
    data.mkdir()
    made_predictions.write_records(data, range(10))
    model = load(saved, str(data))
    assert list(model.label_names) == [f"class {number}" for number in range(10)]
    assert (model.export_dir, model.model_dir, model.step) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "--model=.*nothing does not exist: name a trained or an exported model"),
        ("empty", "--model=.*empty is not a model: name a .tflite file"),
        ("broken.tflite", "broken.tflite"),
    ],
)
def test_what_is_not_a_model(tmp_path, digits_dir, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tflite").write_bytes(b"nothing")
    with pytest.raises(UserError, match=words):
        load(tmp_path / name, digits_dir)


def test_a_checkpoint_without_finite_weights(trained, digits_dir, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "model")
    reader = tf.train.load_checkpoint(f"{trained}/model.ckpt-20")
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    with tf.Session() as session:
        for name, value in values.items():
            tf.get_variable(
                name, initializer=value * np.nan if value.dtype == np.float32 else value
            )
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, f"{folder}/model.ckpt", 20, write_meta_graph=False)
    with pytest.raises(UserError, match="infinite numbers or NaN"):
        load(os.path.join(folder, "model.ckpt-20"), digits_dir).classify(pictures_of(digits_dir, 1))
