"""Tests of whole runs that read Bigtable, against the real emulator, and how they fail."""

import os
import subprocess
import sys

import pytest
from bigtable_tables import BAD_VALUES, make_selection, pictures
from main_runs import refusal
from programs import ROOT, flags, run, sentence, wait_for_line

from utils import data as data_command
from utils.building import bigtable_load
from utils.reading import bigtable
from utils.training import checkpoints


def test_a_tpu_of_another_machine_is_refused(tmp_path):
    message = refusal(
        "--tpu=grpc://10.0.0.2:8470",
        "--bigtable_project=p",
        "--bigtable_instance=i",
        f"--model_dir={tmp_path}",
        "--num_label_classes=10",
    )
    assert "run on the TPU VM itself" in message


def test_a_tpu_of_this_machine_reads_the_table(tmp_path):
    # A process of its own: a client keeps the address that it began with.
    status, _, err = run(
        "--tpu=local",
        "--bigtable_project=p",
        "--bigtable_instance=i",
        f"--model_dir={tmp_path}",
        "--num_label_classes=10",
        environment={"BIGTABLE_EMULATOR_HOST": "127.0.0.1:1"},
    )
    assert "Is the server there" in sentence(status, err)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("picture", 100),
        pytest.param("picture", 0, marks=pytest.mark.slow),
        pytest.param("label", 100, marks=pytest.mark.slow),
        pytest.param("no example", 100, marks=pytest.mark.slow),
    ],
)
def test_a_run_names_the_row_it_ends_at(server, digits_dir, tmp_path, kind, number):
    value, reason = BAD_VALUES[kind]
    selection = make_selection(prefix="validation_")
    bigtable_load.create_table(selection)
    rows, serialized = bigtable.RowReader(selection), pictures(digits_dir, 110)
    rows.write(0, serialized)
    rows.write(number, [value])
    train = selection._replace(prefix="train_")
    bigtable.RowReader(train).write(0, serialized)
    status, _, err = run(
        "--mode=train_and_eval",
        *flags(model_dir=tmp_path, train_steps=2),
        "--eval_batch_size=10",
        f"--bigtable_project={selection.project}",
        "--bigtable_instance=i",
        "--num_train_images=110",
        "--num_eval_images=110",
        "--num_label_classes=10",
    )
    expected = f"row validation_0000000{number:03}: {reason}"
    assert expected in sentence(status, err)


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.slow)])
def test_a_training_run_ends_with_an_error_and_keeps_its_checkpoint(
    server, digits_dir, tmp_path, fault
):
    data_command.main(
        [
            "data",
            "bigtable-load",
            "--create",
            f"--data_dir={digits_dir}",
            "--project=p",
            "--instance=i",
        ]
    )
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "mnasnet_main.py"),
            "--mode=train",
            "--use_cache=false",
            *flags(model_dir=tmp_path, train_steps=100000, save_checkpoints_steps=2),
            "--bigtable_project=p",
            "--bigtable_instance=i",
            "--num_train_images=1437",
            "--num_label_classes=10",
        ],
        env={**os.environ, "BIGTABLE_EMULATOR_HOST": server.host},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_line(process, "train step 4/")
    getattr(server, fault)()
    _, err = process.communicate(timeout=120)
    assert "cannot be read" in sentence(process.returncode, err)
    assert checkpoints.is_complete(checkpoints.latest(str(tmp_path)))
