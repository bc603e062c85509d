"""Tests of builds whose process is killed or stopped by a signal: the next run ends them."""

import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import picture_files
import pytest
from built_data import content

from utils.building import build_folder
from utils.building.build_folder import FolderOptions

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(source, files of a clean build): 120 pictures that take their time, for 30 files."""
    folder = tmp_path_factory.mktemp("many")
    source = folder / "in"
    pixels = np.random.RandomState(0).randint(0, 255, (600, 600, 3)).astype(np.uint8)
    noise = [picture_files.save(pixels[n:], "PNG", compress_level=1) for n in range(5)]
    for number in range(120):
        path = source / f"class {number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[number % 5])
    (source / "class 1" / "bad.jpg").write_bytes(b"bad")
    build(source, folder / "clean")
    return source, content(folder / "clean")


def build(source, target, **more):
    build_folder.build(FolderOptions(str(source), str(target), train_shards=30, **more))


def start(source, target, *more):
    command = [sys.executable, "-m", "utils.data", "folder", f"--input_dir={source}"]
    command += [f"--output_dir={target}", "--train_shards=30", *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for_files(process, target, count):
    """Waits until a build has finished so many files, or ended; returns those it has."""
    while process.poll() is None:
        done = list(target.rglob("*.tmp-done")) if target.exists() else []
        if len(done) >= count:
            return done
        time.sleep(0.001)
    return []


def killed_at_random(source, target, times, rng):
    """Kills a build again and again, each time a bit later; then lets it end. Returns the kills."""
    kills = 0
    for number in range(times):
        process = start(source, target)
        wait_for_files(process, target, 30 * number // times + rng.randrange(20 // times))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
    build(source, target)
    return kills


def test_killed_and_started_again(tmp_path, many):
    source, clean = many
    assert killed_at_random(source, tmp_path / "out", 1, random.Random(0)) == 1
    assert content(tmp_path / "out") == clean


@pytest.mark.slow
def test_killed_ten_times_at_random(tmp_path, many):
    source, clean = many
    kills = killed_at_random(source, tmp_path / "out", 10, random.Random(1))
    assert kills >= 9  # the last may come too late
    assert content(tmp_path / "out") == clean


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_stops_the_build_and_the_next_resumes_it(tmp_path, many, caplog, number, status):
    source, clean = many
    target = tmp_path / "out"
    process = start(source, target)
    done = wait_for_files(process, target, 5)
    process.send_signal(number)
    _, log = process.communicate()
    assert process.returncode == status
    assert "files are finished; the same command resumes here." in log
    assert "Traceback" not in log
    # The stop is clean: nothing half written is left.
    assert all(n.endswith((".tmp-done", ".tmp-made")) for n in content(target))
    times = {path: os.stat(path).st_mtime_ns for path in done}
    with caplog.at_level(logging.INFO, "absl"):
        build(source, target)
    assert "Resuming: " in caplog.text
    assert content(target) == clean
    for path, changed in times.items():
        assert os.stat(str(path).removesuffix(".tmp-done")).st_mtime_ns == changed
