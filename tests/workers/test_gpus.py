"""Tests of the count of GPUs, with a command that stands in for nvidia-smi."""

import os

import pytest

from utils.workers import gang


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the path that shows some GPUs."""
    monkeypatch.delenv(gang.GPUS_VARIABLE, raising=False)

    def show(count):
        lines = "".join(f"GPU {n}: Some GPU (UUID: GPU-{n})\\n" for n in range(count))
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return show


@pytest.mark.parametrize("count", [0, 1, 8])
def test_nvidia_smi_counts(smi, count):
    smi(count)
    assert gang.visible_gpus() == [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("value", "found"),
    [("2,5", ["2", "5"]), ("", []), ("-1", []), ("0,-1,2", ["0"]), ("GPU-abc", ["GPU-abc"])],
)
def test_the_variable_comes_first(smi, monkeypatch, value, found):
    smi(8)
    monkeypatch.setenv(gang.GPUS_VARIABLE, value)
    assert gang.visible_gpus() == found


def test_without_a_driver_there_is_none(monkeypatch, tmp_path):
    monkeypatch.delenv(gang.GPUS_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gang.visible_gpus() == []


@pytest.mark.parametrize(("local", "taken"), [(0, "4"), (1, "6"), (2, "4"), (None, "4")])
def test_a_worker_takes_one(monkeypatch, local, taken):
    monkeypatch.setenv(gang.GPUS_VARIABLE, "4,6")
    assert gang.take_gpu(local) == 2
    assert os.environ[gang.GPUS_VARIABLE] == taken
