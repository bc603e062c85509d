"""Tests of runs as users of the published program know them: its checkpoints, flags and habits."""

import glob
import os
import shutil

import pytest
import yaml
from absl import logging
from main_runs import log_of, refusal, run_here, values_of
from resolved_settings import STAGES

from utils.base.errors import UserError
from utils.training import checkpoints, evaluations

SPEC = {"stages": STAGES, "stem_size": 8, "head_size": 16}


@pytest.fixture(scope="module")
def common(digits_dir, tmp_path_factory):
    """Flags of a tiny network on the digits."""
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return [
        f"--data_dir={digits_dir}",
        f"--model_spec={path}",
        "--input_image_size=32",
        "--train_batch_size=8",
        "--eval_batch_size=360",
        "--export_eval_images=10",
        "--use_cache=False",
    ]


@pytest.fixture(scope="module")
def old(common, tmp_path_factory):
    """A model_dir as the published program leaves it: tf.layers, no averages, no params.yaml."""
    model_dir = str(tmp_path_factory.mktemp("old"))
    run_here(
        *common,
        f"--model_dir={model_dir}",
        "--mode=train",
        "--train_steps=2",
        "--use_keras=False",
        "--moving_average_decay=0",
    )
    os.remove(model_dir + "/params.yaml")
    return model_dir


@pytest.fixture
def copy(old, tmp_path):
    """A copy of that folder."""
    shutil.copytree(old, tmp_path / "m")
    return str(tmp_path / "m")


TOLD = "tell that it was made with --use_keras=False, --moving_average_decay=0.0."


def test_an_old_checkpoint_resumes_without_a_flag(common, copy, caplog):
    before = set(values_of(checkpoints.latest(copy)))
    log = log_of(caplog, *common, f"--model_dir={copy}", "--mode=train", "--train_steps=3")
    assert f"the checkpoint in {copy} {TOLD}" in log
    assert "Resuming from step 2 of 3" in log and "top-1" not in log
    assert set(values_of(copy + "/model.ckpt-3")) == before
    # The kind of layers is recorded now, whether there are averages is told again.
    log = log_of(caplog, *common, f"--model_dir={copy}", "--mode=train", "--train_steps=4")
    assert "made with --moving_average_decay=0.0." in log
    assert set(values_of(copy + "/model.ckpt-4")) == before


def test_an_old_checkpoint_is_evaluated_then_exported(common, copy, caplog):
    """--mode=eval exports at its end, as the published program does."""
    export_dir = copy + "/export"
    log = log_of(
        caplog,
        *common,
        f"--model_dir={copy}",
        "--mode=eval",
        "--train_steps=2",
        f"--export_dir={export_dir}",
    )
    assert TOLD in log
    assert log.index("Step 2: top-1") < log.index("Exported step 2 to")
    assert glob.glob(export_dir + "/*.tflite")
    assert evaluations.best(copy)["global_step"] == 2


def test_an_old_checkpoint_is_exported_from_elsewhere(common, old, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    log = log_of(
        caplog,
        *common,
        f"--model_dir={tmp_path}/empty",
        f"--export_checkpoint={old}",
        "--mode=export_only",
        f"--export_dir={tmp_path}/export",
    )
    assert f"the checkpoint in {old} {TOLD}" in log


@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        ("train", "--use_keras=True"),
        ("eval", "--use_keras=True"),
        ("export_only", "--use_keras=True"),
        ("train", "--moving_average_decay=0.9"),
    ],
)
def test_a_flag_that_contradicts_the_checkpoint_is_refused(common, copy, tmp_path, mode, flag):
    message = refusal(
        *common,
        f"--model_dir={copy}",
        f"--mode={mode}",
        "--train_steps=3",
        f"--export_dir={tmp_path}/export",
        flag,
    )
    assert copy in message and "settings" in message


def test_an_export_is_checked_before_the_evaluations(common, copy):
    with pytest.raises(UserError, match="export_dir"):
        run_here(*common, f"--model_dir={copy}", "--mode=eval", f"--export_dir={copy}")
    assert not os.path.exists(copy + "/evaluations.json")


def test_a_training_evaluates_at_its_end_if_asked(common, copy, caplog):
    arguments = [*common, f"--model_dir={copy}", "--mode=train", "--train_steps=3"]
    assert "Step 3: top-1" in log_of(caplog, *arguments, "--eval_after_training")
    assert [e["global_step"] for e in evaluations.read(copy)] == [3]


def test_verbosity_leaves_warnings_and_errors(common, copy, caplog):
    arguments = [*common, f"--model_dir={copy}", "--mode=train", "--train_steps=3"]
    try:
        assert log_of(caplog, *arguments, "--verbosity=-1") == ""
    finally:
        logging.set_verbosity(logging.INFO)


def test_settings_can_be_checked_alone(common, copy, monkeypatch, caplog):
    monkeypatch.setattr(logging.FLAGS["only_check_args"], "value", False)  # puts it back
    log = log_of(caplog, *common, f"--model_dir={copy}", "--train_steps=3", "--only_check_args")
    assert "runs nothing" in log
    assert not os.path.exists(copy + "/model.ckpt-3.index")
