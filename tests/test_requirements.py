"""Tests of what setup.py and the lists of pins say of packages."""

import importlib.metadata
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def pins(name):
    """Returns package -> version of a list of pins."""
    lines = (ROOT / name).read_text().splitlines()
    found = [re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    return {match[1].lower(): match[2] for match in found}


def test_the_libraries_of_a_gpu_are_those_that_tensorflow_names():
    needed = [line for line in importlib.metadata.requires("tensorflow") if "and-cuda" in line]
    named = dict(re.match(r"([\w-]+) ?\(?==([\w.]+)", line).groups() for line in needed)
    assert named == pins("requirements-gpu.txt")
    assert "nvidia-nccl-cu12" in named


def test_they_come_with_their_own_extra_alone():
    metadata = importlib.metadata.metadata("mnasnet-tpu")
    assert "gpu" in metadata.get_all("Provides-Extra")
    requires = [line for line in importlib.metadata.requires("mnasnet-tpu") if "cuda" in line]
    extras = [line.partition(";")[2].replace('"', "'").strip() for line in requires]
    assert extras == ["extra == 'gpu'"]
    assert not any(name.startswith("nvidia") for name in pins("requirements.txt"))
