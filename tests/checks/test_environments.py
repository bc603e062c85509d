"""What a second environment cannot install or run ends in a sentence."""

import sys

import pytest

from utils.base.errors import UserError
from utils.checks import environments


def python_that(tmp_path, does):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("function", ["start_litert", "start_mediapipe"])
def test_a_package_that_is_not_there(function):
    # The program's own environment has neither.
    with pytest.raises(UserError, match=f"{function} failed: ModuleNotFoundError"):
        environments.run(sys.executable, function)


def test_a_process_that_crashes(tmp_path):
    python = python_that(tmp_path, "echo 'Illegal instruction' >&2; exit 132")
    with pytest.raises(UserError, match=r"start_litert.* 132 \(Illegal instruction\)"):
        environments.run(python, "start_litert")


def test_a_process_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "LIMIT_SECONDS", 0.5)
    with pytest.raises(UserError, match="start_litert gave no answer"):
        environments.run(python_that(tmp_path, "exec sleep 60"), "start_litert")


@pytest.mark.slow
def test_packages_that_cannot_be_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    env = str(tmp_path / "env")
    with pytest.raises(UserError, match=r"^LiteRT cannot be installed here .* needs a network\.$"):
        environments.set_up(env, "LiteRT", ["ai-edge-litert==2.3.0"], "a network", "0.2 GB")
