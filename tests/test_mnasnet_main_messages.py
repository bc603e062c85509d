"""Tests of what the program says of wrong settings and wrong data: one sentence each."""

import glob
import json
import pathlib

import pytest
from main_runs import log_of, refusal, tpu_params, write_data
from programs import flags, run, sentence

from utils.base.errors import UserError
from utils.reading import dataset_info, examples
from utils.training import inputs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--freeze_backbone"], "--freeze_backbone would freeze random weights"),
        (["--freeze_until=block_3"], "--freeze_until would freeze random weights"),
        (["--freeze_until=block_99"], "which has block_0 to block_4"),
        (["--freeze_until=stem"], "--freeze_until=stem: 'stem' is not a block"),
    ],
)
def test_wrong_freezing(digits_dir, tmp_path, arguments, expected):
    message = refusal(*flags(data_dir=digits_dir, model_dir=tmp_path), *arguments)
    assert expected in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data_dir=/nonexistent"], "--data_dir=/nonexistent is not a folder"),
        (["--data_dir="], "--data_dir is missing"),
        (["--model_spec=", "--model_name=mnasnet-z"], "'mnasnet-z' is unknown"),
        (["--train_batch_size=0"], "--train_batch_size=0 is invalid: it must be at least 1."),
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
    message = refusal(*flags(data_dir=digits_dir, model_dir=tmp_path), *arguments)
    assert expected in message


@pytest.fixture(scope="module")
def pictures(digits_dir):
    return [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]


def test_empty_data_dir(tmp_path):
    message = refusal(*flags(data_dir=tmp_path, model_dir=tmp_path / "m"))
    assert "has no files train-*" in message


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
    message = refusal(*flags(data_dir=data_dir, model_dir=model_dir, **given))
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
    message = refusal(*flags(data_dir=data_dir, model_dir=tmp_path / "m", **given))
    assert f"--data_dir={data_dir}: its {empty}-* hold no record" in message
    assert not (tmp_path / "m").exists()


def test_a_label_out_of_range_in_the_first_record(tmp_path, pictures):
    write_data(tmp_path / "data", [examples.example(pictures[0], 12)] * 3)
    message = refusal(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=3)
    )  # fmt: skip
    assert "train-00000-of-00001, record 0: label 12 is not in 1..10" in message


def test_a_label_out_of_range_ends_the_process_with_a_sentence(tmp_path, pictures):
    """It is found on the way, as the check before the training reads the first records alone."""
    serialized = [examples.example(pictures[0], 1)] * 60
    serialized[50] = examples.example(pictures[0], 12)
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=60)
    )  # fmt: skip
    error = sentence(status, err)
    assert "train-00000-of-00001, record 50: label 12 is not in 1..10" in error


def test_truncated_record(tmp_path, pictures):
    write_data(tmp_path / "data", [examples.example(p, 1) for p in pictures * 3])
    path = tmp_path / "data" / "train-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-20])
    message = refusal(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert "train-00000-of-00001, record 29: the file is truncated" in message


@pytest.mark.parametrize("position", [1, 25])
def test_picture_that_is_none(tmp_path, pictures, position):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[position] = examples.example(b"\xff\xd8\xff no picture", 1)
    write_data(tmp_path / "data", serialized)
    message = refusal(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert f"record {position}: the picture cannot be decoded" in message


@pytest.mark.parametrize("position", [1, 25])
def test_record_that_is_no_example(tmp_path, pictures, position):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[position] = b"\xff\xfe garbage"
    write_data(tmp_path / "data", serialized)
    message = refusal(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10,
               num_eval_images=30)
    )  # fmt: skip
    assert f"record {position}: this is not a tf.train.Example" in message


def test_bad_images_are_left_out_and_counted(tmp_path, pictures, caplog):
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
    err = log_of(caplog, *arguments)
    assert "2 of 30 records are bad" in err
    assert "on 28 images (2 bad ones left out)" in err
    assert "2 bad training images were left out in each epoch" in err
    (evaluation,) = json.loads((tmp_path / "m" / "evaluations.json").read_text())
    assert (evaluation["images"], evaluation["skipped_images"]) == (28, 2)
    listed = json.loads((tmp_path / "m" / "bad_images.json").read_text())
    assert [p["record"] for p in listed["validation-"]["problems"]] == [0, 20]
    assert listed["train-"]["problems"][0]["record"] == 3
    # The list is kept: a second run does not look again.
    written = (tmp_path / "m" / "bad_images.json").stat().st_mtime_ns
    err = log_of(caplog, *arguments)
    assert "look at" not in err and "are bad" not in err
    assert (tmp_path / "m" / "bad_images.json").stat().st_mtime_ns == written


def test_labels_out_of_range_are_never_left_out(tmp_path, pictures):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[20] = examples.example(pictures[0], 11)
    write_data(tmp_path / "data", serialized)
    message = refusal(
        *flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", num_label_classes=10),
        "--skip_bad_images",
    )
    assert "record 20: label 11 is not in 1..10" in message


def test_on_a_tpu_too_few_images_are_known_before_the_training(digits_dir, tmp_path):
    with pytest.raises(UserError, match="set --num_eval_images=360"):
        inputs.checked_splits(tpu_params(digits_dir, tmp_path, 400))
