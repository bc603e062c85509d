"""Tests of making the virtual environment on machines whose Python is too new for TensorFlow 2.15.

They fetch small packages from PyPI (uv, where a test says so, and pip), as `make setup` does.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "utils" / "make_venv.sh"
# What the script and a virtual environment's own scripts call.
TOOLS = ("sh", "env", "rm", "mkdir", "uname", "ldd")
NO_NETWORK = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"
    ),
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_RETRIES": "0",
    "UV_HTTP_RETRIES": "0",
}


@pytest.fixture
def machine(tmp_path):
    """A PATH with only a Python that says it is 3.13, which is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    newer = folder / "python3"
    newer.write_text(
        f'#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\nexec {sys._base_executable} "$@"\n'
    )
    newer.chmod(0o755)
    return folder


@pytest.fixture
def managed(tmp_path):
    """A folder with this Python as uv keeps those that it has downloaded."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("this Python is laid where uv looks for 3.11")
    system, processor = sysconfig.get_platform().split("-")[0], os.uname().machine
    name = f"cpython-{sys.version.split()[0]}-{system}-{processor}-gnu"
    python = tmp_path / "managed" / name
    (python / "bin").mkdir(parents=True)
    (python / "bin" / "python3.11").symlink_to(os.path.realpath(sys._base_executable))
    (python / "lib").symlink_to(os.path.join(sys.base_prefix, "lib"))
    return python.parent


def make_venv(folder, path, **environment):
    """Runs the script; returns its status, output and errors."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "VIRTUAL_ENV")}
    finished = subprocess.run(
        ["sh", str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**kept, "PATH": str(path), "UV_PYTHON_DOWNLOADS": "never", **environment},
    )
    return finished.returncode, finished.stdout, finished.stderr


def version(folder):
    program = "import sys, pip; print(*sys.version_info[:2])"
    return subprocess.check_output(
        [folder / "bin" / "python", "-c", program], text=True, timeout=60
    )


def test_a_python_that_fits_is_taken(tmp_path, machine):
    (machine / "python3.11").symlink_to(sys._base_executable)
    status, out, err = make_venv(tmp_path / "venv", machine, **NO_NETWORK)
    assert (status, out, err) == (0, "", "")
    assert version(tmp_path / "venv").split() == [str(n) for n in sys.version_info[:2]]


def test_with_only_a_newer_python_uv_is_installed_and_provides_one_that_fits(
    tmp_path, machine, managed
):
    place = {"UV_PYTHON_INSTALL_DIR": str(managed)}
    status, out, err = make_venv(tmp_path / "venv", machine, **place)
    assert (status, err) == (0, ""), out
    (line,) = out.splitlines()
    assert "uv provides 3.11" in line
    assert version(tmp_path / "venv") == "3 11\n"
    # A second environment takes the uv of the machine: here nothing could install one.
    (machine / "uv").symlink_to(tmp_path / "venv-uv" / "bin" / "uv")
    (machine / "python3").unlink()
    status, out, err = make_venv(tmp_path / "other", machine, **place)
    assert (status, err) == (0, "") and "uv provides 3.11" in out
    assert version(tmp_path / "other") == "3 11\n"
    assert not (tmp_path / "other-uv").exists()
    # And where that uv has no 3.11 and cannot download one:
    place = {"UV_PYTHON_INSTALL_DIR": str(tmp_path / "empty"), "UV_PYTHON_DOWNLOADS": "automatic"}
    sentence = refused(tmp_path / "third", machine, **place, **NO_NETWORK)
    assert "uv cannot provide 3.11" in sentence


def test_without_network_the_remedy_is_named(tmp_path, machine):
    sentence = refused(tmp_path / "venv", machine, **NO_NETWORK)
    assert "cannot be installed: check the network" in sentence
    assert not (tmp_path / "venv-uv").exists()


def test_a_named_python_that_does_not_fit_is_not_replaced(tmp_path, machine):
    assert "PYTHON=python3 is not one of them" in refused(
        tmp_path / "venv", machine, PYTHON="python3"
    )


def refused(folder, path, **environment):
    """The sentence with which no environment is made."""
    status, _, err = make_venv(folder, path, **environment)
    (line,) = err.splitlines()
    assert status == 1 and not folder.exists()
    assert line.startswith("error: Python 3.10 or 3.11 is needed")
    assert "PYTHON" in line
    return line
