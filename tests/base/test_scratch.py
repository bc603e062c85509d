"""Temporary folders: gone at the end, after a kill at the next start, and never while in use."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from utils.base import scratch
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf

HOLD = """
import sys, tempfile
from utils.base import scratch
tempfile.tempdir = sys.argv[1]
with scratch.folder("x-") as folder:
    open(folder + "/a", "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(temporary):
    """Another program that uses a folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(temporary)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    folder = process.stdout.readline().strip()
    yield process, folder
    process.kill()
    process.communicate(timeout=60)


def test_a_folder_is_gone_at_the_end(temporary):
    with pytest.raises(ZeroDivisionError), scratch.folder("x-") as folder:
        os.makedirs(folder + "/b/c")
        assert os.path.dirname(folder) == str(temporary)
        raise ZeroDivisionError
    assert os.listdir(temporary) == []


def test_only_what_a_kill_left_is_removed(temporary, holder):
    process, held = holder
    (temporary / "x-file").write_text("not a folder")
    (temporary / "y-other").mkdir()
    with scratch.folder("x-"), scratch.folder("x-") as folder:
        assert os.listdir(folder) == []
        assert os.listdir(held) == ["a"]
        assert len(os.listdir(temporary)) == 5
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert os.path.isdir(held)
    with scratch.folder("x-"):
        assert not os.path.exists(held)
    assert sorted(os.listdir(temporary)) == ["x-file", "y-other"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_on_a_disk_without_locks_nothing_of_others_is_removed(temporary, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (temporary / "x-other").mkdir()
    with scratch.folder("x-") as folder:
        assert os.listdir(folder) == []
    assert os.listdir(temporary) == ["x-other"]


def test_a_temporary_folder_that_takes_no_more(temporary, file_size_limit):
    with file_size_limit(1000), pytest.raises(UserError) as error, scratch.folder("x-") as folder:
        file = tf.io.gfile.GFile(folder + "/a", "wb")
        file.write(b"x" * 2000)
        file.close()
    text = str(error.value)
    assert text.startswith(f"The temporary folder {temporary} cannot be written: File too large;")
    assert "in the variable TMPDIR" in text
    assert os.listdir(temporary) == []
