"""The model function against golden numbers, and the program as a user runs it: real processes."""

import contextlib
import glob
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from golden_weights import weight as golden_weight
from programs import ROOT, SMALL, flags, run, sentence, start, wait_for_line
from terminal import screen

import imagenet_input
import mnasnet_main
from utils.base import folder_lock
from utils.base.errors import UserError
from utils.config import settings
from utils.reading import dataset_info, examples
from utils.training import checkpoints, configuration, evaluations, inputs

GOLDEN = pathlib.Path(__file__).parent / "golden"


# The model function.


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
        values = {}
        for name, variable in variables.items():
            plain = name.removesuffix("/ExponentialMovingAverage")
            if name == "global_step":
                values[variable.initializer.inputs[1]] = golden["start_global_step"]
            elif "RMSProp" not in name:
                value = golden_weight(plain, variable.shape.as_list())
                values[variable.initializer.inputs[1]] = value
        # An initializer is an assignment: it takes a fed value without a new operation.
        by_input = {v.initializer.inputs[1]: v.initializer for v in variables.values()}
        session.run([by_input[tensor] for tensor in values], values)
        losses = [session.run([spec.loss, spec.train_op])[0] for _ in golden["losses"]]
        np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)
        after = session.run({name: variables[name] for name in golden["mean_abs_after"]})
    for name, expected in golden["mean_abs_after"].items():
        np.testing.assert_allclose(np.abs(after[name]).mean(), expected, rtol=1e-3, err_msg=name)


def small_params(**more):
    params = settings.default_params()
    params.update(
        model_name="mnasnet-small", num_label_classes=10, input_image_size=32, use_tpu=False
    )
    params.update(more)
    return params


def test_evaluation_counts_only_images_that_are_no_padding():
    images = np.random.RandomState(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    labels = np.array([1, 2, 3, 4, imagenet_input.PADDING, imagenet_input.PADDING], np.int32)
    padded = images.copy()
    padded[4:] = 0

    def evaluate(images, labels):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.train.get_or_create_global_step()
            spec = mnasnet_main.mnasnet_model_fn(
                tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.EVAL, small_params()
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
        tf.zeros([2, 32, 32, 3]), None, tf.estimator.ModeKeys.PREDICT, small_params()
    )
    assert spec.predictions["classes"].op.name == "ArgMax"
    assert spec.predictions["probabilities"].op.name == "softmax_tensor"
    assert tf.get_default_graph().get_tensor_by_name("logits:0").shape.as_list() == [2, 10]
    assert "serving_default" in spec.export_outputs


@pytest.mark.parametrize(
    "changes", [{"use_keras": False, "precision": "bfloat16"}, {"moving_average_decay": 0}]
)
def test_a_training_step_with_other_settings(changes):
    params = small_params(train_batch_size=4, num_train_images=40, **changes)
    spec = mnasnet_main.mnasnet_model_fn(
        tf.random_uniform([4, 32, 32, 3], 0, 255, seed=1), tf.constant([0, 1, 2, 3]),
        tf.estimator.ModeKeys.TRAIN, params,
    )  # fmt: skip
    shadows = [v for v in tf.global_variables() if "ExponentialMovingAverage" in v.name]
    assert bool(shadows) == (params["moving_average_decay"] > 0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(spec.train_op)
        assert np.isfinite(session.run(spec.loss))
        assert session.run(tf.train.get_global_step()) == 1


# Freezing.


def training_graph(**changes):
    """(spec, {name: variable}) of a training step of mnasnet-small, without dropout."""
    params = small_params(train_batch_size=4, num_train_images=40, warmup_epochs=0, **changes)
    spec = mnasnet_main.mnasnet_model_fn(
        tf.random_uniform([4, 32, 32, 3], 0, 255, seed=1), tf.constant([0, 1, 2, 3]),
        tf.estimator.ModeKeys.TRAIN, params,
    )  # fmt: skip
    return spec, {v.op.name: v for v in tf.global_variables()}


def is_frozen(name, freeze):
    """What should be frozen, by the part of the network in a variable's name."""
    part = re.search(r"/mnas_(stem|blocks_\d+|head)/(dense)?", "/" + name)
    if part is None:
        assert name == "global_step"
        return False
    if "freeze_backbone" in freeze:
        return part[2] is None
    kept = ["stem"] + [f"blocks_{n}" for n in range(int(freeze["freeze_until"][-1]) + 1)]
    return part[1] in kept


@pytest.mark.parametrize("use_keras", [True, False])
@pytest.mark.parametrize("freeze", [{"freeze_backbone": True}, {"freeze_until": "block_3"}])
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


@pytest.mark.parametrize("use_keras", [True, False])
def test_a_checkpoint_has_the_same_variables_whatever_is_frozen(use_keras):
    names = []
    for freeze in ({}, {"freeze_backbone": True}, {"freeze_until": "block_3"}):
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
        tf.zeros([4, 32, 32, 3]), tf.constant([0, 1, 2, 3]), tf.estimator.ModeKeys.EVAL,
        small_params(freeze_backbone=True),
    )  # fmt: skip
    weights = [v for v in tf.global_variables() if "moving_" not in v.op.name]
    assert len(tf.trainable_variables()) == len(weights)


# The program.


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """A model_dir after a short training with evaluation and export."""
    model_dir = str(tmp_path_factory.mktemp("model"))
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=model_dir, export_dir=model_dir + "/export",
               post_quantize=True)
    )  # fmt: skip
    assert status == 0, err
    return model_dir, err


