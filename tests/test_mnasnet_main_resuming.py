"""Tests of trainings that start from a checkpoint: resuming, fine-tuning, the published program."""

import json
import pathlib
import re
import shutil
import zlib

import numpy as np
import pytest
from built_data import write_in_order
from golden_weights import weight as golden_weight
from main_runs import is_frozen, log_of, refusal, run_here, tiny_params, values_of
from other_records import TFDS, flags_of, write_tfds
from programs import flags

import mnasnet_main
from utils.base import files
from utils.training import checkpoints, evaluations, inputs

import tensorflow.compat.v1 as tf

GOLDEN = pathlib.Path(__file__).parent / "golden"
EACH_STEP = {"steps_per_eval": 1, "tf_random_seed": 3}


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """A model_dir after two steps of training, each with an evaluation."""
    model_dir = str(tmp_path_factory.mktemp("model"))
    run_here(*flags(data_dir=digits_dir, model_dir=model_dir, train_steps=2, **EACH_STEP))
    return model_dir


def test_resuming_says_which_settings_changed(trained, digits_dir, tmp_path, caplog):
    shutil.copytree(trained, tmp_path / "m")
    changed = flags(
        data_dir=digits_dir,
        model_dir=tmp_path / "m",
        mode="train",
        train_steps=3,
        base_learning_rate=0.05,
        **EACH_STEP,
    )
    err = log_of(caplog, *changed)
    assert "Other settings than before: base_learning_rate 0.05 (was 0.1)." in err
    err = log_of(caplog, *changed, "--train_steps=4")
    assert "Other settings" not in err


def test_classes_in_another_order_train_and_evaluate_alike(trained, digits_dir, tmp_path, caplog):
    data_dir = write_in_order(digits_dir, tmp_path / "data", [str(n) for n in range(9, -1, -1)])
    model_dir = shutil.copytree(trained, tmp_path / "m")
    for path in model_dir.glob("model.ckpt-2.*"):
        path.unlink()
    first, second = evaluations.read(trained)
    files.write_json(str(model_dir / "evaluations.json"), [first])
    err = log_of(caplog, *flags(data_dir=data_dir, model_dir=model_dir, train_steps=2, **EACH_STEP))
    assert "Resuming from step 1 of 2" in err and err.count("another order") == 1
    assert (model_dir / "labels.txt").read_text().split() == [str(n) for n in range(10)]
    expected = values_of(f"{trained}/model.ckpt-2")
    for name, value in values_of(str(model_dir / "model.ckpt-2")).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)
    again = evaluations.read(str(model_dir))[1]
    assert again["top_1_accuracy"] == second["top_1_accuracy"]
    assert again["cross_entropy"] == pytest.approx(second["cross_entropy"], abs=1e-4)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_classes_of_other_names_are_refused(trained, digits_dir, tmp_path, mode):
    data_dir = shutil.copytree(digits_dir, tmp_path / "data")
    info = json.loads((data_dir / "dataset_info.json").read_text())
    info["label_names"][4] = "four"
    (data_dir / "dataset_info.json").write_text(json.dumps(info))
    message = refusal(
        *flags(data_dir=data_dir, model_dir=trained, mode=mode, train_steps=9, **EACH_STEP)
    )
    assert "no 'four', and the data set no '4'" in message and f"{trained}/labels.txt" in message
    assert ("--init_checkpoint" in message) == (mode == "train")


def test_short_runs_train_as_one_long_one(digits_dir, tmp_path):
    """Each interval between evaluations is a run of its own: what it is fed comes next."""
    spec = {"stages": ["r1_k3_s22_e1_i8_o8_noskip"], "stem_size": 8, "head_size": 16}
    weights = {}
    for name, ends in (("one", [6]), ("three", [2, 4, 6])):
        params = tiny_params(
            model_name="tiny",
            model_spec=spec,
            data_dir=digits_dir,
            model_dir=str(tmp_path / name),
            num_train_images=1437,
            train_batch_size=8,
            base_learning_rate=1.0,
            warmup_epochs=0,
            use_cache=False,
            tf_random_seed=3,
            dropout_rate=0.0,
            train_steps=6,
            save_checkpoints_steps=2,
            add_summaries=False,
        )
        split = inputs.Split(params, is_training=True)
        for end in ends:
            mnasnet_main.train(params, end, split)
        reader = tf.train.load_checkpoint(checkpoints.latest(params["model_dir"]))
        shapes = reader.get_variable_to_shape_map()
        weights[name] = {n: reader.get_tensor(n) for n in shapes if n.endswith("kernel")}
    for name, expected in weights["one"].items():
        np.testing.assert_allclose(weights["three"][name], expected, atol=1e-4, err_msg=name)


