"""Tests of what each mode of the program does and leaves, after one training by a real process."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from main_runs import log_of, refusal, run_here, tpu_params, values_of
from programs import TINY, flags, run

import mnasnet_main
from utils.base import folder_lock
from utils.training import checkpoints, evaluations, inputs


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """A model_dir after a short training with evaluation and export, and the log of the process."""
    model_dir = str(tmp_path_factory.mktemp("model"))
    given = {"post_quantize": True, "add_summaries": True, "add_histograms": True}
    status, _, err = run(
        *flags(data_dir=digits_dir, model_dir=model_dir, export_dir=model_dir + "/export", **given)
    )
    assert status == 0, err
    return model_dir, err


def test_a_training_leaves_checkpoint_evaluation_archive_and_export(trained):
    model_dir, err = trained
    steps = re.findall(r"train step (\d+)/8", err)
    assert steps == [str(step) for step in range(1, 9)]
    assert "averaged weights" in err
    assert not [line for line in err.splitlines() if "WARNING" in line or "deprecated" in line]
    assert checkpoints.step_of(checkpoints.latest(model_dir)) == 8
    (evaluation,) = evaluations.read(model_dir)
    assert evaluation["images"] == 360 and evaluation["global_step"] == 8
    assert evaluations.best(model_dir)["global_step"] == 8
    assert len(pathlib.Path(model_dir, "export", "labels.txt").read_text().split()) == 10
    report = json.loads(pathlib.Path(model_dir, "export", "export_report.json").read_text())
    rows = {row["kind"]: row for row in report["files"].values()}
    for kind in ("SavedModel", "float32"):
        assert rows[kind]["images"] == 360
        assert rows[kind]["top_1_accuracy"] == pytest.approx(evaluation["top_1_accuracy"])
        assert rows[kind]["agreement"] == 1 and rows[kind]["largest_probability_difference"] < 1e-3
    assert rows["dynamic"]["bytes"] < 0.6 * rows["float32"]["bytes"]


@contextlib.contextmanager
def tensorboard(folder):
    """Runs TensorBoard over a folder on a free port of this machine; gives its address."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tensorboard.main",
                f"--logdir={folder}",
                "--host=127.0.0.1",
                "--port=0",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
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


def test_tensorboard_starts_and_shows_scalars_pictures_and_weights(trained):
    model_dir, _ = trained
    with tensorboard(model_dir) as address:
        scalars = address + "data/plugin/scalars/"
        tags = wait_until(lambda: {run: set(t) for run, t in ask(scalars + "tags").items() if t})
        assert {"loss", "cross_entropy", "learning_rate", "epoch", "images_per_second"} <= tags["."]
        assert {"loss", "top_1_accuracy", "top_5_accuracy"} <= tags["eval"]
        # Wall time, step and value of each point.
        points = ask(scalars + "scalars?tag=loss&run=.")
        pictures = ask(address + "data/plugin/images/tags")["."]
        weights = ask(address + "data/plugin/histograms/tags")["."]
        graph = ask(address + "data/plugin/graphs/info")["."]
        tag = urllib.parse.quote(min(pictures))
        (sample,) = ask(f"{address}data/plugin/images/images?run=.&tag={tag}&sample=0")
        with urllib.request.urlopen(
            f"{address}data/plugin/images/individualImage?{sample['query']}", timeout=60
        ) as answer:
            picture = answer.read()
    assert all(0 <= step <= TINY["train_steps"] for _, step, _ in points) and points
    assert all(re.fullmatch(r"training_images/\d\d \d", tag) for tag in pictures)
    assert len(pictures) == 16 and picture.startswith(b"\x89PNG")
    assert any(tag.endswith("dense/kernel") for tag in weights)
    assert graph["run_graph"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("train_and_eval", "is complete at step 8"),
        ("eval", "Evaluated the last step, 8."),
        ("export_only", "Exported step 8 to"),
    ],
)
def test_each_mode_finds_what_is_there(trained, digits_dir, caplog, mode, words):
    """The `checkpoint` file is empty, as after a full disk, and the network is in params.yaml."""
    model_dir, _ = trained
    state = pathlib.Path(model_dir, "checkpoint")
    content, before = state.read_bytes(), sorted(os.listdir(model_dir))
    state.write_bytes(b"")
    arguments = [f"--data_dir={digits_dir}", f"--model_dir={model_dir}", f"--mode={mode}"]
    arguments += ["--train_steps=8", "--eval_timeout=0"]
    if mode == "export_only":
        arguments.append(f"--export_dir={model_dir}/export")
    # An evaluation may run next to a training.
    lock = folder_lock.hold(model_dir, "model_dir", "training")
    try:
        with lock if mode == "eval" else contextlib.nullcontext():
            log = log_of(caplog, *arguments)
    finally:
        state.write_bytes(content)
    assert "tiny, 32 x 32" in log and words in log
    assert sorted(os.listdir(model_dir)) == before


