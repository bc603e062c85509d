"""Tests of trainings on cached features, from the command to the checkpoint."""

import os
import shutil
import uuid

import numpy as np
import pytest
from main_runs import is_frozen, log_of, refusal, run_here, tiny_params, values_of, write_data
from programs import flags
from shades import NUM_IMAGES, SIZE, batches, jpeg

import imagenet_input
import mnasnet_main
import mnasnet_model
from utils import pretrained
from utils.base import memory
from utils.base.errors import UserError
from utils.building import build_photographs
from utils.reading import examples
from utils.running import cached_views
from utils.running.cached_views import Features, ViewsInput, rows_of_step
from utils.training import checkpoints, evaluations

import tensorflow.compat.v1 as tf

BACKBONE = {"freeze_backbone": True}
ROWS = 2 * 1437


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """Initial weights, with averages that differ from them."""
    model_dir = str(tmp_path_factory.mktemp("trained"))
    run_here(*flags(data_dir=digits_dir, model_dir=model_dir, mode="train", train_steps=2))
    return model_dir


def views_flags(digits_dir, trained, model_dir, **more):
    given = {
        "data_dir": digits_dir,
        "model_dir": model_dir,
        "init_checkpoint": trained,
        "freeze_backbone": True,
        "cached_views": 2,
        "mode": "train",
        "tf_random_seed": 1,
        "train_batch_size": 100,
        "dropout_rate": 0,
        "train_steps": 4,
    }
    return flags(**{**given, **more})


@pytest.fixture(scope="module")
def tuned(digits_dir, trained, tmp_path_factory):
    """A model_dir after four steps, with an evaluation after two, and its log."""
    model_dir = str(tmp_path_factory.mktemp("tuned"))
    run_here(*views_flags(digits_dir, trained, model_dir, mode="train_and_eval", steps_per_eval=2))
    return model_dir


@pytest.fixture
def copy(tuned, tmp_path):
    """A copy of `tuned` of the test's own."""
    return shutil.copytree(tuned, tmp_path / "copy")


def latest(model_dir):
    return values_of(checkpoints.latest(str(model_dir)))


def features_of(model_dir):
    return cached_views.read(os.path.join(str(model_dir), cached_views.FILE_NAME), {})


def test_a_checkpoint_has_all_variables_and_only_the_classifier_moved(tuned, trained):
    before, after = latest(trained), latest(tuned)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
    assert after["global_step"] == 4
    for name, value in after.items():
        weight = name.split("/RMSProp")[0].removesuffix("/ExponentialMovingAverage")
        if is_frozen(weight, BACKBONE) and "RMSProp" not in name:
            # As without cached views, initial weights are the averages.
            average = before[weight + "/ExponentialMovingAverage"]
            np.testing.assert_array_equal(value, average, err_msg=name)
    kernel = next(n for n in after if n.endswith("dense/kernel"))
    assert {n for n in after if n.startswith(kernel)} == {
        kernel + end for end in ("", "/ExponentialMovingAverage", "/RMSProp", "/RMSProp_1")
    }
    assert (after[kernel] != before[kernel + "/ExponentialMovingAverage"]).any()
    assert (after[kernel] != after[kernel + "/ExponentialMovingAverage"]).any()
    assert (after[kernel + "/RMSProp"] != 1).any() and (after[kernel + "/RMSProp_1"] != 0).any()


def test_the_evaluations_are_those_of_any_training(tuned):
    assert [row["global_step"] for row in evaluations.read(tuned)] == [2, 4]
    assert checkpoints.step_of(evaluations.best(tuned)["checkpoint"]) in (2, 4)


def test_a_step_that_is_fed_features_is_the_step_on_the_pictures(tmp_path):
    params = tiny_params(
        freeze_backbone=True,
        cached_views=1,
        train_batch_size=8,
        num_train_images=80,
        base_learning_rate=1.0,
        warmup_epochs=0.0,
        dropout_rate=0.0,
    )
    rng = np.random.RandomState(0)
    images = rng.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    labels = rng.randint(0, 10, 8).astype(np.int32)
    tf.train.get_or_create_global_step()
    spec = mnasnet_main.mnasnet_model_fn(
        tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.TRAIN, params
    )
    (pooled,) = tf.get_collection(mnasnet_model.FEATURES)
    (given,) = tf.get_collection(cached_views.LABELS)
    found = []
    saver = tf.train.Saver()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        path = saver.save(session, str(tmp_path / "start"), write_meta_graph=False)
        values, start = session.run([pooled, tf.global_variables()])
        for feed in ({}, {pooled: values, given: labels}):
            saver.restore(session, path)
            loss, _ = session.run([spec.loss, spec.train_op], feed)
            found.append([loss, *session.run(tf.global_variables())])
    for plain, fed in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, fed)
    assert any((ours != before).any() for ours, before in zip(found[0][1:], start, strict=True))


