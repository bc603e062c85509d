"""Tests of the recipe in numbers: schedule, RMSProp, averages, weight decay."""

import math

import golden_weights
import numpy as np
import pytest

import mnasnet_models
from utils.config import settings
from utils.training import optimization

import tensorflow.compat.v1 as tf

TINY = {"stages": ["r2_k3_s22_e3_i8_o8_se0.5"], "stem_size": 8, "head_size": 16, "num_classes": 4}


def params_with(**more):
    return {**settings.default_params(), "use_tpu": False, **more}


def rates(params, steps):
    step = tf.placeholder(tf.int64, [])
    rate = optimization.learning_rate(step, params)
    assert rate.dtype == tf.float32
    assert rate.shape.as_list() == []
    with tf.Session() as session:
        return np.array([session.run(rate, {step: value}) for value in steps])


# The schedule.


def test_steps_per_epoch_are_not_rounded():
    assert optimization.steps_per_epoch(params_with()) == 1281167 / 1024


def test_default_schedule():
    # An epoch is 1251.14 steps: warm-up ends at 6255, the staircase drops every 3002.73 steps.
    expected = {
        0: 0,
        1: 0.064 / 6255,
        1000: 0.064 * 1000 / 6255,
        6254: 0.064 * 6254 / 6255,
        6255: 0.064 * 0.97**2,
        9008: 0.064 * 0.97**2,
        9009: 0.064 * 0.97**3,
        12010: 0.064 * 0.97**3,
        12011: 0.064 * 0.97**4,
        437897: 0.064 * 0.97**145,
    }
    ours = rates(params_with(), expected)
    np.testing.assert_allclose(ours, list(expected.values()), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_batch_size": 256},
        {"train_batch_size": 4096, "warmup_epochs": 0.5},
        {"base_learning_rate": 0.1, "lr_decay_rate": 0.5, "lr_decay_epochs": 1.0},
        {"num_train_images": 1437, "train_batch_size": 64, "warmup_epochs": 2.5},
    ],
)
def test_schedule_by_hand(changes):
    params = params_with(**changes)
    epoch = params["num_train_images"] / params["train_batch_size"]
    peak = params["base_learning_rate"] * params["train_batch_size"] / 256
    warmup = int(params["warmup_epochs"] * epoch)
    steps = sorted({int(epoch * share) for share in np.linspace(0, 20, 97)} | {warmup - 1, warmup})
    expected = [
        peak * step / warmup
        if step < warmup
        else peak
        * params["lr_decay_rate"] ** math.floor(step / (params["lr_decay_epochs"] * epoch) + 1e-9)
        for step in steps
    ]
    np.testing.assert_allclose(rates(params, steps), expected, rtol=1e-4)


def test_staircase_is_flat_between_its_edges():
    # 100 steps an epoch: the edges are 240, 480, ...
    params = params_with(num_train_images=10000, train_batch_size=100, warmup_epochs=0)
    ours = rates(params, range(0, 720))
    peak = 0.016 * 100 / 256
    for edge, power in ((0, 0), (240, 1), (480, 2)):
        np.testing.assert_allclose(ours[edge : edge + 240], peak * 0.97**power, rtol=1e-5)


def test_no_warmup():
    np.testing.assert_allclose(rates(params_with(warmup_epochs=0), [0, 1]), [0.064] * 2, rtol=1e-6)
    # Less than a step of warm-up is none.
    params = params_with(warmup_epochs=0.0001)
    np.testing.assert_allclose(rates(params, [0]), [0.064], rtol=1e-6)


def test_a_learning_rate_of_zero_is_possible():
    assert not rates(params_with(base_learning_rate=0.0), [0, 10, 10000]).any()


# A step.


def by_hand_rmsprop(gradients, rate, decay, momentum, epsilon):
    """TensorFlow's RMSProp on a scalar that starts at 1; its mean square starts at 1."""
    value, square, velocity = 1.0, 1.0, 0.0
    for gradient in gradients:
        square = decay * square + (1 - decay) * gradient**2
        velocity = momentum * velocity + rate * gradient / math.sqrt(square + epsilon)
        value -= velocity
        yield value


def train(params, gradients, start=0, rate=0.1):
    """Values of a scalar, its average and the global step after each gradient."""
    gradient = tf.placeholder(tf.float32, [])
    x = tf.get_variable("x", [], initializer=tf.ones_initializer())
    step = tf.train.get_or_create_global_step()
    op = optimization.train_op(gradient * x, tf.constant(rate), step, params)
    averages = [v for v in tf.global_variables() if "ExponentialMovingAverage" in v.op.name]
    rows = []
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(tf.assign(step, start))
        for value in gradients:
            session.run(op, {gradient: value})
            rows.append(session.run([x, step, *averages]))
    return rows


