"""Tests of trainings of several processes: the same network, and every way to end one of them.

The processes are real and find each other through sockets of this machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import bigtable_tables
import numpy as np
import pytest
import small_disk
from gangs import LIMIT, gang_flags, launched, run_gang, wait_for, workers
from main_runs import refusal, run_here, values_of
from programs import ROOT, flags, sentence, start, wait_for_line

from utils.building import bigtable_load, build_digits
from utils.reading import records
from utils.training import checkpoints, evaluations
from utils.workers import gang, tasks

import tensorflow.compat.v1 as tf

SAME_IMAGES = {"dropout_rate": 0, "random_flip": False, "min_crop_area": 1, "tf_random_seed": 1}


@pytest.fixture(scope="module")
def sixteen(digits_dir, tmp_path_factory):
    """A data set whose every batch of 16 holds all its training images, in two files of 8."""
    folder = tmp_path_factory.mktemp("sixteen")
    shutil.copytree(digits_dir, folder, dirs_exist_ok=True)
    (folder / "dataset_info.json").unlink()
    records = [
        record
        for path in sorted(folder.glob("train-*"))
        for record in tf.python_io.tf_record_iterator(str(path))
    ]
    for path in folder.glob("train-*"):
        path.unlink()
    for number in range(2):
        with tf.io.TFRecordWriter(str(folder / f"train-0000{number}-of-00002")) as writer:
            for record in records[8 * number : 8 * number + 8]:
                writer.write(record)
    return {
        "data_dir": str(folder),
        "num_train_images": 16,
        "num_label_classes": 10,
        "num_eval_images": 360,
    }


@pytest.fixture(scope="module")
def trained(sixteen, tmp_path_factory):
    """A model_dir of one process at step 3, and the values of step 4."""
    folder = tmp_path_factory.mktemp("trained")
    given = {**sixteen, **SAME_IMAGES, "mode": "train"}
    with tf.Graph().as_default():
        run_here(*flags(**given, model_dir=folder / "start", train_steps=3))
        shutil.copytree(folder / "start", folder / "one")
        run_here(*flags(**given, model_dir=folder / "one", train_steps=4))
    return folder / "start", values_of(checkpoints.latest(str(folder / "one")))


def difference(values, other, before, chosen):
    """The norm of what two updates differ by, relative to the update's."""
    names = [name for name in values if chosen(name)]
    apart = sum(np.sum((values[name] - other[name]) ** 2.0) for name in names)
    update = sum(np.sum((values[name] - before[name]) ** 2.0) for name in names)
    return float(np.sqrt(apart / update))


def is_weight(name):
    return name.endswith(("kernel", "gamma", "beta", "bias", "depthwise_kernel"))


def is_statistic(name):
    return name.endswith(("moving_mean", "moving_variance"))


def is_average(name):
    return name.endswith("ExponentialMovingAverage")


@pytest.mark.parametrize(
    ("count", "synchronized"),
    [
        (2, True),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(4, True, marks=pytest.mark.slow),
    ],
)
def test_workers_make_the_step_of_one(sixteen, trained, tmp_path, count, synchronized):
    start_dir, one = trained
    folder = tmp_path / "two"
    shutil.copytree(start_dir, folder)
    status, err = run_gang(
        *gang_flags(
            **sixteen,
            **SAME_IMAGES,
            model_dir=folder,
            train_steps=4,
            num_workers=count,
            sync_batch_norm=synchronized,
        )
    )
    assert status == 0, err
    two = values_of(checkpoints.latest(str(folder)))
    before = values_of(str(start_dir / "model.ckpt-3"))
    assert {n: v.shape for n, v in two.items()} == {n: v.shape for n, v in one.items()}
    weights = difference(one, two, before, is_weight)
    statistics = difference(one, two, before, is_statistic)
    if synchronized:
        averages = difference(one, two, before, is_average)
        assert weights < 1e-3 and statistics < 1e-3 and averages < 1e-3
    else:
        assert weights > 0.1
    # Nothing of the other worker is left in model_dir.
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {
        "checkpoint",
        "model",
        "params",
        "events",
    }


