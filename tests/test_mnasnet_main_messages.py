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
    ("argument", "word"),
    [
        ("--freeze_backbone", "--freeze_backbone"),
        ("--freeze_until=block_3", "--freeze_until"),
        ("--data_dir=/nonexistent", "--data_dir=/nonexistent"),
        ("--init_checkpoint=/nonexistent", "--init_checkpoint=/nonexistent"),
        ("--num_eval_images=300", "--num_eval_images=360"),
    ],
)
def test_what_a_training_cannot_begin_with(digits_dir, tmp_path, argument, word):
    arguments = flags(data_dir=digits_dir, model_dir=tmp_path / "m", train_steps=1)
    assert word in refusal(*arguments, argument)
    assert not list(tmp_path.glob("m/model.ckpt*"))


@pytest.fixture(scope="module")
def pictures(digits_dir):
    return [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]


@pytest.fixture
def refused(tmp_path):
    """Returns a function: what a training on (training records, validation records) says."""

    def say(train, validation=None, described=None, **given):
        write_data(tmp_path / "data", train, validation)
        if described:
            dataset_info.DatasetInfo("x", *described, 10).write(str(tmp_path / "data"))
        else:
            given["num_label_classes"] = 10
        message = refusal(*flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", **given))
        assert not list(tmp_path.glob("m/model.ckpt*"))
        return message

    return say


@pytest.mark.parametrize("described", [None, (9, 9)])
@pytest.mark.parametrize("skip", [False, True])
def test_a_wrong_number_of_evaluation_images_is_known_before_the_training(
    refused, pictures, described, skip
):
    serialized = [examples.example(pictures[0], 1)] * 9
    if skip:
        serialized[4] = examples.example(b"no picture", 1)  # counted, too
    message = refused(serialized, described=described, num_eval_images=360, skip_bad_images=skip)
    assert "--num_eval_images=9" in message


@pytest.mark.parametrize("described", [None, (3, 0)])
def test_an_empty_split(refused, pictures, described, tmp_path):
    records = [examples.example(pictures[0], 1)] * 3
    write = tmp_path / "data" / "validation-00000-of-00001"
    message = refused(records, [], described=described, num_eval_images=3)
    assert f"--data_dir={write.parent}: its validation-* hold no record" in message


@pytest.mark.parametrize("position", [1, 25])
@pytest.mark.parametrize("kind", ["picture", "example", "label", "label skipped"])
def test_a_bad_record_is_named_at_the_start_and_on_the_way(refused, pictures, position, kind):
    serialized = [examples.example(p, 1) for p in pictures * 3]
    serialized[position] = {
        "picture": examples.example(b"\xff\xd8\xff no picture", 1),
        "example": b"\xff\xfe garbage",
    }.get(kind, examples.example(pictures[0], 12))
    given = {"num_eval_images": 30, "skip_bad_images": kind == "label skipped"}
    words = {"picture": "cannot be decoded", "example": "not a tf.train.Example"}
    message = refused(serialized, **given)
    assert f"record {position}: " in message and words.get(kind, "label 12 is not in") in message


def test_a_file_that_is_cut_short(tmp_path, pictures):
    write_data(tmp_path / "data", [examples.example(p, 1) for p in pictures * 3])
    path = tmp_path / "data" / "train-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-20])
    given = {"num_label_classes": 10, "num_eval_images": 30}
    message = refusal(*flags(data_dir=tmp_path / "data", model_dir=tmp_path / "m", **given))
    assert "train-00000-of-00001, record 29: the file is truncated" in message


def test_a_label_out_of_range_ends_the_process_with_a_sentence(tmp_path, pictures):
    """It is found on the way, as the check before the training reads the first records alone."""
    serialized = [examples.example(pictures[0], 1)] * 60
    serialized[50] = examples.example(pictures[0], 12)
    write_data(tmp_path / "data", serialized)
    status, _, err = run(
        *flags(
            data_dir=tmp_path / "data",
            model_dir=tmp_path / "m",
            num_label_classes=10,
            num_eval_images=60,
        )
    )
    error = sentence(status, err)
    assert "train-00000-of-00001, record 50: label 12 is not in 1..10" in error


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
        data_dir=tmp_path / "data",
        model_dir=tmp_path / "m",
        num_label_classes=10,
        num_eval_images=30,
        train_steps=4,
        steps_per_eval=4,
        skip_bad_images=True,
        export_dir=tmp_path / "e",
    )
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


def test_on_a_tpu_too_few_images_are_known_before_the_training(digits_dir, tmp_path):
    with pytest.raises(UserError, match="set --num_eval_images=360"):
        inputs.checked_splits(tpu_params(digits_dir, tmp_path, 400))
