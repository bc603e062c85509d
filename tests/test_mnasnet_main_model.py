"""Tests of the model function: golden losses, metrics, names, and what freezing changes."""

import json
import pathlib

import numpy as np
import pytest
from golden_weights import weight as golden_weight
from main_runs import is_frozen, tiny_params

import imagenet_input
import mnasnet_main
from utils.config import settings

import tensorflow.compat.v1 as tf

GOLDEN = pathlib.Path(__file__).parent / "golden"
# Processors round sums otherwise, and each step builds on the steps before it: with the kernels for
# processors without AVX-512 the losses differ by up to 0.7 %, and the momenta of the stem by 28 %.
LOSS_RTOL = [1e-5, 3e-3, 1e-2, 1.5e-2, 1.5e-2]
SLOT_RTOL = {"RMSProp": 0.03, "RMSProp_1": 0.4}


def test_training_losses_and_variables_agree_with_golden_files():
    golden = json.loads((GOLDEN / "train_mnasnet-a1_64.json").read_text())
    size = golden["image_size"]
    rng = np.random.RandomState(11)
    images = rng.uniform(0, 255, (8, size, size, 3)).astype(np.float32)
    labels = rng.randint(0, 10, 8).astype(np.int32)
    params = settings.default_params()
    params.update(
        num_label_classes=golden["num_classes"],
        train_batch_size=golden["batch_size"],
        num_train_images=int(golden["batch_size"] * golden["steps_per_epoch"]),
        dropout_rate=0,
    )
    spec = mnasnet_main.mnasnet_model_fn(
        tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.TRAIN, params
    )
    variables = {v.op.name: v for v in tf.global_variables()}
    ours = sorted([name, v.shape.as_list()] for name, v in variables.items())
    assert ours == [list(row) for row in golden["all_variables"]]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values, initializers = {}, []
        for name, variable in variables.items():
            plain = name.removesuffix("/ExponentialMovingAverage")
            if name == "global_step":
                values[variable.initializer.inputs[1]] = golden["start_global_step"]
                initializers.append(variable.initializer)
            elif "RMSProp" not in name:
                value = golden_weight(plain, variable.shape.as_list())
                values[variable.initializer.inputs[1]] = value
                initializers.append(variable.initializer)
        # An initializer is an assignment: it takes a fed value without a new operation.
        session.run(initializers, values)
        losses = [session.run([spec.loss, spec.train_op])[0] for _ in golden["losses"]]
        for loss, expected, rtol in zip(losses, golden["losses"], LOSS_RTOL, strict=True):
            np.testing.assert_allclose(loss, expected, rtol=rtol)
        after = session.run({name: variables[name] for name in golden["mean_abs_after"]})
    for name, expected in golden["mean_abs_after"].items():
        rtol = SLOT_RTOL.get(name.rpartition("/")[2], 1e-3)
        np.testing.assert_allclose(np.abs(after[name]).mean(), expected, rtol=rtol, err_msg=name)