def test_a_second_training_in_a_folder_is_told_who_holds_it(trained, digits_dir, tmp_path):
    model_dir = shutil.copytree(trained[0], tmp_path / "m")
    arguments = flags(data_dir=digits_dir, model_dir=model_dir)
    with folder_lock.hold(str(model_dir), "model_dir", "training"):
        before = set(model_dir.rglob("*"))
        assert f"(process {os.getpid()} on " in refusal(*arguments)
        assert set(model_dir.rglob("*")) == before
    run_here(*arguments)  # complete: nothing to train


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("best", "archive/model.ckpt-8"), ("{}/model.ckpt-8", "model.ckpt-8"), ("/none", None)],
)
def test_export_of_another_checkpoint(trained, tmp_path, wanted, expected):
    model_dir, _ = trained
    arguments = [
        "--mode=export_only",
        f"--model_dir={model_dir}",
        f"--export_dir={tmp_path}",
        f"--export_checkpoint={wanted.format(model_dir)}",
    ]
    if expected is None:
        assert "--export_checkpoint=/none is not a checkpoint" in refusal(*arguments)
        return
    run_here(*arguments)
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert report["identity"]["checkpoint"] == os.path.join(model_dir, expected)


def test_on_a_tpu_fewer_images_may_be_evaluated(trained, digits_dir, tmp_path, monkeypatch):
    model_dir = shutil.copytree(trained[0], tmp_path / "m")
    build = mnasnet_main.build_estimator
    monkeypatch.setattr(
        mnasnet_main,
        "build_estimator",
        lambda params, training: build({**params, "use_tpu": False}, training),
    )
    params = tpu_params(digits_dir, model_dir, 150)
    split = inputs.checked_splits(params).eval
    metrics = mnasnet_main.evaluate(params, checkpoints.latest(str(model_dir)), split)
    assert metrics["images"] == 200  # two whole batches


NOTEBOOK = """
import sys
import tensorflow as tf
before = tf.constant(1) + 1
import imagenet_input, mnasnet_main
sys.argv = ["ipykernel_launcher.py", "-f", "kernel.json"]
folder, data_dir, *given = ARGUMENTS
for name in "ab":
    model_dir = f"--model_dir={folder}/{name}"
    assert not mnasnet_main.main(["x", model_dir, f"--data_dir={data_dir}", *given])
assert tf.executing_eagerly() and before + tf.constant(1) == 3
source = imagenet_input.ImageNetInput(False, False, False, data_dir, image_size=32)
images, labels = next(iter(source.input_fn({"batch_size": 4})))
assert images.shape == (4, 32, 32, 3) and labels.numpy().shape == (4,)
"""


def test_a_notebook_that_executes_eagerly_trains_as_the_program_does(digits_dir, tmp_path):
    given = flags(mode="train", train_steps=1, tf_random_seed=1)
    code = NOTEBOOK.replace("ARGUMENTS", repr([str(tmp_path), digits_dir, *given]))
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(mnasnet_main.__file__).parent,
    )
    assert finished.returncode == 0, finished.stderr
    run_here(*given, f"--data_dir={digits_dir}", f"--model_dir={tmp_path}/program")
    expected = values_of(checkpoints.latest(f"{tmp_path}/program"))
    for name in "ab":
        values = values_of(checkpoints.latest(f"{tmp_path}/{name}"))
        assert values.keys() == expected.keys()
        assert all(np.array_equal(values[key], expected[key]) for key in expected)


def test_black_images_fill_the_last_batch_of_an_evaluation(tmp_path, caplog):
    err = log_of(
        caplog,
        *flags(
            data_dir="null",
            model_dir=str(tmp_path),
            train_steps=1,
            num_train_images=64,
            num_eval_images=13,
            num_label_classes=10,
            eval_batch_size=8,
        ),
    )
    assert "on 16 images" in err