def test_training_leaves_checkpoint_evaluation_archive_and_export(trained):
    model_dir, err = trained
    assert checkpoints.step_of(checkpoints.latest(model_dir)) == 8
    (evaluation,) = evaluations.read(model_dir)
    assert evaluation["images"] == 360 and evaluation["global_step"] == 8
    assert evaluations.best(model_dir)["global_step"] == 8
    assert "averaged weights" in err
    exported = {os.path.basename(path) for path in glob.glob(model_dir + "/export/*")}
    assert {"mnasnet-small.tflite", "mnasnet-small_postquant.tflite", "labels.txt"} <= exported
    assert not [line for line in err.splitlines() if "WARNING" in line or "deprecated" in line]


def test_log_has_one_line_every_log_step(trained):
    _, err = trained
    lines = [line for line in err.splitlines() if "train step" in line]
    assert [line.split("train step ")[1].split()[0] for line in lines] == [
        f"{step}/8" for step in range(1, 9)
    ]


def test_summaries_for_tensorboard(trained):
    model_dir, _ = trained
    tags = {}
    for folder in (model_dir, model_dir + "/eval"):
        tags[folder] = {
            value.tag
            for path in glob.glob(folder + "/events*")
            for event in tf.train.summary_iterator(path)
            for value in event.summary.value
        }
    assert {"loss", "cross_entropy", "learning_rate", "epoch", "images_per_second"} <= tags[
        model_dir
    ]
    assert {"loss", "top_1_accuracy", "top_5_accuracy"} <= tags[model_dir + "/eval"]


@contextlib.contextmanager
def tensorboard(folder):
    """Runs TensorBoard over a folder on a free port of this machine; gives its address."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", "--host=127.0.0.1",
             "--port=0"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            yield wait_until(lambda: address_in(log, process))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its data server, too
            process.wait()


def address_in(log, process):
    log.seek(0)
    text = log.read()
    assert process.poll() is None, text
    found = re.search(r"http://127\.0\.0\.1:\d+/", text)
    return found and found[0]


def wait_until(condition, seconds=120):
    """The first value of condition() that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.1)
    return value


def ask(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_tensorboard_starts_and_shows_the_scalars(trained):
    model_dir, _ = trained
    with tensorboard(model_dir) as address:
        scalars = address + "data/plugin/scalars/"
        tags = wait_until(lambda: {run: set(t) for run, t in ask(scalars + "tags").items() if t})
        assert {"loss", "learning_rate", "images_per_second"} <= tags["."]
        # Wall time, step and value of each point.
        points = ask(scalars + "scalars?tag=loss&run=.")
    assert all(0 <= step <= SMALL["train_steps"] for _, step, _ in points) and points


def test_going_on_says_what_is_not_as_before(trained, digits_dir, tmp_path):
    shutil.copytree(trained[0], tmp_path / "m")
    changed = flags(
        data_dir=digits_dir, model_dir=tmp_path / "m", mode="train",
        train_steps=9, base_learning_rate=0.05,
    )  # fmt: skip
    status, _, err = run(*changed)
    assert status == 0, err
    assert "Other settings than before: base_learning_rate 0.05 (was 0.1)." in err
    status, _, err = run(*changed, "--train_steps=10")
    assert status == 0, err
    assert "Other settings" not in err


def test_complete_run_says_so_and_ends(trained, digits_dir):
    model_dir, _ = trained
    before = sorted(os.listdir(model_dir))
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=model_dir, export_dir=model_dir + "/export",
               post_quantize=True)
    )  # fmt: skip
    assert status == 0 and "is complete at step 8" in err and "Exported step 8 to" in err
    assert sorted(os.listdir(model_dir)) == before


