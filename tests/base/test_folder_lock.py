"""The lock on a folder: who holds it, what a dead holder leaves, the warning where no lock is."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

from utils.base import folder_lock
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_SECONDS = 120
OTHER = {"host": "elsewhere", "process": 7, "since": "2024-01-01 00:00:00", "time": 0.0}


@pytest.fixture
def bucket():
    path = f"ram://lock/{uuid.uuid4()}"
    tf.io.gfile.makedirs(path)
    return path


def hold(folder):
    return folder_lock.hold(str(folder), "model_dir", "training")


def read(folder):
    with tf.io.gfile.GFile(f"{folder}/{folder_lock.FILE_NAME}") as f:
        return json.loads(f.read())


def write(folder, content):
    path = f"{folder}/{folder_lock.FILE_NAME}"
    with tf.io.gfile.GFile(path + ".new", "w") as f:
        f.write(json.dumps(content))
    tf.io.gfile.rename(path + ".new", path, overwrite=True)


def test_one_writer_at_a_time_and_nothing_is_left(tmp_path):
    with hold(tmp_path):
        with pytest.raises(UserError) as error, hold(tmp_path):
            pass
        assert read(tmp_path)["process"] == os.getpid()
    for words in (f"--model_dir={tmp_path}", "Another training", f"process {os.getpid()} on"):
        assert words in str(error.value)
    with contextlib.suppress(ValueError), hold(tmp_path):
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_a_process_holds_a_folder_until_it_is_killed(tmp_path):
    program = (
        "from utils.base import folder_lock; import sys, time\n"
        "with folder_lock.hold(sys.argv[1], 'model_dir', 'training'):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    timer = threading.Timer(LIMIT_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on "), hold(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / folder_lock.FILE_NAME).exists()
        with hold(tmp_path):
            assert read(tmp_path)["process"] == os.getpid()
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def test_in_a_bucket_another_fresh_writer_is_a_warning(bucket, caplog):
    write(bucket, {**OTHER, "time": time.time() - 60})
    with caplog.at_level("WARNING", "absl"), hold(bucket):
        assert read(bucket)["process"] == os.getpid()
    assert bucket in caplog.text and "process 7 on elsewhere" in caplog.text
    assert tf.io.gfile.listdir(bucket) == []


def test_the_note_of_a_later_writer_stays(bucket):
    with hold(bucket):
        write(bucket, OTHER)
    assert read(bucket) == OTHER


@pytest.mark.parametrize("left", ["nothing", "old", "dead", "no note"])
def test_in_a_bucket_nothing_is_said_of_a_dead_writer(bucket, caplog, left):
    if left == "dead":
        with hold(bucket):
            mine = read(bucket)
        write(bucket, mine)
    elif left != "nothing":
        write(bucket, OTHER if left == "old" else "half")
    with caplog.at_level("WARNING", "absl"), hold(bucket):
        assert read(bucket)["process"] == os.getpid()
    assert caplog.text == ""


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("WARNING", "absl"), hold(tmp_path):
        assert read(tmp_path)["process"] == os.getpid()
    (record,) = caplog.records
    assert str(tmp_path) in record.message and "flock" in record.message


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=f"--model_dir={tmp_path}/none cannot be locked: "):  # noqa: SIM117
        with hold(f"{tmp_path}/none"):
            pass
