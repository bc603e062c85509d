"""Tests of fine-tuning: names of both kinds of layers, the head, averages, refusal."""

import os

import golden_files
import numpy as np
import pytest

import mnasnet_models
from utils.base.errors import UserError
from utils.config import settings
from utils.training import optimization, warm_start

import tensorflow.compat.v1 as tf

TINY = {
    "stages": ["r1_k3_s11_e1_i8_o8", "r1_k3_s22_e3_i8_o16_se0.5"],
    "stem_size": 8,
    "head_size": 32,
    "num_classes": 4,
}


def build(name="net", training=True, averages=True, **overrides):
    """A training graph; the network's own variables by name."""
    images = tf.zeros([2, 32, 32, 3])
    logits, _ = mnasnet_models.build_mnasnet_model(images, name, training, {**TINY, **overrides})
    own = {v.op.name: v for v in tf.global_variables()}
    step = tf.train.get_or_create_global_step()
    decay = 0.5 if averages else 0.0
    params = {**settings.default_params(), "use_tpu": False, "moving_average_decay": decay}
    optimization.train_op(tf.reduce_mean(logits), tf.constant(0.1), step, params)
    return own


def save(model_dir, step=7, **more):
    """Saves random weights; returns the path and {name: value} of all variables."""
    rng = np.random.RandomState(5)
    with tf.Graph().as_default(), tf.Session() as session:
        build(**more)
        variables = tf.global_variables()
        session.run(tf.variables_initializer(variables))
        for v in variables:
            value = rng.uniform(1, 2, v.shape.as_list())
            v.load(value.astype(v.dtype.base_dtype.as_numpy_dtype), session)
        path = tf.train.Saver().save(session, os.path.join(model_dir, "model.ckpt"), step)
        return path, session.run({v.op.name: v for v in tf.global_variables()})


def initialized(path, classes=(), **more):
    """{name: value} of all variables of a graph that starts from a checkpoint."""
    own = build(**more)
    scaffold = tf.train.Scaffold(init_fn=warm_start.init_fn(path, classes))
    with tf.train.MonitoredSession(tf.train.ChiefSessionCreator(scaffold)) as session:
        values = session.run({v.op.name: v for v in tf.global_variables()})
    return own, values


def is_head(name):
    return "mnas_head/dense" in name.replace("mnas_net_model/", "")


# Names.


def test_both_kinds_of_layers_have_the_same_common_names():
    rows = {
        kind: golden_files.read(f"variables_mnasnet-a1_{kind}")["variables"]
        for kind in ("keras", "layers")
    }
    shapes = {}
    for kind, variables in rows.items():
        names = [name for name, _, _ in variables]
        common = warm_start.common_names(names)
        assert len(set(common.values())) == len(variables)
        assert warm_start.common_names(sorted(names)) == common
        shapes[kind] = {common[name]: shape for name, shape, _ in variables}
    assert shapes["keras"] == shapes["layers"]
    # Of tf.layers the names are the common ones already.
    assert set(shapes["layers"]) == {name for name, _, _ in rows["layers"]}


def test_common_names_by_hand():
    for name, common in {
        "net/mnas_net_model/mnas_blocks_1/conv2d_9/kernel": "net/mnas_blocks_1/conv2d/kernel",
        "net/mnas_net_model/mnas_blocks_1/se/conv2d_10/bias": "net/mnas_blocks_1/se/conv2d/bias",
        "net/mnas_blocks_1/batch_normalization_1/gamma": None,
        "global_step": None,
    }.items():
        assert warm_start.common_names([name]) == {name: common or name}


# Restoring.


@pytest.mark.parametrize(("from_keras", "to_keras"), [(True, False), (False, True)])
def test_weights_pass_between_both_kinds_of_layers(tmp_path, from_keras, to_keras):
    path, saved = save(str(tmp_path), averages=False, use_keras=from_keras)
    own, values = initialized(path, averages=False, use_keras=to_keras)
    from_common = {
        common: saved[name]
        for name, common in warm_start.common_names(
            [n for n in saved if "RMSProp" not in n and n != "global_step"]
        ).items()
    }
    common = warm_start.common_names(own)
    assert set(common.values()) == set(from_common)
    for name in own:
        np.testing.assert_array_equal(values[name], from_common[common[name]], err_msg=name)


@pytest.mark.parametrize("saved_averages", [True, False])
def test_averaged_weights_come_first_and_averages_start_as_copies(tmp_path, saved_averages):
    path, saved = save(str(tmp_path), averages=saved_averages)
    own, values = initialized(path, averages=True)
    for name in own:
        source = f"{name}/ExponentialMovingAverage" if saved_averages else name
        np.testing.assert_array_equal(values[name], saved[source], err_msg=name)
        average = values[f"{name}/ExponentialMovingAverage"]
        np.testing.assert_array_equal(average, values[name], err_msg=name)


def test_step_and_optimizer_start_afresh(tmp_path):
    path, _ = save(str(tmp_path))
    own, values = initialized(path)
    assert values["global_step"] == 0
    slots = [name for name in values if name.endswith(("RMSProp", "RMSProp_1"))]
    assert len(slots) == 2 * sum(v.trainable for v in own.values())
    for name in slots:
        assert (values[name] == (1 if name.endswith("RMSProp") else 0)).all(), name