def test_short_runs_train_as_one_long_one(digits_dir, tmp_path):
    """Each interval between evaluations is a run of its own: what it is fed comes next."""
    spec = {"stages": ["r1_k3_s22_e1_i8_o8_noskip"], "stem_size": 8, "head_size": 16}
    weights = {}
    for name, ends in (("one", [6]), ("three", [2, 4, 6])):
        params = small_params(
            model_name="tiny", model_spec=spec, data_dir=digits_dir,
            model_dir=str(tmp_path / name), num_train_images=1437, train_batch_size=8,
            base_learning_rate=1.0, warmup_epochs=0, use_cache=False, tf_random_seed=3,
            dropout_rate=0.0, train_steps=6, save_checkpoints_steps=2, add_summaries=False,
        )  # fmt: skip
        for end in ends:
            mnasnet_main.train(params, end)
        reader = tf.train.load_checkpoint(checkpoints.latest(params["model_dir"]))
        shapes = reader.get_variable_to_shape_map()
        weights[name] = {n: reader.get_tensor(n) for n in shapes if n.endswith("kernel")}
    for name, expected in weights["one"].items():
        np.testing.assert_allclose(weights["three"][name], expected, atol=1e-4, err_msg=name)


def test_settings_travel_with_the_checkpoint(trained, digits_dir):
    model_dir, _ = trained
    status, _, err = run(
        f"--data_dir={digits_dir}", f"--model_dir={model_dir}", "--mode=eval", "--train_steps=8",
        "--eval_timeout=0",
    )  # fmt: skip
    assert status == 0, err
    assert "mnasnet-small, 32 x 32" in err


def test_another_network_in_model_dir_is_refused(trained, digits_dir):
    model_dir, _ = trained
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=model_dir, depth_multiplier=0.5, train_steps=9)
    )
    assert "depth_multiplier 0.35 -> 0.5" in sentence(status, err)


def test_fine_tuning_with_other_classes_skips_the_head(trained, digits_dir, tmp_path):
    model_dir, _ = trained
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=tmp_path / "m", num_label_classes=12, train_steps=1,
               init_checkpoint=model_dir, mode="train")
    )  # fmt: skip
    assert status == 0, err
    assert "100.0 % of the backbone" in err and "other number of classes" in err


def values_of(checkpoint):
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_fine_tuning_frozen_then_whole(trained, digits_dir, tmp_path):
    # No flag about the network: it comes with the weights, here those of the archive.
    common = [
        f"--data_dir={digits_dir}", f"--model_dir={tmp_path}",
        f"--init_checkpoint={trained[0]}/archive", "--train_batch_size=16",
        "--log_step_count_steps=1", "--steps_per_eval=2", "--eval_batch_size=360",
    ]  # fmt: skip
    status, _, err = run(*common, "--train_steps=4", "--freeze_until=block_2")
    assert status == 0, err
    assert "mnasnet-small, 32 x 32" in err
    assert "Frozen: the stem and the blocks up to block_2." in err
    assert len(re.findall("Initial weights from", err)) == 1  # of two parts with an evaluation
    counts = re.search(r"Frozen: (\d+) variables with ([\d,]+) parameters; trained: (\d+)", err)
    start = values_of(evaluations.best(trained[0])["checkpoint"])
    frozen = {
        name
        for name in start
        if name.endswith(("kernel", "bias", "gamma", "beta"))
        and is_frozen(name, {"freeze_until": "block_2"})
    }
    assert int(counts[1]) == len(frozen)
    assert int(counts[2].replace(",", "")) == sum(
        value.size for name, value in start.items() if name in frozen
    )
    tuned = values_of(checkpoints.latest(str(tmp_path)))
    assert {n: v.shape for n, v in tuned.items()} == {n: v.shape for n, v in start.items()}
    for name in frozen:
        average = start[name + "/ExponentialMovingAverage"]
        np.testing.assert_array_equal(tuned[name], average, err_msg=name)
        np.testing.assert_array_equal(tuned[name + "/ExponentialMovingAverage"], average)
        assert (tuned[name + "/RMSProp"] == 1).all() and (tuned[name + "/RMSProp_1"] == 0).all()
    # The same command without freezing goes on and trains all of it.
    status, _, err = run(*common, "--train_steps=5")
    assert status == 0 and "Going on from step 4 of 5" in err, err
    assert "Initial weights" not in err and "Frozen" not in err
    whole = values_of(checkpoints.latest(str(tmp_path)))
    moved = [name for name in frozen if (whole[name] != tuned[name]).any()]
    assert len(moved) > 0.9 * len(frozen)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--freeze_backbone"], "--freeze_backbone would keep random weights"),
        (["--freeze_until=block_3"], "--freeze_until would keep random weights"),
        (["--freeze_until=block_99"], "which has block_0 to block_14"),
        (["--freeze_until=stem"], "--freeze_until=stem: 'stem' is not a block"),
    ],
)
def test_wrong_freezing(digits_dir, tmp_path, arguments, expected):
    status, _, err = run(*flags(data_dir=digits_dir, model_dir=tmp_path), *arguments)
    assert expected in sentence(status, err)