def test_records_of_another_program(trained, digits_dir, tmp_path):
    """They are evaluated as the published ones, and a run that resumes knows how to read them."""
    model_dir = str(tmp_path / "model")
    shutil.copytree(trained, model_dir)
    (tmp_path / "model" / "evaluations.json").unlink()
    data_dir = write_tfds(digits_dir, tmp_path / "tfds", "GZIP")
    common = flags(data_dir=data_dir, model_dir=model_dir, train_steps=3)
    run_here(*common, *flags_of(TFDS))
    *_, expected = evaluations.read(trained)
    found, last = evaluations.read(model_dir)
    for name in ("images", "top_1_accuracy", "top_5_accuracy", "loss"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    assert (tmp_path / "model" / "labels.txt").read_text().startswith("0\n1\n")
    (tmp_path / "model" / "evaluations.json").unlink()
    run_here(*common, "--mode=eval")
    (again,) = evaluations.read(model_dir)
    assert again["loss"] == pytest.approx(last["loss"], abs=1e-6)


def test_another_network_in_model_dir_is_refused(trained, digits_dir):
    message = refusal(
        *flags(data_dir=digits_dir, model_dir=trained, depth_multiplier=0.5, train_steps=9)
    )
    assert "depth_multiplier None -> 0.5" in message


def test_fine_tuning_with_other_classes_skips_the_head(trained, digits_dir, tmp_path, caplog):
    err = log_of(
        caplog,
        *flags(
            data_dir=digits_dir,
            model_dir=tmp_path / "m",
            num_label_classes=12,
            train_steps=1,
            init_checkpoint=trained,
            mode="train",
        ),
    )
    assert "100.0 % of the backbone" in err and "other number of classes" in err


def test_fine_tuning_frozen_then_whole(trained, digits_dir, tmp_path, caplog):
    # No flag about the network: it comes with the weights, here those of the archive.
    common = [
        f"--data_dir={digits_dir}",
        f"--model_dir={tmp_path}",
        f"--init_checkpoint={trained}/archive",
        "--train_batch_size=16",
        "--log_step_count_steps=1",
        "--steps_per_eval=2",
        "--eval_batch_size=360",
    ]
    err = log_of(caplog, *common, "--train_steps=4", "--freeze_until=block_2")
    assert "tiny, 32 x 32" in err
    assert "Frozen: the stem and the blocks up to block_2." in err
    assert len(re.findall("Initial weights from", err)) == 1  # of two parts with an evaluation
    counts = re.search(r"Frozen: (\d+) variables with ([\d,]+) parameters; trained: (\d+)", err)
    start = values_of(evaluations.best(trained)["checkpoint"])
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
    err = log_of(caplog, *common, "--train_steps=5")
    assert "Resuming from step 4 of 5" in err
    assert "Initial weights" not in err and "Frozen" not in err
    whole = values_of(checkpoints.latest(str(tmp_path)))
    moved = [name for name in frozen if (whole[name] != tuned[name]).any()]
    assert len(moved) > 0.9 * len(frozen)


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


def test_a_training_of_the_published_program_continues_here(digits_dir, tmp_path, caplog):
    golden = json.loads((GOLDEN / "train_mnasnet-a1_64.json").read_text())
    before = published_values(golden)
    assert len(before) == 921
    with tf.Graph().as_default(), tf.Session() as session:
        fed = [tf.placeholder(value.dtype, value.shape) for value in before.values()]
        save = tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "model.ckpt-300"),
            tensor_names=list(before),
            shape_and_slices=[""] * len(before),
            tensors=fed,
        )
        session.run(save, dict(zip(fed, before.values(), strict=True)))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-300"\n')
    err = log_of(
        caplog,
        f"--data_dir={digits_dir}",
        f"--model_dir={tmp_path}",
        "--mode=train",
        "--train_steps=301",
        "--train_batch_size=8",
        "--input_image_size=64",
    )
    assert "Resuming from step 300 of 301" in err
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
