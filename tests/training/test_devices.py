"""Tests of what is said about the devices of a run."""

import platform

import numpy as np
import pytest

import mnasnet_main
from utils.config import settings
from utils.training import devices

import tensorflow.compat.v1 as tf

TINY = {
    "model_name": "tiny",
    "model_spec": {"stages": ["r2_k3_s22_e3_i8_o8_se0.25"]},
    "num_label_classes": 4,
    "use_tpu": False,
    "add_summaries": False,
    "label_smoothing": 0.1,
}


@pytest.mark.skipif(devices.has_gpu(), reason="its training does not run on the processor")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's processors")
@pytest.mark.parametrize(
    ("is_fast", "given", "size", "use_tpu", "is_told"),
    [
        (False, None, 128, False, True),
        (True, None, 224, False, False),
        (False, "0", 224, False, False),
        (False, None, 64, False, False),
        (False, None, 224, True, False),
    ],
)
def test_a_training_on_slow_kernels_is_told_how_to_get_fast_ones(
    monkeypatch, caplog, is_fast, given, size, use_tpu, is_told
):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    monkeypatch.setattr(devices._pywrap_util_port, "IsMklEnabled", lambda: is_fast)
    with caplog.at_level("INFO", "absl"):
        devices.log_slow_kernels({"use_tpu": use_tpu, "input_image_size": size})
    assert ("TF_ENABLE_ONEDNN_OPTS=1" in caplog.text) is is_told


@pytest.mark.skipif(devices.has_gpu(), reason="its training keeps TensorFlow's optimizers")
def test_optimizers_that_a_training_on_a_cpu_does_without_change_no_number():
    params = {**settings.default_params(), **TINY}
    images = np.random.RandomState(0).uniform(0, 255, [4, 32, 32, 3]).astype("float32")
    tf.set_random_seed(3)
    tf.train.get_or_create_global_step()
    spec = mnasnet_main.mnasnet_model_fn(
        tf.constant(images), tf.constant([0, 1, 2, 3]), tf.estimator.ModeKeys.TRAIN, params
    )

    def weights_after_steps(config):
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            for _ in range(3):
                session.run(spec.train_op)
            return session.run(tf.global_variables())

    ours = devices.config(params, training=True)
    with_folding = tf.ConfigProto.FromString(ours.SerializeToString())
    with_folding.graph_options.optimizer_options.opt_level = tf.OptimizerOptions.L1
    assert ours != with_folding
    for value, other in zip(
        weights_after_steps(ours), weights_after_steps(with_folding), strict=True
    ):
        np.testing.assert_array_equal(value, other)