def published_values(golden):
    """Values of a training checkpoint of the published program, under its names."""
    values = {}
    for name, shape in golden["all_variables"]:
        rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFF)
        weight = re.sub("/(RMSProp(_1)?|ExponentialMovingAverage)$", "", name)
        if name == "global_step":
            values[name] = np.asarray(golden["start_global_step"], np.int64)
        elif name.endswith("/RMSProp"):
            values[name] = rng.uniform(1e-4, 2e-4, shape).astype(np.float32)
        elif name.endswith("/RMSProp_1"):
            values[name] = rng.uniform(-1e-4, 1e-4, shape).astype(np.float32)
        elif name.endswith("/ExponentialMovingAverage"):
            values[name] = np.float32(1.01) * golden_weight(weight, shape)
        else:
            values[name] = golden_weight(name, shape)
    return values


def test_a_training_of_the_published_program_continues_here(digits_dir, tmp_path):
    golden = json.loads((GOLDEN / "train_mnasnet-a1_64.json").read_text())
    before = published_values(golden)
    assert len(before) == 921
    with tf.Graph().as_default(), tf.Session() as session:
        fed = [tf.placeholder(value.dtype, value.shape) for value in before.values()]
        save = tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "model.ckpt-300"), tensor_names=list(before),
            shape_and_slices=[""] * len(before), tensors=fed,
        )  # fmt: skip
        session.run(save, dict(zip(fed, before.values(), strict=True)))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-300"\n')
    status, _, err = run(
        f"--data_dir={digits_dir}", f"--model_dir={tmp_path}", "--mode=train", "--train_steps=301",
        "--train_batch_size=8", "--input_image_size=64",
    )  # fmt: skip
    assert status == 0 and "Going on from step 300 of 301" in err, err
    after = values_of(str(tmp_path / "model.ckpt-301"))
    assert sorted([name, list(value.shape)] for name, value in after.items()) == [
        list(row) for row in golden["all_variables"]
    ]
    assert after["global_step"] == 301
    # One step of the recipe from just these values: averages, mean squares and momenta.
    decay = (1 + 301) / (10 + 301)
    rate = 0.016 * 8 / 256 * 300 / int(5 * 1437 / 8)
    slots = averages = 0
    for name in after:
        average = after.get(name + "/ExponentialMovingAverage")
        if average is not None:
            old = before[name + "/ExponentialMovingAverage"]
            expected = decay * old + (1 - decay) * after[name]
            np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-5, err_msg=name)
            averages += 1
        if name + "/RMSProp" not in after:
            continue
        slots += 1
        squares = (after[name + "/RMSProp"] - 0.9 * before[name + "/RMSProp"]) / 0.1
        moved = after[name + "/RMSProp_1"] - 0.9 * before[name + "/RMSProp_1"]
        np.testing.assert_allclose(
            after[name], before[name] - after[name + "/RMSProp_1"], rtol=1e-5, atol=1e-6
        )
        clear = squares > 1e-3  # where float32 tells the gradient's square
        expected = rate * np.sqrt(squares[clear] / (after[name + "/RMSProp"][clear] + 1e-3))
        np.testing.assert_allclose(np.abs(moved[clear]), expected, rtol=2e-2, err_msg=name)
    assert (slots, averages) == (181, 181 + 2 * 49)