def test_a_resumed_training_goes_on_as_one_that_never_stopped(
    digits_dir, trained, tuned, tmp_path, caplog
):
    common = views_flags(digits_dir, trained, tmp_path)
    log = log_of(caplog, *common, "--train_steps=2")
    assert f"Computed the features of {ROWS} views" in log and "MB on disk and in memory" in log
    log = log_of(caplog, *common)
    assert f"Using the features of {ROWS} views" in log and "Computed" not in log
    expected, found = latest(tuned), latest(tmp_path)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_training_goes_on_without_cached_views(digits_dir, trained, copy, caplog):
    log = log_of(caplog, *views_flags(digits_dir, trained, copy, cached_views=0, train_steps=5))
    assert "Resuming from step 4 of 5" in log and "cached_views 0 (was 2)" in log
    assert latest(copy)["global_step"] == 5


def test_features_of_other_settings_are_computed_again(digits_dir, trained, copy, caplog):
    before = features_of(copy)
    other = views_flags(digits_dir, trained, copy, cached_views=1, random_flip=False, train_steps=5)
    log = log_of(caplog, *other)
    assert "(other image settings, number of views)" in log
    after = features_of(copy)
    assert len(after.labels) == 1437
    # The first view of half of the pictures was mirrored.
    assert 0.3 < (before.values[:1437] != after.values).any(1).mean() < 0.7


def test_a_damaged_file_is_computed_again(digits_dir, trained, copy, caplog):
    before = features_of(copy)
    path = copy / cached_views.FILE_NAME
    path.write_bytes(path.read_bytes()[:100_000])
    log = log_of(caplog, *views_flags(digits_dir, trained, copy, train_steps=5))
    assert str(path) in log and "computed again" in log
    np.testing.assert_array_equal(features_of(copy).values, before.values)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"freeze_backbone": False}, "needs --freeze_backbone"),
        ({"use_tpu": True, "tpu": "name"}, "is for GPU and CPU"),
        ({"data_dir": "null"}, "needs the TFRecord files of a --data_dir"),
        ({"cached_views": -1}, "at least 0"),
    ],
)
def test_where_views_cannot_be_cached(digits_dir, tmp_path, given, words):
    assert words in refusal(*views_flags(digits_dir, "weights", tmp_path, **given))


def test_bigtable_and_other_processes_have_no_cached_views(digits_dir, tmp_path, monkeypatch):
    common = ["--freeze_backbone", "--cached_views=2", f"--model_dir={tmp_path}"]
    table = ["--bigtable_instance=i", "--bigtable_project=p"]
    assert "needs the TFRecord files" in refusal(*common, *table)
    assert "is for one process" in refusal(*common, f"--data_dir={digits_dir}", "--num_workers=2")


def test_weights_that_are_not_yet_their_averages(digits_dir, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "m")
    message = refusal(*views_flags(digits_dir, trained, tmp_path / "m"))
    assert "are not yet their averages" in message
    assert f"--init_checkpoint={tmp_path}/m --model_dir=NEW" in message
    assert not (tmp_path / "m" / cached_views.FILE_NAME).exists()


def test_too_many_views_for_the_disk_or_the_memory(digits_dir, trained, tmp_path, monkeypatch):
    given = views_flags(digits_dir, trained, tmp_path, cached_views=3)
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    message = refusal(*given)
    assert "22.1 MB" in message and f"the disk of {tmp_path}, which has 20.0 MB left" in message
    monkeypatch.setattr(memory, "free_memory", lambda: 1_000_000)
    message = refusal(*given)
    assert "--cached_views=3" in message and "1.0 MB are free" in message


def test_a_damaged_picture_is_named_and_nothing_is_left(trained, tmp_path):
    good = [examples.example(jpeg(9 * n), n % 10 + 1) for n in range(25)]
    bad = [*good, examples.example(jpeg(1)[:200], 1)]
    write_data(tmp_path / "data", bad, good)
    message = refusal(
        *views_flags(
            tmp_path / "data",
            trained,
            tmp_path / "m",
            train_batch_size=4,
            num_train_images=26,
            num_eval_images=25,
            num_label_classes=10,
        )
    )
    assert "train-00000-of-00001, record 25" in message
    assert not [name for name in os.listdir(tmp_path / "m") if name.startswith("cached")]


@pytest.fixture(params=["folder", "bucket"])
def path(request, tmp_path):
    folder = str(tmp_path) if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}"
    return f"{folder}/{cached_views.FILE_NAME}"


