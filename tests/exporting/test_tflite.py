"""Tests of TensorFlow Lite: a tiny model, converted and run, against its checkpoint."""

import contextlib

import golden_weights
import numpy as np
import pytest

import mnasnet_main
import preprocessing
from utils.base.errors import UserError
from utils.config import settings
from utils.exporting import metadata, tflite

import tensorflow.compat.v1 as tf

SIZE = 32
CLASSES = 7
PARAMS = {
    **settings.default_params(),
    "use_tpu": False,
    "model_name": "tiny",
    "model_spec": {
        "stages": ["r1_k3_s11_e1_i8_o8_noskip", "r2_k5_s22_e3_i8_o16_se0.5"],
        "stem_size": 8,
        "head_size": 512,
    },
    "num_label_classes": CLASSES,
    "input_image_size": SIZE,
}


def images(count=4):
    return np.random.RandomState(0).uniform(0, 255, (count, SIZE, SIZE, 3)).astype(np.float32)


def reference(params):
    """Saves a network with golden weights; returns its path and its logits for `images()`."""
    placeholder = tf.placeholder(tf.float32, [None, SIZE, SIZE, 3])
    mnasnet_main.mnasnet_model_fn(placeholder, None, tf.estimator.ModeKeys.PREDICT, params)
    tf.train.get_or_create_global_step()
    with tf.Session() as session:
        golden_weights.load(session, tf.global_variables("tiny"))
        session.run(tf.train.get_global_step().initializer)
        path = tf.train.Saver().save(session, params["checkpoint"], 3)
        logits = session.run("logits:0", {placeholder: images()})
    return path, logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(path of a checkpoint, its logits for `images()`)."""
    folder = tmp_path_factory.mktemp("trained")
    with tf.Graph().as_default():
        return reference({**PARAMS, "checkpoint": str(folder / "model.ckpt")})


@contextlib.contextmanager
def opened(params, path):
    """Yields the network in a session, and what files of it are to give for `images()`."""
    with tf.Graph().as_default(), tf.Session() as session:
        placeholder = tf.placeholder(tf.float32, [None, SIZE, SIZE, 3])
        mnasnet_main.mnasnet_model_fn(placeholder, None, tf.estimator.ModeKeys.PREDICT, params)
        tf.train.Saver().restore(session, path)
        logits = session.run("logits:0", {placeholder: images()})
        yield tflite.Converter(session, params), np.stack([metadata.softmax(row) for row in logits])


@pytest.fixture(scope="module")
def converted(trained):
    """(probabilities of the network, .tflite content, content with quantized weights)."""
    with opened(PARAMS, trained[0]) as (network, expected):
        return expected, network.convert("float32"), network.convert("dynamic")


def described(network, kind, calibration=()):
    """A file with its description."""
    description = metadata.Description(network.contract, "tiny", (), network.preparation)
    return metadata.add(network.convert(kind, calibration), description)


def run(content):
    interpreter = tflite.Interpreter(content=content)
    return np.stack([interpreter.scores(image) for image in images()])


def test_interpreter_agrees_with_the_network(trained, converted):
    expected, content, _ = converted
    assert expected.shape == (4, CLASSES)
    assert np.abs(trained[1]).max() > 0.1
    np.testing.assert_allclose(expected, [metadata.softmax(row) for row in trained[1]], rtol=1e-4)
    assert expected.std(0).min() > 1e-3  # the images are told apart
    np.testing.assert_allclose(run(content), expected, atol=1e-5)


def test_quantized_weights_are_smaller_and_nearly_agree(converted):
    expected, content, quantized = converted
    assert len(quantized) < 0.9 * len(content)
    ours = run(quantized)
    assert not np.array_equal(ours, run(content))
    np.testing.assert_allclose(ours, expected, atol=0.1)


def test_int8_files_hold_integers_alone(trained, converted):
    with tflite.restored(mnasnet_main.mnasnet_model_fn, PARAMS, trained[0]) as network:
        content = network.convert("int8", images(16))
    assert tflite.float_operators(content) == []
    assert "CONV_2D" in tflite.float_operators(converted[1])
    details = tf.lite.Interpreter(model_content=content)
    (before,), (after,) = details.get_input_details(), details.get_output_details()
    assert before["dtype"] == after["dtype"] == np.uint8
    np.testing.assert_allclose(run(content), converted[0], atol=0.1)


def test_float16_files_are_half_as_large(trained, converted):
    with tflite.restored(mnasnet_main.mnasnet_model_fn, PARAMS, trained[0]) as network:
        content = network.convert("float16")
    assert len(content) < 0.75 * len(converted[1])
    np.testing.assert_allclose(run(content), converted[0], atol=0.02)


@pytest.mark.parametrize(
    "name", ["mnasnet-a1", "mnasnet-small", pytest.param("mnasnet-b1", marks=pytest.mark.slow)]
)
def test_every_published_model_converts_to_int8(name, tmp_path):
    params = {
        **PARAMS,
        "model_name": name,
        "model_spec": None,
        "depth_multiplier": 0.35,
        "checkpoint": str(tmp_path / "model.ckpt"),
    }
    with tf.Graph().as_default():
        placeholder = tf.placeholder(tf.float32, [None, SIZE, SIZE, 3])
        mnasnet_main.mnasnet_model_fn(placeholder, None, tf.estimator.ModeKeys.PREDICT, params)
        tf.train.get_or_create_global_step()
        with tf.Session() as session:
            golden_weights.load(session, tf.global_variables(name))
            session.run(tf.train.get_global_step().initializer)
            path = tf.train.Saver().save(session, params["checkpoint"], 3)
    with tflite.restored(mnasnet_main.mnasnet_model_fn, params, path) as network:
        assert tflite.float_operators(network.convert("int8", images(4))) == []


def test_normalization_is_inside(trained, converted):
    # Other means shift what the same pixels mean.
    params = {**PARAMS, "model_spec": {**PARAMS["model_spec"], "mean_rgb": [0, 0, 0]}}
    with tflite.restored(mnasnet_main.mnasnet_model_fn, params, trained[0]) as network:
        interpreter = tflite.Interpreter(content=network.convert("float32"))
    expected = converted[0][0]
    shifted = images()[0] - np.array(preprocessing.MEAN_RGB, np.float32)
    np.testing.assert_allclose(interpreter.scores(shifted), expected, atol=1e-4)
    assert not np.allclose(interpreter.scores(images()[0]), expected, atol=1e-2)


NORMALIZATIONS = {
    "imagenet": {},
    "efficientnet-lite": {
        "mean_rgb": [127, 127, 127],
        "stddev_rgb": [128, 128, 128],
        "activation": "relu6",
    },
    "timm": {"padding": "symmetric", "batch_norm_epsilon": 1e-5},
    "other channels": {"mean_rgb": [0, 100, 200], "stddev_rgb": [255, 1, 20]},
}


@pytest.mark.parametrize("spec", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_a_file_computes_what_the_network_does(trained, spec):
    params = {**PARAMS, "model_spec": {**PARAMS["model_spec"], **spec}}
    with opened(params, trained[0]) as (network, expected):
        content = described(network, "float32")
    np.testing.assert_allclose(run(content), expected, atol=1e-4)


def dead_squeeze(trained, folder):
    """The checkpoint with squeezing convolutions that give zeros for every image."""
    reader = tf.train.load_checkpoint(trained[0])
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    squeezes = [n for n, v in values.items() if "/se/" in n and n.endswith("bias") and v.size == 4]
    assert squeezes
    with tf.Graph().as_default(), tf.Session() as session:
        for name in squeezes:
            values[name] = np.full_like(values[name], -1000)
        variables = [tf.Variable(value, name=name) for name, value in values.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables).save(session, str(folder / "dead.ckpt"), 3)


def test_a_dead_unit_does_not_slow_an_int8_file_down(trained, tmp_path):
    path = dead_squeeze(trained, tmp_path)
    with opened(PARAMS, path) as (network, expected):
        content = network.convert("int8", images(8))
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    # The delegate takes all or nothing; it refuses scales that underflowed.
    assert "DELEGATE" in [op["op_name"] for op in interpreter._get_ops_details()]
    np.testing.assert_allclose(run(content), expected, atol=0.1)


def constants_of(content, operator):
    """Shapes of the constants that the operators of a kind take."""
    interpreter = tf.lite.Interpreter(
        model_content=content,
        experimental_op_resolver_type=(
            tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    interpreter.allocate_tensors()
    written = {i for op in interpreter._get_ops_details() for i in op["outputs"]}
    written.add(interpreter.get_input_details()[0]["index"])
    shapes = {t["index"]: t["shape"].tolist() for t in interpreter.get_tensor_details()}
    return [
        shapes[index]
        for op in interpreter._get_ops_details()
        for index in op["inputs"]
        if op["op_name"] == operator and index not in written
    ]


def test_the_normalization_runs_along_rows(converted):
    # Along three channels it costs a tenth of the latency.
    assert constants_of(converted[1], "SUB") == [[1, 1, SIZE, 3]]
    assert [1, 1, SIZE, 3] in constants_of(converted[1], "MUL")


@pytest.mark.parametrize(("low", "high"), [(-30, 280), (60, 90)])
def test_the_input_of_int8_files_is_the_pixel(trained, low, high):
    calibration = np.random.RandomState(3).uniform(low, high, (8, SIZE, SIZE, 3))
    before = calibration.copy()
    with tflite.restored(mnasnet_main.mnasnet_model_fn, PARAMS, trained[0]) as network:
        content = network.convert("int8", calibration)
    np.testing.assert_array_equal(calibration, before)
    (details,) = tf.lite.Interpreter(model_content=content).get_input_details()
    assert details["dtype"] == np.uint8 and details["quantization"] == (1.0, 0)


def test_a_file_has_static_shapes_and_floats(converted):
    interpreter = tf.lite.Interpreter(model_content=converted[1])
    interpreter.allocate_tensors()
    (before,), (after,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert before["shape"].tolist() == [1, SIZE, SIZE, 3]
    assert after["shape"].tolist() == [1, CLASSES]
    assert before["dtype"] == after["dtype"] == np.float32
    assert "images" in before["name"]
    assert "probabilities" in after["name"]


def test_interpreter_from_a_path(converted, tmp_path):
    path = str(tmp_path / "tiny.tflite")
    with open(path, "wb") as f:
        f.write(converted[1])
    interpreter = tflite.Interpreter(path, num_threads=2)
    assert interpreter.preparation.image_size == SIZE
    np.testing.assert_allclose(
        interpreter.scores(images()[1]), converted[0][1], rtol=1e-3, atol=1e-3
    )
    assert tflite.open_interpreter(path).preparation.image_size == SIZE


def test_interpreter_takes_pixels_of_other_types(converted):
    interpreter = tflite.Interpreter(content=converted[1])
    pixels = images()[0].astype(np.uint8)
    np.testing.assert_array_equal(
        interpreter.scores(pixels), interpreter.scores(pixels.astype(float))
    )


def test_two_results_do_not_share_memory(converted):
    interpreter = tflite.Interpreter(content=converted[1])
    first = interpreter.scores(images()[0])
    kept = first.copy()
    interpreter.scores(images()[1])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("content", [None, b"", b"no model at all, but long enough to be one"])
def test_what_is_no_tflite_file_is_a_users_error(tmp_path, content):
    path = str(tmp_path / "x.tflite")
    if content is not None:
        with open(path, "wb") as f:
            f.write(content)
    with pytest.raises(UserError) as error:
        tflite.open_interpreter(path)
    assert path in str(error.value)


def test_a_network_without_its_checkpoint_is_an_error(tmp_path):
    missing = str(tmp_path / "model.ckpt-1")
    network = tflite.restored(mnasnet_main.mnasnet_model_fn, PARAMS, missing)
    with pytest.raises((tf.errors.NotFoundError, ValueError)), network:
        pass
