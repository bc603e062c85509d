"""Whole runs in buckets of a real server: what they leave, what they ask for, how they fail."""

import re
import signal
import threading

import pytest
from gcs_requests import HANG_UP, counts, summary
from gcs_server import tell_where_it_is
from main_runs import log_of, refusal, run_here
from programs import ROOT, flags, start, wait_for_line

import mnasnet_main
from utils import classify
from utils import data as data_command
from utils.base.errors import UserError
from utils.training import checkpoints, evaluations, hooks

import tensorflow.compat.v1 as tf

# Requests, which cost time and money. A change that makes do with fewer may lower them.
MOST_OF_A_CHECKPOINT = 20
MOST_OF_A_RUN = 520
SECONDS = 120  # in which a process has to get as far as it should


@pytest.fixture(scope="module")
def data(gcs):
    """The address of a small data set of ten classes, built while one look-up in ten fails."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tell_where_it_is(gcs, monkeypatch)
        address = gcs.make_bucket("data") + "/pictures"
        with gcs.failing(503, "stat", "list", every=10):
            build(address)
        yield address


def build(address):
    data_command.main(
        ["x", "fake", f"--output_dir={address}", "--num_train=40", "--num_validation=20"]
    )


def objects(gcs, address):
    """{name: bytes} of all objects below an address; those that stand for folders are left out."""
    folder = gcs.root / address.removeprefix("gs://")
    found = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def run_flags(data, **more):
    return flags(data_dir=data, eval_batch_size=20, save_checkpoints_steps=2, **more)


def killed_at(line, *arguments, environment):
    """Kills an endless training when it prints a line, or after `SECONDS`; returns its status."""
    process = start(*arguments, "--mode=train", "--train_steps=100000", environment=environment)
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    try:
        wait_for_line(process, line)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
    return process.returncode


def test_a_run_that_is_killed_and_resumed(gcs, gs_bucket, data, caplog, capsys):
    """Trains, is killed, resumes, evaluates, exports and classifies; look-ups fail all the time."""
    model, export = f"{gs_bucket}/model", f"{gs_bucket}/export"
    arguments = run_flags(data, model_dir=model, steps_per_eval=1000, add_summaries=True)
    with gcs.failing(503, "stat", "list", every=10), gcs.counted() as requests:
        status = killed_at("train step 5/", *arguments, environment=gcs.environment)
        assert status == -signal.SIGKILL
        reached = checkpoints.step_of(checkpoints.latest(model))
        assert reached >= 4
    check_events(requests)
    last = reached + 3
    with gcs.failing(503, "stat", "list", every=10), gcs.counted() as requests:
        log = log_of(caplog, *arguments, f"--train_steps={last}", f"--export_dir={export}")
        assert re.search(rf"Resuming from step {reached} of {last}", log)
        assert [e["global_step"] for e in evaluations.read(model)] == [reached, last]
        assert evaluations.best(model)["global_step"] in (reached, last)
        log = log_of(caplog, *arguments, f"--train_steps={last}", "--mode=train")
        assert "nothing to train" in log
        classify.main(
            ["x", f"--model={export}/tiny.tflite", f"{ROOT}/tests/golden/images/chelsea.jpg"]
        )
        assert "class_00" in capsys.readouterr().out
    left = [name for name in objects(gcs, gs_bucket) if re.search(r"te?mp|\.lock|unfinished", name)]
    assert left == []
    assert [request for request in requests if request.status == 503]
    assert len(requests) <= MOST_OF_A_RUN, summary(requests)
    events = [r.received for r in requests if r.kind == "upload" and "tfevents" in r.path]
    assert events and max(events) < 20_000


def check_events(requests):
    """Checks that the graph is uploaded once, and little whenever there is news."""
    sent = [r for r in requests if r.kind == "upload" and "tfevents" in r.path]
    (graph,) = (r for r in sent if r.received > 200_000)
    assert graph.path.endswith(".start")
    assert {r.path.rpartition(".")[2] for r in sent} == {"start", "steps"}
    assert max(r.received for r in sent if r.path.endswith(".steps")) < 20_000


def test_requests_of_a_checkpoint(gcs, gs_bucket):
    params = {
        "model_dir": f"{gs_bucket}/model",
        "save_checkpoints_steps": 1,
        "use_tpu": False,
        "use_async_checkpointing": False,
        "keep_checkpoint_max": 5,
    }
    train = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    tf.get_variable("weights", [1000])
    (saver,) = hooks.saver_hooks(params)
    with tf.train.SingularMonitoredSession([saver]) as session:
        session.run(train)
        with gcs.counted() as requests:
            session.run(train)
    assert checkpoints.is_complete(f"{gs_bucket}/model/model.ckpt-2")
    assert len(requests) <= MOST_OF_A_CHECKPOINT, "\n".join(map(str, requests))
    with gcs.counted() as requests:
        assert checkpoints.is_complete(f"{gs_bucket}/model/model.ckpt-2")
    assert counts(r for r in requests if ".data-" in r.path)["read"] == 1


@pytest.mark.slow
def test_a_run_in_a_bucket_gives_the_same_files_as_on_a_disk(gcs, gs_bucket, data, tmp_path):
    local = tmp_path / "data"
    build(local)
    assert objects(gcs, data) == {
        str(p.relative_to(local)): p.read_bytes() for p in sorted(local.rglob("*"))
    }
    common = {"tf_random_seed": 3, "use_cache": False}
    run_here(*run_flags(data, model_dir=f"{gs_bucket}/model", **common))
    run_here(*run_flags(local, model_dir=tmp_path / "model", **common))
    made = objects(gcs, f"{gs_bucket}/model")
    for name in ("model.ckpt-8.index", "model.ckpt-8.data-00000-of-00001", "checkpoint"):
        assert (tmp_path / "model" / name).read_bytes() == made[name]


# How runs fail.


def test_a_bucket_that_is_not_there(gs_bucket, data):
    missing = "gs://no-such-bucket/x"
    there = "is in a bucket that is not there: check its name, or make it first"
    assert there in refusal(*run_flags(data, model_dir=missing))
    assert "is not a folder" in refusal(*run_flags(missing, model_dir=f"{gs_bucket}/model"))
    with pytest.raises(UserError, match=there):
        build(missing)
    with pytest.raises(UserError, match="does not exist"):
        classify.main(["x", f"--model={missing}", "picture.jpg"])


@pytest.mark.parametrize(
    ("status", "kinds", "said"),
    [
        (403, ("begin", "upload"), "HTTP status 403 .*does not have storage.objects.get access"),
        (401, (), "access denied: HTTP status 401 when reading .*Invalid Credentials"),
        (503, (), "cannot be used: HTTP status 503, the last of 11 times, .*three minutes"),
        (HANG_UP, (), "cannot be used: Server returned nothing .*, the last of 11 times"),
    ],
)
def test_a_server_that_refuses_or_is_away(
    gcs, gs_bucket, data, run_as_program, status, kinds, said
):
    arguments = run_flags(data, model_dir=f"{gs_bucket}/model")
    with gcs.failing(status, *kinds):
        ended, err = run_as_program(mnasnet_main.main, *arguments)
    assert ended == 1
    assert re.search(rf"^error: .*{said}.*\n\Z", err, re.M), err
    assert "Traceback" not in err


def test_a_server_that_goes_away_in_the_middle(gcs, gs_bucket, data, run_as_program):
    """TensorFlow would begin a new session, without a word, as often as the server is away."""
    model = f"{gs_bucket}/model"
    arguments = run_flags(data, model_dir=model, mode="train")
    run_here(*arguments, "--train_steps=2")
    kept = objects(gcs, gs_bucket)["model/model.ckpt-2.data-00000-of-00001"]
    with gcs.failing(503, "copy"):  # as the next save needs it
        ended, err = run_as_program(mnasnet_main.main, *arguments)
    assert ended == 1
    assert re.search(r"^error: a bucket cannot be used: HTTP status 503.*\n\Z", err, re.M), err
    assert "Traceback" not in err
    with gcs.failing(503, "list"), pytest.raises((UserError, tf.errors.AbortedError)):
        run_here(*arguments)  # which does not begin anew over what cannot be listed
    assert checkpoints.step_of(checkpoints.latest(model)) == 2
    assert objects(gcs, gs_bucket)["model/model.ckpt-2.data-00000-of-00001"] == kept