@pytest.fixture
def features():
    rng = np.random.RandomState(0)
    values = rng.uniform(-1, 1, (500, 6)).astype(np.float32)
    return Features(values, rng.randint(0, 9, 500).astype(np.int32))


def test_features_are_read_as_they_were_written(path, features):
    origin = {"weights": "abc", "number of views": 2}
    cached_views.write(path, origin, features)
    assert tf.io.gfile.listdir(os.path.dirname(path)) == [cached_views.FILE_NAME]
    for ours, theirs in zip(cached_views.read(path, origin), features, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="other weights"):
        cached_views.read(path, {**origin, "weights": "abd"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"something else",
        lambda content: content[: len(content) // 2],
        lambda content: content[:900] + bytes([content[900] ^ 1]) + content[901:],
    ],
)
def test_a_damaged_file_is_named(tmp_path, features, damage):
    path = tmp_path / "file"
    cached_views.write(str(path), {}, features)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"^{path}"):
        cached_views.read(str(path), {})


def test_a_disk_that_takes_no_more(tmp_path, features, file_size_limit):
    path = str(tmp_path / "file")
    with file_size_limit(10_000), pytest.raises(UserError, match=f"^{path} cannot be written"):
        cached_views.write(path, {}, features)
    assert os.listdir(tmp_path) == []


def rows(steps, *, num_images, num_views, batch_size, seed):
    taken = (rows_of_step(step, num_images, num_views, batch_size, seed) for step in steps)
    return np.concatenate(list(taken))


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_an_epoch_has_each_picture_once_and_the_next_one_another_view_of_it(batch_size):
    steps = range(72 // batch_size + 1)
    taken = rows(steps, num_images=12, num_views=3, batch_size=batch_size, seed=1)
    epochs = taken[:72].reshape([6, 12])
    images, views = epochs % 12, epochs // 12
    np.testing.assert_array_equal(np.sort(images, 1), [range(12)] * 6)
    by_image = np.take_along_axis(views, np.argsort(images, 1), 1)
    for start in (0, 1, 2, 3):
        np.testing.assert_array_equal(np.sort(by_image[start : start + 3], 0).T, [[0, 1, 2]] * 12)
    assert set(views[0]) == {0, 1, 2}  # and an epoch has all of them
    assert len({tuple(epoch) for epoch in images}) == 6  # each in an order of its own


def test_a_batch_larger_than_the_data():
    taken = rows([0], num_images=2, num_views=1, batch_size=5, seed=0)
    assert sorted(taken) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def views_of(data_dir, batch_size, limit, views=2, **more):
    source = ViewsInput(True, False, False, data_dir, SIZE, 2, views=views, **{"seed": 1, **more})
    images, labels = zip(*batches(source, batch_size, limit), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("cache", [False, True])
def test_each_picture_has_so_many_views_and_padding_follows(numbered_dir, cache):
    images, labels = views_of(numbered_dir, 10, 6, cache=cache)
    expected = [*range(NUM_IMAGES)] * 2  # in the order of the files
    np.testing.assert_array_equal(labels[: 2 * NUM_IMAGES], expected)
    assert (labels[2 * NUM_IMAGES :] == imagenet_input.PADDING).all()
    assert images.shape == (60, SIZE, SIZE, 3) and (images[2 * NUM_IMAGES :] == 0).all()


def test_views_of_a_picture_differ_and_come_again_with_the_seed(digits_dir):
    first, labels = views_of(digits_dir, 100, 29)
    assert (labels[: 2 * 1437] >= 0).all() and (labels[2 * 1437 :] < 0).all()
    differing = (first[:1437] != first[1437 : 2 * 1437]).any((1, 2, 3))
    assert differing.mean() > 0.9
    again, _ = views_of(digits_dir, 64, 4)
    np.testing.assert_array_equal(first[:256], again)


@pytest.mark.slow
def test_natural_pictures_are_told_apart(tmp_path):
    """50 epochs on four views; trained on the pictures themselves, 99.1 % are right."""
    build_photographs.build(f"{tmp_path}/natural")
    pretrained.prepare(f"{tmp_path}/weights")
    run_here(
        "--config_file=finetune",
        f"--init_checkpoint={tmp_path}/weights",
        "--freeze_until=none",
        "--freeze_backbone",
        "--cached_views=4",
        "--train_steps=688",
        "--steps_per_eval=688",
        f"--data_dir={tmp_path}/natural",
        f"--model_dir={tmp_path}/model",
    )
    assert evaluations.best(f"{tmp_path}/model")["top_1_accuracy"] >= 0.975