@pytest.mark.parametrize(
    "index", [1, pytest.param(0, marks=pytest.mark.slow)], ids=["worker", "chief"]
)
def test_the_gang_survives_the_loss_of_one(digits_dir, tmp_path, index):
    given = gang_flags(
        data_dir=digits_dir,
        model_dir=tmp_path,
        mode="train_and_eval",
        train_steps=200,
        steps_per_eval=100,
        save_checkpoints_steps=20,
        max_restarts=1,
    )
    model_dir = str(tmp_path)
    with launched(*given) as process:
        wait_for(lambda: step_of(model_dir) >= 20, "step 20")
        os.kill(workers(process.pid)[index], signal.SIGKILL)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    who = "The chief" if index == 0 else "Worker 1"
    assert f"{who} was killed (SIGKILL); starting all 2 again from the last checkpoint" in err
    assert "Resuming from step" in err and "Traceback" not in err
    assert step_of(model_dir) == 200
    # The chief evaluated each step once; also the one that the training resumed from.
    steps = [found["global_step"] for found in evaluations.read(model_dir)]
    assert steps[-2:] == [100, 200] and len(steps) == len({*steps})


def test_a_signal_to_one_stops_all_at_one_step(digits_dir, tmp_path):
    given = gang_flags(data_dir=digits_dir, model_dir=tmp_path, train_steps=100000, max_restarts=3)
    with launched(*given) as process:
        wait_for_line(process, "train step 3/")
        os.kill(workers(process.pid)[1], signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM, err
    step = step_of(str(tmp_path))
    assert step >= 3 and f"Saved step {step} in {tmp_path}: the same command resumes" in err
    assert "starting all" not in err and "Traceback" not in err


@pytest.mark.slow
def test_a_worker_that_hangs_is_noticed(digits_dir, tmp_path):
    given = gang_flags(
        data_dir=digits_dir,
        model_dir=tmp_path,
        train_steps=60,
        save_checkpoints_steps=10,
        max_restarts=1,
        step_timeout=8,
    )
    with launched(*given) as process:
        wait_for(lambda: step_of(str(tmp_path)) >= 10, "step 10")
        os.kill(workers(process.pid)[1], signal.SIGSTOP)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert "Worker 0 ends: no step has ended for 8 s (--step_timeout)" in err
    assert "lost another worker; starting all 2 again" in err
    assert step_of(str(tmp_path)) == 60


def test_workers_of_a_scheduler_that_differ_are_refused(digits_dir, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in gang.free_ports(2)]
    processes = []
    for index, decay in enumerate((1e-5, 1e-4)):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        given = flags(
            data_dir=digits_dir,
            model_dir=tmp_path,
            mode="train",
            weight_decay=decay,
            step_timeout=60,
        )
        processes.append(start(*given, environment={tasks.VARIABLE: json.dumps(cluster)}))
    for process in processes:
        try:
            _, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert (
            "Worker 1 has other settings than the chief: weight_decay is 0.0001 (the chief's: "
            "1e-05)" in sentence(process.returncode, err)
        )
    assert step_of(str(tmp_path)) == 0


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (
            {"num_workers": 3},
            "--train_batch_size=16 is the batch of all workers and must be a "
            "multiple of their number, 3: give 15 or 18.",
        ),
        ({"num_workers": 32}, "give 32."),
        ({"num_workers": 0}, "--num_workers=0 is invalid: give a number from 1 to 1024, or auto"),
        ({"num_workers": "two"}, "--num_workers=two is invalid"),
        ({"num_workers": 2, "use_async_checkpointing": True}, "--use_async_checkpointing is for"),
        (
            {"num_workers": 2, "use_tpu": True, "tpu": "x"},
            "one process trains on all cores of a TPU",
        ),
        ({"sync_batch_norm": True, "use_tpu": True, "tpu": "x"}, "--sync_batch_norm is for"),
    ],
)
def test_what_several_workers_cannot_do(digits_dir, tmp_path, given, part):
    sentence = refusal(*flags(data_dir=digits_dir, model_dir=tmp_path / "m", mode="train", **given))
    assert part in sentence
    assert not (tmp_path / "m").exists()