def test_another_number_of_classes_skips_the_head_alone(tmp_path, caplog):
    path, saved = save(str(tmp_path), averages=False)
    with caplog.at_level("INFO", "absl"):
        own, values = initialized(path, num_classes=9)
    for name in own:
        average = values[f"{name}/ExponentialMovingAverage"]
        np.testing.assert_array_equal(average, values[name], err_msg=name)
        if is_head(name):
            assert values[name].shape[-1] == 9
            assert (values[name] == 0).all()
        else:
            np.testing.assert_array_equal(values[name], saved[name], err_msg=name)
    assert f"{len(own) - 2} of {len(own)} variables" in caplog.text
    assert "mnas_head/dense/kernel" in caplog.text
    assert "mnas_head/dense/bias" in caplog.text


def test_the_classifier_follows_the_names_of_the_classes(tmp_path, caplog):
    path, saved = save(str(tmp_path))
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\ndog\n")
    with caplog.at_level("INFO", "absl"):
        own, values = initialized(path, ["dog", "ant", "bee", "cow"])
    assert "another" in caplog.text
    heads = [name for name in own if is_head(name)]
    assert len(heads) == 2
    for name in heads:
        expected = saved[f"{name}/ExponentialMovingAverage"][..., [3, 0, 1, 2]]
        np.testing.assert_array_equal(values[name], expected)
        np.testing.assert_array_equal(values[f"{name}/ExponentialMovingAverage"], expected)


def test_a_classifier_of_other_names_starts_at_0(tmp_path, caplog):
    path, saved = save(str(tmp_path), averages=False)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\ndog\n")
    with caplog.at_level("INFO", "absl"):
        own, values = initialized(path, ["ant", "bee", "cow", "elk"], averages=False)
    assert "'elk'" in caplog.text and "'dog'" in caplog.text
    for name in own:
        np.testing.assert_array_equal(values[name], 0 if is_head(name) else saved[name])


def test_a_model_of_another_name_supplies_its_weights(tmp_path):
    path, saved = save(str(tmp_path), averages=False, name="other")
    own, values = initialized(path, averages=False, name="mine")
    for name in own:
        np.testing.assert_array_equal(values[name], saved[name.replace("mine/", "other/", 1)])


@pytest.mark.parametrize("overrides", [{"depth_multiplier": 2.0}, {"head_size": 64}])
def test_a_checkpoint_that_fits_too_little_is_refused(tmp_path, overrides):
    path, _ = save(str(tmp_path), averages=False)
    build(averages=False, **overrides)
    with pytest.raises(UserError, match="90%") as error:
        warm_start.init_fn(path)
    assert path in str(error.value)


def test_a_small_part_may_be_missing(tmp_path, caplog):
    path, saved = save(str(tmp_path), averages=False, head_size=512)
    # Another size of the first depthwise kernel: one small variable.
    stages = ["r1_k5_s11_e1_i8_o8", *TINY["stages"][1:]]
    with caplog.at_level("INFO", "absl"):
        own, values = initialized(path, averages=False, head_size=512, stages=stages)
    (changed,) = [n for n in own if values[n].shape != saved[n].shape]
    assert changed.endswith("mnas_blocks_0/depthwise_conv2d/depthwise_kernel")
    assert changed in caplog.text
    for name in own:
        if name != changed:
            np.testing.assert_array_equal(values[name], saved[name], err_msg=name)


def test_what_is_frozen_may_not_be_missing(tmp_path):
    path, _ = save(str(tmp_path), averages=False, head_size=512)
    stages = ["r1_k5_s11_e1_i8_o8", *TINY["stages"][1:]]
    build(averages=False, head_size=512, stages=stages, frozen="block_0")
    with pytest.raises(UserError, match="mnas_blocks_0/depthwise_conv2d/depthwise_kernel, which"):
        warm_start.init_fn(path)


def test_counts_of_what_is_frozen_and_trained(tmp_path, caplog):
    path, _ = save(str(tmp_path), averages=False)
    with caplog.at_level("INFO", "absl"):
        own, _ = initialized(path, averages=False, frozen="backbone", num_classes=9)
    weights = [v for n, v in own.items() if "moving_" not in n]
    head = 32 * 9 + 9
    total = sum(v.shape.num_elements() for v in weights)
    assert (
        f"Frozen: {len(weights) - 2} variables with {total - head:,} parameters; "
        f"trained: 2 with {head}." in caplog.text
    )


# Finding the checkpoint.


def test_what_names_a_checkpoint(tmp_path):
    path, _ = save(str(tmp_path), averages=False)
    for name in (str(tmp_path), path, path + ".index", path + ".data-00000-of-00001"):
        assert warm_start.resolve(name) == path
    for name in ("nowhere", "model.ckpt-8"):
        with pytest.raises(UserError, match=name):
            warm_start.resolve(os.path.join(str(tmp_path), name))


def test_a_damaged_checkpoint_is_a_users_error(tmp_path):
    path, _ = save(str(tmp_path), averages=False)
    with open(path + ".index", "r+b") as f:
        f.truncate(100)
    build()
    with pytest.raises(UserError, match=r"--init_checkpoint=.*model\.ckpt-7"):
        warm_start.init_fn(path)
