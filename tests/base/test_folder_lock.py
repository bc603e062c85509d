"""Tests of the lock on a folder: who holds it, and what a dead holder leaves."""

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

from utils.base import folder_lock, stopping
from utils.base.errors import UserError
from utils.workers import rendezvous

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_SECONDS = 120


@pytest.fixture(params=["folder", "bucket"])
def folder(request, tmp_path):
    """A folder on disk or in a bucket."""
    path = str(tmp_path) if request.param == "folder" else f"ram://lock/{uuid.uuid4()}"
    tf.io.gfile.makedirs(path)
    return path


@pytest.fixture
def bucket():
    path = f"ram://lock/{uuid.uuid4()}"
    tf.io.gfile.makedirs(path)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Signs of life come often."""
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "PATIENCE_SECONDS", LIMIT_SECONDS)


def hold(folder):
    return folder_lock.hold(folder, "model_dir", "training")


def read(folder):
    with tf.io.gfile.GFile(f"{folder}/{folder_lock.FILE_NAME}") as f:
        return json.loads(f.read())


def write(folder, content):
    path = f"{folder}/{folder_lock.FILE_NAME}"
    with tf.io.gfile.GFile(path + ".new", "w") as f:
        f.write(json.dumps(content))
    tf.io.gfile.rename(path + ".new", path, overwrite=True)


def leave(folder, **changes):
    """Leaves the file of a holder that was killed, who differs from this process in `changes`."""
    with hold(folder):
        content = {**read(folder), "token": "another", **changes}
    write(folder, content)


def process_id_of_nobody():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(LIMIT_SECONDS)
    return child.pid


def test_one_writer_at_a_time_and_nothing_is_left(folder, quick):
    with hold(folder):
        with pytest.raises(UserError) as error, hold(folder):
            pass
        assert read(folder)["process"] == os.getpid()
    for words in (f"--model_dir={folder}", "Another training", f"process {os.getpid()} on"):
        assert words in str(error.value)
    with hold(folder):
        pass
    assert tf.io.gfile.listdir(folder) == []


def test_an_error_frees_the_folder(folder):
    with contextlib.suppress(ValueError), hold(folder):
        raise ValueError
    assert tf.io.gfile.listdir(folder) == []


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
        with pytest.raises(UserError, match=f"process {process.pid} on "), hold(str(tmp_path)):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / folder_lock.FILE_NAME).exists()
        with hold(str(tmp_path)):
            assert read(tmp_path)["process"] == os.getpid()
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "holder",
    [
        {"process": process_id_of_nobody},
        {"host": lambda: "elsewhere", "boot": lambda: "another", "beat": lambda: 0.0},
    ],
    ids=["a process that is gone", "a host silent for long"],
)
def test_a_dead_holder_is_taken_over_at_once(bucket, holder, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "PATIENCE_SECONDS", 10 * LIMIT_SECONDS)
    leave(bucket, **{name: value() for name, value in holder.items()})
    with caplog.at_level("INFO", "absl"), hold(bucket):
        assert read(bucket)["process"] == os.getpid()
    assert "that is dead" in caplog.text and "Waiting" not in caplog.text
    assert tf.io.gfile.listdir(bucket) == []


def test_a_silent_holder_on_another_host_is_waited_for_and_taken_over(folder, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "PATIENCE_SECONDS", 0.2)
    leave(folder, host="elsewhere", boot="another")
    with caplog.at_level("INFO", "absl"), hold(folder):
        assert read(folder)["host"] != "elsewhere"
    assert "Waiting up to 0.2 s for a sign of life of process" in caplog.text


def test_a_holder_on_another_host_that_gives_a_sign_of_life_keeps_the_folder(folder, quick):
    leave(folder, host="elsewhere", boot="another")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            write(folder, {**read(folder), "beat": time.time()})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="on elsewhere, since"), hold(folder):
            pass
    finally:
        stop.set()
        thread.join()
    assert read(folder)["host"] == "elsewhere"


def test_a_file_that_is_none_of_ours_does_not_lock(folder):
    with tf.io.gfile.GFile(f"{folder}/{folder_lock.FILE_NAME}", "w") as f:
        f.write('{"half":')
    with hold(folder):
        assert read(folder)["process"] == os.getpid()


def test_who_lost_the_folder_ends_training_without_saving(bucket, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(stopping._State, "abandoned", None)
    step = tf.train.get_or_create_global_step()
    increment = tf.assign_add(step, 1)
    both = [
        rendezvous.StopHook(),
        tf.train.CheckpointSaverHook(str(tmp_path), save_steps=10**9, save_graph_def=False),
    ]
    end = time.monotonic() + LIMIT_SECONDS
    with pytest.raises(UserError, match=r"Another training has taken .* over \(process"):  # noqa: SIM117
        with hold(bucket), tf.train.SingularMonitoredSession(both) as session:
            first = set(os.listdir(tmp_path))
            other = {**read(bucket), "token": "another"}
            while time.monotonic() < end:
                if read(bucket)["token"] != "another":  # a beat may come in between
                    write(bucket, other)
                session.run(increment)
    assert set(os.listdir(tmp_path)) == first
    assert read(bucket)["token"] == "another"  # the file is the other's
    with pytest.raises(UserError, match="taken"):
        stopping.raise_if_requested()


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("WARNING", "absl"), hold(str(tmp_path)):
        assert read(tmp_path)["process"] == os.getpid()
    (record,) = caplog.records
    assert str(tmp_path) in record.message and "flock" in record.message


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=f"--model_dir={tmp_path}/none cannot be locked: "):  # noqa: SIM117
        with hold(f"{tmp_path}/none"):
            pass
