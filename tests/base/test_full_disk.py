"""A disk that takes no more, and what is in the way in model_dir: one sentence, nothing lost."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_disk

import mnasnet_main
from utils.base import files
from utils.base.errors import UserError
from utils.training import checkpoints, evaluations
from utils.weights import weights_file

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 40_000  # bytes of a file: less than a checkpoint
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
SPEC = "{stages: [r1_k3_s22_e1_i8_o16_noskip, r1_k3_s22_e3_i16_o32], stem_size: 8, head_size: 64}"


def arguments(digits_dir, model_dir, **given):
    values = {
        "data_dir": digits_dir,
        "model_dir": model_dir,
        "mode": "train",
        "input_image_size": 32,
        "train_batch_size": 8,
        "eval_batch_size": 360,
        "base_learning_rate": 0.1,
        "save_checkpoints_steps": 2,
        "add_summaries": False,
        "use_cache": False,
        **given,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def run(digits_dir, model_dir, **given):
    """The program in this process."""
    mnasnet_main.main(["mnasnet", *arguments(digits_dir, model_dir, **given)])


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """A model_dir after two steps."""
    spec = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    spec.write_text(SPEC)
    folder = tmp_path_factory.mktemp("trained")
    run(digits_dir, folder, model_spec=spec, train_steps=2)
    return folder


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "model")


def step(model_dir):
    return checkpoints.step_of(checkpoints.latest(str(model_dir)))


def test_a_full_disk_ends_a_real_training_in_a_sentence(digits_dir, model_dir, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, str(ROOT / "mnasnet_main.py")]
    status, _, err = small_disk.run(
        [*program, *arguments(digits_dir, disk, train_steps=4)], disk, model_dir, timeout=300
    )
    assert status == 1 and "Traceback" not in err, err
    *_, error = err.splitlines()
    assert error.startswith(f"error: {disk}/"), err
    assert "No space left on device; make room" in error or "File too large; raise" in error
    assert f"{disk}/model.ckpt-2 is kept" in error
    assert step(model_dir) == 2
    # There is room again: the same command resumes.
    with caplog.at_level("INFO", "absl"):
        run(digits_dir, model_dir, train_steps=4)
    assert "from step 2 of 4" in caplog.text
    assert step(model_dir) == 4
    assert not list(model_dir.glob("*_temp*")) and not list(model_dir.glob("*.tmp-*"))


def test_a_checkpoint_that_does_not_fit_is_not_the_end_of_the_images(
    digits_dir, model_dir, file_size_limit
):
    with file_size_limit(LIMIT), pytest.raises(UserError) as error:
        run(digits_dir, model_dir, train_steps=4)
    text = str(error.value)
    assert text.startswith(str(model_dir)) and "File too large; raise the limit" in text
    assert text.endswith(f"({model_dir}/model.ckpt-2 is kept).") and "\n" not in text
    run(digits_dir, model_dir, train_steps=4)
    assert step(model_dir) == 4


def test_an_evaluation_whose_checkpoint_cannot_be_archived_is_done_again(digits_dir, model_dir):
    in_the_way = model_dir / "archive" / "model.ckpt-2.index"
    in_the_way.mkdir(parents=True)
    again = {"mode": "train_and_eval", "train_steps": 2}
    with pytest.raises(UserError, match=r"model\.ckpt-2\.index: .*; move away the folder"):
        run(digits_dir, model_dir, **again)
    in_the_way.rmdir()
    run(digits_dir, model_dir, **again)
    assert evaluations.best(str(model_dir))["global_step"] == 2
    assert [e["global_step"] for e in evaluations.read(str(model_dir))] == [2]


# What is in the way is known before the work.


@pytest.mark.parametrize("mode", ["train", "train_and_eval", "eval"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.txt", None, "cannot be read: "),
        ("evaluations.json", "[{", "is not a list of evaluations"),
        ("archive/best.json", "", "is not a record of the best checkpoint (it is empty)"),
        ("params.yaml", None, "cannot be read: "),
    ],
)
def test_what_is_in_the_way_is_known_before_the_work(
    digits_dir, model_dir, mode, name, content, words
):
    path = model_dir / name
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    before = sorted(os.listdir(model_dir))
    with pytest.raises(UserError) as error:
        run(digits_dir, model_dir, mode=mode, train_steps=3, eval_timeout=0)
    assert str(error.value).startswith(f"{path} {words}")
    assert sorted(os.listdir(model_dir)) == before


def test_records_that_may_not_be_read(digits_dir, tmp_path):
    data_dir = shutil.copytree(digits_dir, tmp_path / "data")
    locked = next(pathlib.Path(data_dir).glob("validation-*"))
    locked.chmod(0)

    def lose_the_rights_of_root():
        if os.geteuid() == 0:  # who may read everything else
            for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
                ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    program = [sys.executable, str(ROOT / "mnasnet_main.py")]
    finished = subprocess.run(
        [*program, *arguments(data_dir, tmp_path / "model", mode="train_and_eval")],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lose_the_rights_of_root,
    )
    assert finished.returncode == 1
    *_, error = finished.stderr.splitlines()
    assert error.startswith(f"error: {locked}"), finished.stderr
    assert "Permission denied; correct the permissions" in error


# Other files.


def test_exported_weights_that_do_not_fit_leave_nothing(tmp_path, file_size_limit):
    path = str(tmp_path / "w.safetensors")
    with file_size_limit(LIMIT), pytest.raises(UserError, match=f"{path} cannot be written"):
        weights_file.write_safetensors(path, {"a": np.zeros(LIMIT)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/a/b c"), "/a/b c: No space left on device; make"),
        (OSError(13, "Permission denied", "/a"), "/a: Permission denied; correct the permissions"),
        (RuntimeError("/a/events; No space left on device\n\tFailed to"), "/a/events: No space"),
        (IndexError("/a/events; File too large"), "/a/events: File too large; raise the limit"),
        (RuntimeError("/a b/archive is not a directory"), "/a b/archive: Not a directory; move"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/a']"), "name another one"),
    ],
)
def test_what_an_error_of_a_disk_says(error, words):
    text = str(files.failure_of(error))
    assert words in text and text.endswith("and run the same command again") and "\n" not in text


@pytest.mark.parametrize(
    "error", [OSError(2, "No such file", "/a"), RuntimeError("a bug"), IndexError("28")]
)
def test_other_errors_are_none_of_a_disk(error):
    assert files.failure_of(error) is None