def test_an_evaluator_of_a_scheduler_evaluates_alone(sixteen, trained, tmp_path, monkeypatch):
    cluster = {"chief": ["c:2222"], "worker": ["w:2222"]}
    variable = json.dumps({"cluster": cluster, "task": {"type": "evaluator", "index": 0}})
    shutil.copytree(trained[0], tmp_path / "model")
    given = {**sixteen, "model_dir": tmp_path / "model", "train_steps": 3}
    monkeypatch.setenv(tasks.VARIABLE, variable)
    sentence = refusal(*flags(**given, mode="train"))
    assert tasks.VARIABLE in sentence and "--mode=eval" in sentence
    run_here(*flags(**given, mode="eval"))
    assert evaluations.is_recorded(str(tmp_path / "model"), 3)


def test_more_workers_than_gpus(digits_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    sentence = refusal(*flags(data_dir=digits_dir, model_dir=tmp_path, num_workers=4))
    assert "--num_workers=4, but this machine shows 2 GPUs" in sentence


@pytest.mark.slow
def test_frozen_layers_cached_pictures_and_bad_ones(sixteen, trained, tmp_path):
    start_dir, _ = trained
    data = tmp_path / "data"
    shutil.copytree(sixteen["data_dir"], data)
    with tf.io.TFRecordWriter(str(data / "train-00001-of-00002")) as writer:
        writer.write(b"no example")
        for record in tf.python_io.tf_record_iterator(str(data / "train-00000-of-00002")):
            writer.write(record)
    status, err = run_gang(
        *gang_flags(
            **{**sixteen, "data_dir": data, "num_train_images": 17},
            model_dir=tmp_path / "m",
            init_checkpoint=start_dir,
            freeze_backbone=True,
            skip_bad_images=True,
            use_cache=True,
            train_steps=6,
        )
    )
    assert status == 0, err
    assert "100.0 % of the backbone" in err
    assert "1 bad training images were left out" in err
    before = values_of(str(start_dir / "model.ckpt-3"))
    after = values_of(checkpoints.latest(str(tmp_path / "m")))
    # A training that starts from a checkpoint takes its averages.
    changed = {
        name
        for name in before
        if is_weight(name) and (before[f"{name}/ExponentialMovingAverage"] != after[name]).any()
    }
    assert changed and all("dense" in name for name in changed)


@pytest.mark.slow
def test_rows_of_bigtable(server, digits_dir, tmp_path):
    selection = bigtable_tables.make_selection()
    bigtable_load.create_table(selection)
    bigtable_tables.load(records.list_files(digits_dir, "train-"), selection)
    status, err = run_gang(
        *gang_flags(
            bigtable_project=selection.project,
            bigtable_instance=selection.instance,
            model_dir=tmp_path,
            num_train_images=1437,
            num_label_classes=10,
        ),
        environment={"BIGTABLE_EMULATOR_HOST": server.host},
    )
    assert status == 0, err
    assert step_of(str(tmp_path)) == 8


@pytest.mark.slow
def test_a_full_disk_of_the_chief(digits_dir, tmp_path):
    content, disk = tmp_path / "content", tmp_path / "disk"
    content.mkdir()
    disk.mkdir()
    given = gang_flags(data_dir=digits_dir, model_dir=disk, max_restarts=3, train_steps=8)
    command = [sys.executable, str(ROOT / "mnasnet_main.py"), *given]
    status, _, err = small_disk.run(command, disk, content, LIMIT)
    assert status == 1, err
    assert "No space left on device" in err or "File too large" in err
    assert "starting all" not in err and "Traceback" not in err


@pytest.mark.slow
def test_the_digits_reach_the_same_accuracy(tmp_path):
    data_dir = str(tmp_path / "digits")
    build_digits.build(data_dir)
    found = {}
    for count in (1, 2):
        status, err = run_gang(
            "--config_file=sample",
            f"--data_dir={data_dir}",
            f"--model_dir={tmp_path}/{count}",
            f"--num_workers={count}",
            limit=4 * LIMIT,
        )
        assert status == 0, err
        found[count] = evaluations.read(str(tmp_path / str(count)))[-1]["top_1_accuracy"]
    assert abs(found[1] - found[2]) <= 0.01


def step_of(model_dir):
    return checkpoints.step_of(checkpoints.latest(model_dir))