def test_evaluation_counts_only_images_that_are_no_padding():
    images = np.random.RandomState(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    labels = np.array([1, 2, 3, 4, imagenet_input.PADDING, imagenet_input.PADDING], np.int32)
    padded = images.copy()
    padded[4:] = 0

    def evaluate(images, labels):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.train.get_or_create_global_step()
            spec = mnasnet_main.mnasnet_model_fn(
                tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.EVAL, tiny_params()
            )
            metrics = spec.eval_metrics[0](*spec.eval_metrics[1])
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            for variable in tf.global_variables():
                if variable.op.name != "global_step":
                    value = golden_weight(variable.op.name, variable.shape.as_list())
                    variable.load(value, session)
            session.run([update for _, update in metrics.values()])
            values = session.run({name: value for name, (value, _) in metrics.items()})
            return {**values, "loss": session.run(spec.loss)}

    whole, part = evaluate(padded, labels), evaluate(images[:4], labels[:4])
    assert whole["images"] == part["images"] == 4
    for name, value in part.items():
        np.testing.assert_allclose(whole[name], value, rtol=1e-5, err_msg=name)


def test_prediction_names_that_clients_use():
    spec = mnasnet_main.mnasnet_model_fn(
        tf.zeros([2, 32, 32, 3]), None, tf.estimator.ModeKeys.PREDICT, tiny_params()
    )
    assert spec.predictions["classes"].op.name == "ArgMax"
    assert spec.predictions["probabilities"].op.name == "softmax_tensor"
    assert tf.get_default_graph().get_tensor_by_name("logits:0").shape.as_list() == [2, 10]
    assert "serving_default" in spec.export_outputs


@pytest.mark.parametrize(
    "changes", [{"use_keras": False, "precision": "bfloat16"}, {"moving_average_decay": 0}]
)
def test_a_training_step_with_other_settings(changes):
    params = tiny_params(train_batch_size=4, num_train_images=40, **changes)
    spec = mnasnet_main.mnasnet_model_fn(
        tf.random_uniform([4, 32, 32, 3], 0, 255, seed=1),
        tf.constant([0, 1, 2, 3]),
        tf.estimator.ModeKeys.TRAIN,
        params,
    )
    shadows = [v for v in tf.global_variables() if "ExponentialMovingAverage" in v.name]
    assert bool(shadows) == (params["moving_average_decay"] > 0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(spec.train_op)
        assert np.isfinite(session.run(spec.loss))
        assert session.run(tf.train.get_global_step()) == 1


def training_graph(**changes):
    """(spec, {name: variable}) of a training step of the tiny network, without dropout."""
    params = tiny_params(train_batch_size=4, num_train_images=40, warmup_epochs=0, **changes)
    spec = mnasnet_main.mnasnet_model_fn(
        tf.random_uniform([4, 32, 32, 3], 0, 255, seed=1),
        tf.constant([0, 1, 2, 3]),
        tf.estimator.ModeKeys.TRAIN,
        params,
    )
    return spec, {v.op.name: v for v in tf.global_variables()}


BACKBONE, BLOCKS = {"freeze_backbone": True}, {"freeze_until": "block_3"}


# Each kind of layers and each way to freeze once; the other two pairs are slow tests.
@pytest.mark.parametrize(
    ("use_keras", "freeze"),
    [
        (True, BACKBONE),
        (False, BLOCKS),
        pytest.param(True, BLOCKS, marks=pytest.mark.slow),
        pytest.param(False, BACKBONE, marks=pytest.mark.slow),
    ],
)
def test_frozen_layers_stay_and_the_others_train(use_keras, freeze):
    spec, variables = training_graph(use_keras=use_keras, **freeze)
    trainable = {v.op.name for v in tf.trainable_variables()}
    weights = {n for n in variables if n.endswith(("kernel", "bias", "gamma", "beta"))}
    assert trainable == {name for name in weights if not is_frozen(name, freeze)}
    assert trainable < weights
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = session.run(variables)
        for _ in range(2):
            session.run(spec.train_op)
        after = session.run(variables)
    changed = {name for name in variables if (before[name] != after[name]).any()}
    # Weights, moving statistics, averages and slots alike. (Some trained weights get no gradient.)
    assert not [name for name in changed if is_frozen(name, freeze)]
    left = {name for name in trainable if name not in changed}
    assert len(left) < 0.1 * len(trainable)
    statistics = {n for n in variables if n.endswith(("moving_mean", "moving_variance"))}
    assert changed & statistics == {n for n in statistics if not is_frozen(n, freeze)}


@pytest.mark.parametrize("use_keras", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_checkpoint_has_the_same_variables_whatever_is_frozen(use_keras):
    names = []
    for freeze in ({}, BACKBONE, BLOCKS):
        with tf.Graph().as_default():
            _, variables = training_graph(use_keras=use_keras, **freeze)
            names.append({n: v.shape.as_list() for n, v in variables.items()})
    assert names[0] == names[1] == names[2]


def test_a_frozen_backbone_has_no_gradient_no_decay_and_normalizes_as_in_evaluation():
    graph = tf.get_default_graph()
    spec, variables = training_graph(freeze_backbone=True, weight_decay=1.0, use_keras=False)
    norms = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert norms and not any(op.get_attr("is_training") for op in norms)
    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == []
    assert not [op for op in graph.get_operations() if "Backprop" in op.type]
    # Without decay of the backbone the loss does not depend on how large its weights are: the
    # next batch norm's statistics are fixed, so a larger last beta would show in the logits alone.
    scaled = next(v for n, v in variables.items() if n.endswith("mnas_head/dense/kernel"))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        decay = tf.nn.l2_loss(scaled)
        loss, cross_entropy, squares = session.run([spec.loss, tf.losses.get_losses()[0], decay])
    np.testing.assert_allclose(loss - cross_entropy, squares, rtol=1e-3)


def test_evaluation_does_not_know_of_freezing():
    mnasnet_main.mnasnet_model_fn(
        tf.zeros([4, 32, 32, 3]),
        tf.constant([0, 1, 2, 3]),
        tf.estimator.ModeKeys.EVAL,
        tiny_params(freeze_backbone=True),
    )
    weights = [v for v in tf.global_variables() if "moving_" not in v.op.name]
    assert len(tf.trainable_variables()) == len(weights)