def tpu_params(digits_dir, model_dir, num_eval_images):
    """Settings of an evaluation on a TPU."""
    given = {
        "data_dir": digits_dir, "model_dir": str(model_dir), "mode": "eval",
        "num_eval_images": num_eval_images, "eval_batch_size": 100,
    }  # fmt: skip
    return {**configuration.resolve(given), "use_tpu": True}


def test_on_a_tpu_fewer_images_may_be_evaluated(trained, digits_dir, tmp_path, monkeypatch):
    model_dir = shutil.copytree(trained[0], tmp_path / "m")
    build = mnasnet_main.build_estimator

    def build_for_cpu(params, training):
        return build({**params, "use_tpu": False}, training)

    monkeypatch.setattr(mnasnet_main, "build_estimator", build_for_cpu)
    params = tpu_params(digits_dir, model_dir, 150)
    inputs.check(params)
    metrics = mnasnet_main.evaluate(params, checkpoints.latest(str(model_dir)))
    assert metrics["images"] == 200  # two whole batches


def test_on_a_tpu_too_few_images_are_known_before_the_training(digits_dir, tmp_path):
    with pytest.raises(UserError, match="set --num_eval_images=360"):
        inputs.check(tpu_params(digits_dir, tmp_path, 400))


def test_exported_saved_model_classifies(trained, digits_dir):
    model_dir, _ = trained
    (saved,) = glob.glob(model_dir + "/export/*/saved_model.pb")
    pictures = [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]
    with tf.Session() as session:
        meta = tf.saved_model.load(session, ["serve"], os.path.dirname(saved))
        signature = meta.signature_def["serving_default"]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        result = session.run(outputs, {signature.inputs["image_bytes"].name: pictures})
    assert result["classes"].shape == (10,) and result["classes"].dtype == np.int64
    np.testing.assert_allclose(result["probabilities"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(result["probabilities"].argmax(1), result["classes"])


def test_classify_prints_the_top_classes(trained, digits_dir):
    model_dir, _ = trained
    picture = digits_dir + "/pictures/digit-3.jpg"
    result = subprocess.run(
        [sys.executable, "-m", "utils.classify",
         f"--model={model_dir}/export/mnasnet-small.tflite", picture],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == picture and len(lines) == 6
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("best", "archive/model.ckpt-8"), ("{}/model.ckpt-8", "model.ckpt-8"), ("/none", None)],
)
def test_export_of_another_checkpoint(trained, tmp_path, wanted, expected):
    model_dir, _ = trained
    status, _, err = run(
        "--mode=export_only", f"--model_dir={model_dir}", f"--export_dir={tmp_path}",
        f"--export_checkpoint={wanted.format(model_dir)}",
    )  # fmt: skip
    if expected is None:
        assert "--export_checkpoint=/none is no checkpoint" in sentence(status, err)
        return
    assert status == 0, err
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert report["identity"]["checkpoint"] == os.path.join(model_dir, expected)


def test_evaluate_measures_a_file_as_the_program_measures_the_checkpoint(trained, digits_dir):
    model_dir, _ = trained
    result = subprocess.run(
        [sys.executable, "-m", "utils.evaluate", f"--data_dir={digits_dir}",
         f"--model={model_dir}/export/mnasnet-small.tflite"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (evaluation,) = evaluations.read(model_dir)
    assert f"top-1 {100 * evaluation['top_1_accuracy']:.2f} %" in result.stdout
    assert "on 360 images" in result.stdout


def test_export_report(trained):
    model_dir, _ = trained
    report = json.loads(pathlib.Path(model_dir, "export", "export_report.json").read_text())
    (evaluation,) = evaluations.read(model_dir)
    rows = {row["kind"]: row for row in report["files"].values()}
    for kind in ("SavedModel", "float32"):
        assert rows[kind]["images"] == 360
        assert rows[kind]["top_1_accuracy"] == pytest.approx(evaluation["top_1_accuracy"])
        assert rows[kind]["agreement"] == 1 and rows[kind]["largest_logit_difference"] < 1e-3
    assert rows["dynamic"]["bytes"] < 0.6 * rows["float32"]["bytes"]


def read_terminal(descriptor, until=None):
    """What a process writes to a terminal, to its end or until a pattern is there."""
    text = ""
    while until is None or not re.search(until, text):
        try:
            text += os.read(descriptor, 10000).decode()
        except OSError:  # the process has ended
            break
    return text


def test_sigterm_saves_first(digits_dir, tmp_path):
    process = start(
        *flags(data_dir=digits_dir, model_dir=tmp_path, train_steps=100000, mode="train")
    )
    wait_for_line(process, "train step 3/")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    step = checkpoints.step_of(checkpoints.latest(str(tmp_path)))
    assert step >= 3
    saved = f"Saved step {step} in {tmp_path}: the same command resumes from there."
    assert err.splitlines()[-1].endswith(saved)


def test_ctrl_c_on_a_terminal_saves_first_and_says_so(digits_dir, tmp_path):
    main, other = pty.openpty()
    arguments = flags(data_dir=digits_dir, model_dir=tmp_path, train_steps=100000, mode="train")
    process = start(*arguments, stderr=other)
    os.close(other)
    limit = threading.Timer(300, process.kill)
    limit.start()
    try:
        text = read_terminal(main, until=r"train step [1-9]")
        process.send_signal(signal.SIGINT)
        text += read_terminal(main)
        process.communicate()
    finally:
        limit.cancel()
        process.kill()
        os.close(main)
    assert process.returncode == 128 + signal.SIGINT, text
    step = checkpoints.step_of(checkpoints.latest(str(tmp_path)))
    request, live, saved, end = screen(text)[-4:]
    assert re.fullmatch(
        r"[\d:]{8} SIGINT: finishing this step and saving a checkpoint; .*", request
    )
    assert live.startswith(f"train step {step}/100000  loss ")
    assert saved[9:] == f"Saved step {step} in {tmp_path}: the same command resumes from there."
    assert end == ""


def test_killed_at_any_moment_the_next_run_goes_on(digits_dir, tmp_path):
    arguments = flags(
        data_dir=digits_dir, model_dir=tmp_path, mode="train", train_steps=100000,
        save_checkpoints_steps=1,
    )  # fmt: skip
    reached = 0
    # A checkpoint every step: most of the time is spent in saving.
    for delay in (0.0, 0.05, 0.13):
        process = start(*arguments)
        wait_for_line(process, f"train step {reached + 4}/")
        time.sleep(delay)
        process.kill()
        process.communicate()
        latest = checkpoints.latest(str(tmp_path))
        assert checkpoints.is_complete(latest)
        assert checkpoints.step_of(latest) >= reached + 3
        reached = checkpoints.step_of(latest)
    arguments = [a for a in arguments if "train_steps" not in a] + [f"--train_steps={reached + 1}"]
    status, _, err = run(*arguments)
    assert status == 0 and f"Going on from step {reached} " in err, err
    assert not glob.glob(str(tmp_path / "*_temp*"))


def test_eval_mode_follows_a_training_run(digits_dir, tmp_path):
    training = start(
        *flags(data_dir=digits_dir, model_dir=tmp_path, mode="train", train_steps=40,
               save_checkpoints_steps=20)
    )  # fmt: skip
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=tmp_path, mode="eval", train_steps=40,
               eval_timeout=120)
    )  # fmt: skip
    training.communicate()
    assert training.returncode == 0
    assert status == 0 and "Evaluated the last step, 40." in err, err
    steps = [e["global_step"] for e in evaluations.read(str(tmp_path))]
    assert steps[-1] == 40 and len(steps) == len(set(steps))


@pytest.mark.parametrize("mode", ["eval", "train", "export_only"])
def test_a_damaged_checkpoint_file_hides_no_checkpoint(trained, digits_dir, mode, caplog):
    """The `checkpoint` file is empty, as after a full disk; each mode finds what is there."""
    model_dir, _ = trained
    state = pathlib.Path(model_dir, "checkpoint")
    content = state.read_bytes()
    state.write_bytes(b"")
    arguments = flags(
        data_dir=digits_dir, model_dir=model_dir, mode=mode, post_quantize=True,
        export_dir=model_dir + "/export" if mode == "export_only" else "",
    )  # fmt: skip
    try:
        with caplog.at_level("INFO", "absl"):
            mnasnet_main.main(["mnasnet_main.py", *arguments])
    finally:
        state.write_bytes(content)
    expected = {
        "eval": "Evaluated the last step, 8.",
        "train": "is complete at step 8: nothing to train.",
        "export_only": "Exported step 8 to",
    }
    assert expected[mode] in caplog.text


@pytest.mark.parametrize("mode", ["train", "train_and_eval"])
def test_a_second_training_in_a_folder_is_told_who_holds_it(trained, digits_dir, tmp_path, mode):
    shutil.copytree(trained[0], tmp_path / "m")
    arguments = flags(data_dir=digits_dir, model_dir=tmp_path / "m", mode=mode)
    with folder_lock.hold(str(tmp_path / "m"), "model_dir", "training"):
        before = set((tmp_path / "m").rglob("*"))
        with pytest.raises(UserError, match=f"Another training .* \\(process {os.getpid()} on "):
            mnasnet_main.main(["mnasnet_main.py", *arguments])
        assert set((tmp_path / "m").rglob("*")) == before
    mnasnet_main.main(["mnasnet_main.py", *arguments])  # complete: nothing to train


def test_an_evaluation_next_to_a_training_is_allowed(trained, digits_dir, caplog):
    arguments = flags(data_dir=digits_dir, model_dir=trained[0], mode="eval")
    with folder_lock.hold(trained[0], "model_dir", "training"), caplog.at_level("INFO", "absl"):
        mnasnet_main.main(["mnasnet_main.py", *arguments])
    assert "Evaluated the last step, 8." in caplog.text


def test_runs_from_another_directory(tmp_path):
    status, out, err = run("--help", cwd=tmp_path)
    assert status == 0, err
    for name in settings.SETTINGS:
        assert f"--{name}" in out


# Wrong input: one sentence, exit status 1, no trace.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data_dir=/nonexistent"], "--data_dir=/nonexistent is no folder"),
        (["--data_dir="], "--data_dir is missing"),
        (["--model_name=mnasnet-z"], "'mnasnet-z' is unknown"),
        (["--train_batch_size=0"], "--train_batch_size=0 is invalid"),
        (["--dropout=0"], "dropout"),
        (["--params_override=learning_rate=1"], "did you mean 'base_learning_rate'"),
        (["--init_checkpoint=/nonexistent"], "--init_checkpoint=/nonexistent holds no checkpoint"),
        (["--use_tpu"], "--use_tpu needs --tpu"),
        (
            ["--skip_bad_images", "--data_dir=", "--bigtable_instance=i", "--bigtable_project=p"],
            "--skip_bad_images is for TFRecord files",
        ),
        (["--precision=bfloat16", "--use_keras=true"], "--use_keras=False"),
        (["--num_label_classes=5"], "less than the 10 classes"),
        (["--num_eval_images=300", "--train_steps=1"], "set --num_eval_images=360"),
    ],
)  # fmt: skip
def test_wrong_settings(digits_dir, tmp_path, arguments, expected):
    status, _, err = run(*flags(data_dir=digits_dir, model_dir=tmp_path), *arguments)
    assert expected in sentence(status, err)


