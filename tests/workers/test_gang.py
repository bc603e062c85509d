"""Tests of the launcher with small commands: output, failures, restarts, signals, no one left."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from utils.workers import gang

ROOT = pathlib.Path(__file__).parent.parent.parent
# Workers append what they see to a file, and then do what their script says.
HEAD = """
import json, os, pathlib, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])
me = (0 if task["task"]["type"] == "chief" else 1 + task["task"]["index"])
log = pathlib.Path(sys.argv[1])
with log.open("a") as f: f.write(json.dumps([me, os.getpid(), task["cluster"], os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")
attempt = sum(json.loads(line)[0] == me for line in log.read_text().splitlines())
"""  # noqa: E501


def launch(tmp_path, body, count=3, restarts=0, grace=5.0):
    """Runs the launcher in a process; returns it, and the file that the workers append to."""
    script, log = tmp_path / "worker.py", tmp_path / "log"
    script.write_text(HEAD + body)
    log.touch()
    command = [sys.executable, str(script), str(log)]
    code = (
        "import sys; from utils.base import program; from utils.workers import gang;"
        f"program.run(lambda argv: gang.run({command}, {count}, {restarts}, {grace}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, log


def workers_of(log):
    """What the workers appended; none of them may still run."""
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    for _, pid, *_ in seen:
        assert not pathlib.Path(f"/proc/{pid}").exists(), "a worker is left"
    return seen


def finish(process, log):
    """Waits for the launcher; returns (status, stderr, what the workers saw)."""
    _, err = process.communicate(timeout=90)
    return process.returncode, err, workers_of(log)


@pytest.fixture
def run_here(tmp_path, capfd, caplog):
    """Runs the launcher in this process; returns (status, what it logged, workers, out, err)."""

    def run(body, count=3, restarts=0, grace=5.0):
        script, log = tmp_path / "worker.py", tmp_path / "log"
        script.write_text(HEAD + body)
        log.touch()
        with caplog.at_level("INFO", "absl"):
            status = gang.run([sys.executable, str(script), str(log)], count, restarts, grace)
        out, err = capfd.readouterr()
        return status, caplog.text, workers_of(log), out, err

    return run


def wait_for(log, lines):
    for _ in range(600):
        if len(log.read_text().splitlines()) >= lines:
            return [json.loads(line) for line in log.read_text().splitlines()]
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


def test_all_workers_run_once_and_know_each_other(run_here):
    status, _, seen, out, err = run_here("print('line of', me)")
    assert status == 0 and sorted(me for me, *_ in seen) == [0, 1, 2]
    (cluster,) = {json.dumps(cluster) for _, _, cluster, _ in seen}
    addresses = sum(json.loads(cluster).values(), [])
    assert len(set(addresses)) == 3
    assert out == "line of 0\n"
    assert sorted(line for line in err.splitlines() if "line of" in line) == [
        "worker 1: line of 1",
        "worker 2: line of 2",
    ]


def test_a_killed_worker_starts_all_again_at_new_ports(tmp_path):
    body = "if attempt == 1:\n  time.sleep(0.5 if me == 1 else 100)\n  os.kill(os.getpid(), 9)"
    process, log = launch(tmp_path, body, restarts=2)
    gang_before = wait_for(log, 3)
    os.kill(next(pid for me, pid, *_ in gang_before if me == 2), signal.SIGKILL)
    status, err, seen = finish(process, log)
    assert status == 0 and len(seen) == 6
    assert len({json.dumps(cluster) for _, _, cluster, _ in seen}) == 2
    assert "was killed (SIGKILL); starting all 3 again" in err and "(1 of at most 2 times)" in err


@pytest.mark.parametrize(("status", "attempts"), [(1, 1), (75, 3), (2, 1)])
def test_only_a_loss_is_worth_another_attempt(run_here, status, attempts):
    found, log, seen, *_ = run_here(f"if me == 1: sys.exit({status})", count=2, restarts=2)
    assert found == status and len(seen) == 2 * attempts
    assert ("not starting again (--max_restarts=2)" in log) == (attempts == 3)


def test_workers_that_do_not_end_are_ended(run_here, monkeypatch):
    monkeypatch.setattr(gang, "GRACE_AFTER_LOSS", 1.0)
    body = "signal.signal(15, lambda *_: None)\nif me == 0: sys.exit(1)\nwhile True: time.sleep(1)"
    status, log, *_ = run_here(body.replace("sys.exit(1)", "time.sleep(1); sys.exit(1)"))
    assert status == 1 and "Ending workers 1, 2, which did not end themselves." in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_is_no_loss(tmp_path, number):
    body = (
        f"signal.signal({int(number)}, lambda *_: (log.with_name(f'got{{me}}').touch(),"
        f" os._exit({128 + number})))\nlog.with_name(f'up{{me}}').touch()\ntime.sleep(100)"
    )
    process, log = launch(tmp_path, body, restarts=3)
    while process.poll() is None and len(list(tmp_path.glob("up*"))) < 3:
        time.sleep(0.05)
    process.send_signal(number)
    status, _, seen = finish(process, log)
    assert status == 128 + number and len(seen) == 3
    assert len(list(tmp_path.glob("got*"))) == 3


def test_a_worker_that_got_a_signal_alone_ends_all(run_here):
    # As workers do that vote: all of them end with the status of the signal.
    status, _, seen, *_ = run_here("time.sleep(0.5)\nsys.exit(143)", restarts=3)
    assert status == 143 and len(seen) == 3


def test_a_launcher_that_is_killed_leaves_nobody(tmp_path):
    body = (
        "sys.path.insert(0, os.getcwd())\nfrom utils.workers import gang\n"
        "gang.end_with_launcher()\n"
        "log.with_name(f'up{me}').touch()\ntime.sleep(100)"
    )
    process, log = launch(tmp_path, body, count=2)
    while process.poll() is None and len(list(tmp_path.glob("up*"))) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    pids = [pid for _, pid, *_ in wait_for(log, 2)]
    for _ in range(200):
        if not any(
            pathlib.Path(f"/proc/{pid}/cmdline").exists()
            and pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in pids
        ):
            return
        time.sleep(0.1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    pytest.fail("a worker outlived its launcher")


def test_each_worker_sees_one_gpu(run_here, monkeypatch):
    monkeypatch.setenv(gang.GPUS_VARIABLE, "3,5,7")
    _, _, seen, *_ = run_here("")
    assert {me: name for me, _, _, name in seen} == {0: "3", 1: "5", 2: "7"}


def test_free_ports_differ():
    assert len(set(gang.free_ports(20))) == 20