@pytest.mark.parametrize(
    "changes", [{}, {"rmsprop_decay": 0.5, "momentum": 0.0, "rmsprop_epsilon": 1.0}]
)
def test_rmsprop_by_hand(changes):
    params = params_with(**changes)
    gradients = [0.5, -2.0, 3.0, 0.1]
    rows = train(params, gradients)
    expected = by_hand_rmsprop(
        gradients, 0.1, params["rmsprop_decay"], params["momentum"], params["rmsprop_epsilon"]
    )
    np.testing.assert_allclose([row[0] for row in rows], list(expected), rtol=1e-5)
    assert [row[1] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize(("decay", "start"), [(0.9999, 0), (0.9999, 300), (0.3, 5)])
def test_averages_by_hand(decay, start):
    rows = train(params_with(moving_average_decay=decay), [1.0, 2.0, -1.0], start)
    average = 1.0  # it starts as a copy of the weight
    for value, step, ours in rows:
        # The published recipe: the step after the update, so that early averages follow fast.
        factor = min(decay, (1 + step) / (10 + step))
        average = factor * average + (1 - factor) * value
        np.testing.assert_allclose(ours, average, rtol=1e-5)


def test_no_averages_at_a_decay_of_zero():
    assert optimization.moving_average(params_with(moving_average_decay=0.0)) is None
    rows = train(params_with(moving_average_decay=0.0), [1.0])
    assert len(rows[0]) == 2
    assert not [v for v in tf.global_variables() if "ExponentialMovingAverage" in v.op.name]


def test_slots_have_the_published_names():
    train(params_with(), [1.0])
    assert {v.op.name for v in tf.global_variables()} == {
        "x",
        "x/RMSProp",
        "x/RMSProp_1",
        "x/ExponentialMovingAverage",
        "global_step",
    }


# Which variables.


@pytest.fixture(params=[True, False], ids=["keras", "layers"])
def trained_network(request):
    """A small network with its training graph: (its own variables by name, the step)."""
    images = tf.constant(np.random.RandomState(0).standard_normal((4, 32, 32, 3)), tf.float32)
    overrides = {**TINY, "use_keras": request.param}
    logits, _ = mnasnet_models.build_mnasnet_model(images, "net", True, overrides)
    own = {v.op.name: v for v in tf.global_variables()}
    step = tf.train.get_or_create_global_step()
    loss = tf.reduce_mean(tf.square(logits))
    op = optimization.train_op(loss, tf.constant(0.01), step, params_with())
    return own, op


def names(variables):
    return {v.op.name for v in variables}


def test_averaged_variables_are_all_of_the_network_and_never_a_shadow(trained_network):
    own, _ = trained_network
    assert any("moving_mean" in name for name in own)
    averaged = optimization.averaged_variables()
    assert len(averaged) == len(names(averaged))
    # Called again with the shadows in the graph, as a second training graph or an export does.
    assert names(averaged) == set(own)
    shadows = {n for n in names(tf.global_variables()) if n.endswith("/ExponentialMovingAverage")}
    assert shadows == {f"{name}/ExponentialMovingAverage" for name in own}


def test_averages_start_at_their_variables(trained_network):
    own, _ = trained_network
    shadows = {
        v.op.name.removesuffix("/ExponentialMovingAverage"): v
        for v in tf.global_variables()
        if v.op.name.endswith("/ExponentialMovingAverage")
    }
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        ours, averages = session.run([own, shadows])
    assert set(averages) == set(ours)
    for name, value in ours.items():
        np.testing.assert_array_equal(averages[name], value, err_msg=name)
    assert set(tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)) == set(own.values())


def test_regularized_variables(trained_network):
    own, _ = trained_network
    regularized = names(optimization.regularized_variables())
    trainable = {name for name, variable in own.items() if variable.trainable}
    assert regularized == {name for name in trainable if "batch_normalization" not in name}
    assert {"kernel", "depthwise_kernel", "bias"} == {n.split("/")[-1] for n in regularized}
    assert any("/se/" in name and name.endswith("bias") for name in regularized)
    assert any(name.endswith("dense/bias") for name in regularized)


def normalized_away(name):
    """Whether the variable is the shift of a projection, which its successors subtract again.

    A 1x1 convolution and a batch norm in training follow it: its gradient is 0, and what is
    computed is rounding, which may or may not be exactly 0.
    """
    return name.endswith("/batch_normalization_2/beta")


def test_a_step_updates_everything(trained_network):
    own, op = trained_network
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        golden_weights.load(session, own.values())  # random ones may leave a ReLU dead
        state = {v.op.name: v for v in tf.global_variables()}
        before = session.run(state)
        for _ in range(3):
            session.run(op)
        after = session.run(state)
    trainable = {name for name, variable in own.items() if variable.trainable}
    for name in trainable:  # a slot forgets its first value whatever the gradient is
        assert not np.array_equal(before[f"{name}/RMSProp"], after[f"{name}/RMSProp"]), name
    moved = {name for name in own if not normalized_away(name)}
    assert len(own) - len(moved) == 2
    for name in moved:
        assert not np.array_equal(before[name], after[name]), name
        average = after[f"{name}/ExponentialMovingAverage"]
        assert not np.array_equal(before[name], average), name
        assert not np.array_equal(after[name], average), name


@pytest.mark.parametrize("frozen", [None, "block_0"])
def test_a_step_computes_no_gradient_that_it_throws_away(frozen):
    tf.set_random_seed(1)
    images = tf.random_normal([2, 16, 16, 3], seed=2)
    network = {**TINY, "frozen": frozen}
    logits, _ = mnasnet_models.build_mnasnet_model(images, "mnasnet-a1", True, network)
    loss = tf.nn.l2_loss(logits)
    # Before train_op, gradients are TensorFlow's own: the comparison.
    kernels = [v for v in tf.trainable_variables() if "kernel" in v.name]
    plain = tf.gradients(loss, kernels, gate_gradients=True)
    step = tf.train.get_or_create_global_step()
    op = optimization.train_op(loss, tf.constant(0.1), step, params_with())
    ours = tf.gradients(loss, kernels, gate_gradients=True)

    def input_gradients(fetched):
        graph = tf.get_default_graph().as_graph_def()
        used = tf.graph_util.extract_sub_graph(graph, [getattr(x, "op", x).name for x in fetched])
        return sum(node.op.endswith("BackpropInput") for node in used.node)

    assert input_gradients(ours) == input_gradients(plain) - 1
    assert input_gradients([op]) == input_gradients(ours)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for a, b in zip(*session.run([plain, ours]), strict=True):
            np.testing.assert_array_equal(a, b)