def write_data(folder, train, validation=None):
    folder.mkdir()
    for name, contents in (("train", train), ("validation", validation or train)):
        with tf.io.TFRecordWriter(str(folder / f"{name}-00000-of-00001")) as writer:
            for content in contents:
                writer.write(content)


@pytest.fixture(scope="module")
def pictures(digits_dir):
    return [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]


def test_empty_data_dir(tmp_path):
    status, _, err = run(*flags(data_dir=tmp_path, model_dir=tmp_path / "m"))
    assert "has no files train-*" in sentence(status, err)


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_a_wrong_number_of_evaluation_images_is_known_before_the_training(
    tmp_path, pictures, described, skip
):
    data_dir, model_dir = tmp_path / "data", tmp_path / "model"
    serialized = [examples.example(pictures[0], 1)] * 9
    if skip:
        serialized[4] = examples.example(b"no picture", 1)  # counted, too
    write_data(data_dir, serialized)
    if described:
        dataset_info.DatasetInfo("x", 9, 9, 10).write(str(data_dir))
    given = {"num_eval_images": 360} if described else {"num_label_classes": 10}
    given["skip_bad_images"] = skip
    status, _, err = run(*flags(data_dir=data_dir, model_dir=model_dir, **given))
    message = sentence(status, err)
    assert "There are 9 images to evaluate" in message and "--num_eval_images=9" in message
    assert not list(model_dir.glob("model.ckpt*"))
    assert skip or not model_dir.exists()


@pytest.mark.parametrize("empty", ["train", "validation"])
@pytest.mark.parametrize("described", [False, True])
def test_an_empty_split(tmp_path, pictures, empty, described):
    data_dir = tmp_path / "data"
    write_data(data_dir, [examples.example(pictures[0], 1)] * 3)
    (data_dir / f"{empty}-00000-of-00001").write_bytes(b"")
    if described:
        counts = {"train": 3, "validation": 3, empty: 0}
        dataset_info.DatasetInfo("x", *counts.values(), 10).write(str(data_dir))
    given = {"num_label_classes": 10, "num_eval_images": 3}
    status, _, err = run(*flags(data_dir=data_dir, model_dir=tmp_path / "m", **given))
    message = sentence(status, err)
    assert f"--data_dir={data_dir}: its {empty}-* hold no record" in message
    assert not (tmp_path / "m").exists()


def test_black_images_fill_the_last_batch_of_an_evaluation(tmp_path):
    status, _, err = run(
        *flags(data_dir="null", model_dir=str(tmp_path), train_steps=1, num_train_images=64,
               num_eval_images=13, num_label_classes=10, eval_batch_size=8)
    )  # fmt: skip
    assert status == 0, err
    assert "on 16 images" in err


@pytest.mark.parametrize("position", [0, 50])
def test_label_out_of_range(tmp_path, pictures, position):
    serialized = [examples.example(pictures[0], 1)] * 60
    serialized[position] = examples.example(pictures[0], 12)
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=60)
    )  # fmt: skip
    error = sentence(status, err)
    assert f"train-00000-of-00001, record {position}: label 12 is not in 1..10" in error


def test_truncated_record(tmp_path, pictures):
    write_data(tmp_path / "data", [examples.example(p, 1) for p in pictures * 3])
    path = tmp_path / "data" / "train-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-20])
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert "train-00000-of-00001, record 29: the file is truncated" in sentence(status, err)


@pytest.mark.parametrize("position", [1, 25])
def test_picture_that_is_none(tmp_path, pictures, position):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[position] = examples.example(b"\xff\xd8\xff no picture", 1)
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert f"record {position}: the picture cannot be decoded" in sentence(status, err)


@pytest.mark.parametrize("position", [1, 25])
def test_record_that_is_no_example(tmp_path, pictures, position):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[position] = b"\xff\xfe garbage"
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert f"record {position}: this is no tf.train.Example" in sentence(status, err)


def test_bad_images_are_left_out_and_counted(tmp_path, pictures):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    train, validation = list(serialized), list(serialized)
    train[3] = validation[0] = examples.example(b"no picture", 1)
    validation[20] = b"\xff\xfe garbage"
    write_data(tmp_path / "data", train, validation)
    path = tmp_path / "data" / "train-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    arguments = flags(
        data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
        num_eval_images=30, train_steps=4, steps_per_eval=4, skip_bad_images=True,
        export_dir=tmp_path / "e",
    )  # fmt: skip
    status, _, err = run(*arguments)
    assert status == 0, err
    assert "2 of 30 records are bad" in err
    assert "on 28 images (2 bad ones left out)" in err
    assert "2 bad training images were left out in each epoch" in err
    (evaluation,) = json.loads((tmp_path / "m" / "evaluations.json").read_text())
    assert (evaluation["images"], evaluation["skipped_images"]) == (28, 2)
    listed = json.loads((tmp_path / "m" / "bad_images.json").read_text())
    assert [p["record"] for p in listed["validation-"]["problems"]] == [0, 20]
    assert listed["train-"]["problems"][0]["record"] == 3
    # The list is kept: a second run does not look again.
    status, _, err = run(*arguments)
    assert status == 0, err
    assert "look at" not in err and "are bad" not in err


def test_labels_out_of_range_are_never_left_out(tmp_path, pictures):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[20] = examples.example(pictures[0], 11)
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10),
        "--skip_bad_images",
    )
    assert "record 20: label 11 is not in 1..10" in sentence(status, err)
