"""Placing an export: killed at every step, there is a whole export at any moment, and none lost."""

import json
import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from utils.base import files
from utils.base.errors import UserError
from utils.exporting import measure, placing

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[2]
# The SavedModel has a new name each time; what only the old export has leaves.
OLD = {"100": "SavedModel", "labels.txt": measure.LABELS_KIND, "a.tflite": "float32",
       "a_int8.tflite": "int8"}  # fmt: skip
NEW = {"200": "SavedModel", "labels.txt": measure.LABELS_KIND, "a.tflite": "float32"}
MEASURED = {"bytes": 1, "top_1_accuracy": 1.0, "top_5_accuracy": 1.0, "agreement": 1.0,
            "largest_logit_difference": 0.0, "latency_ms": 1.0}  # fmt: skip
# A child of the program dies at its N-th change of the file system, another one goes on from there.
KILLED = """
import json, os, shutil, signal, sys
import utils.base.tensorflow_version
import tensorflow.compat.v1 as tf
import test_placing as test
from utils.exporting import placing

def die_at(number):
    changes = 0
    def counting(function):
        def changing(*arguments, **more):
            nonlocal changes
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)
        return changing
    for name in ("rename", "copy", "makedirs", "remove", "rmtree", "GFile"):
        setattr(tf.io.gfile, name, counting(getattr(tf.io.gfile, name)))

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)

found = []
for number in range(1, 1000):
    folder = f"{sys.argv[1]}/{number}"
    test.write_old(folder)
    def work():
        die_at(number)
        test.place_new(folder)
    end = child(work)
    killed = test.state(folder)
    again = child(lambda: placing.finish(folder))
    found.append({"end": end, "killed": killed, "again": again, "finished": test.state(folder)})
    if end != "killed":
        break
print(json.dumps(found))
"""


def report_of(kinds, step):
    rows = {
        name: {"kind": kind, **(MEASURED if kind != measure.LABELS_KIND else {})}
        for name, kind in kinds.items()
    }
    return {"identity": {"global_step": step, "model_name": "a"}, "files": rows}


def write(folder, kinds, text):
    for name, kind in kinds.items():
        path = os.path.join(folder, name)
        if kind == "SavedModel":
            tf.io.gfile.makedirs(path + "/variables")
            files.write_text(path + "/variables/data", text)
            path += "/saved_model.pb"
        files.write_text(path, text)


def write_old(folder):
    tf.io.gfile.makedirs(folder)
    write(folder, OLD, "old")
    measure.write(folder, report_of(OLD, 1))


def place_new(folder, more=None):
    with placing.unfinished(folder) as unfinished:
        write(unfinished, NEW, "new")
        report = {**report_of(NEW, 2), **(more or {})}
        placing.place(folder, report, measure.read(folder))


def state(folder):
    """Every file by its path in a folder, with what it says; of reports the step."""
    found = {}
    for place, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            text = files.read_text(path)
            if name == measure.FILE_NAME:
                text = f"report {json.loads(text)['identity']['global_step']}"
            found[path.removeprefix(folder).lstrip("/")] = text
    return found


def expected(kinds, text, step):
    made = {"export_report.json": f"report {step}"}
    for name, kind in kinds.items():
        if kind == "SavedModel":
            made |= {f"{name}/saved_model.pb": text, f"{name}/variables/data": text}
        else:
            made[name] = text
    return made


def split(found):
    """(what is in the folder, what is in earlier/ without the name of its folder)."""
    now = {n: t for n, t in found.items() if not n.startswith("earlier/")}
    earlier = {n.split("/", 2)[2]: t for n, t in found.items() if n.startswith("earlier/")}
    return now, earlier


def test_killed_at_any_step(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=300,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/exporting"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    runs = json.loads(finished.stdout)
    assert [run["end"] for run in runs] == ["killed"] * (len(runs) - 1) + [0]
    assert len(runs) > 20
    ends = set()
    for number, run in enumerate(runs, 1):
        now, _ = split(run["killed"])
        # What the report lists is there, and each file is the old one or the new one.
        step = int(now["export_report.json"].split()[1])
        listed = expected(OLD, "old", 1) if step == 1 else expected(NEW, "new", 2)
        assert set(listed) <= set(now), number
        assert all(now[name] in (text, "new", "report 2") for name, text in listed.items()), number
        assert run["again"] == 0, number
        now, earlier = split(run["finished"])
        now = {n: t for n, t in now.items() if not n.startswith(placing.UNFINISHED_DIR)}
        if earlier:
            assert (now, earlier) == (expected(NEW, "new", 2), expected(OLD, "old", 1)), number
        else:
            assert now == expected(OLD, "old", 1), number
        ends.add(bool(earlier))
    assert ends == {False, True}


@pytest.fixture(params=["folder", "bucket"])
def folder(request, tmp_path):
    return str(tmp_path / "e") if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}"


def test_the_earlier_export_is_kept_whole(folder):
    write_old(folder)
    place_new(folder)
    assert split(state(folder)) == (expected(NEW, "new", 2), expected(OLD, "old", 1))


def test_the_first_export(folder):
    tf.io.gfile.makedirs(folder)
    place_new(folder)
    assert state(folder) == expected(NEW, "new", 2)


def test_a_disk_that_takes_no_more_before_the_files_are_placed(tmp_path, file_size_limit):
    write_old(str(tmp_path))
    # The copies of the old files fit, the new report does not.
    limit = (tmp_path / measure.FILE_NAME).stat().st_size
    more = {"notes": "x" * limit}
    with file_size_limit(limit), pytest.raises(UserError, match=r"cannot be written: File too"):
        place_new(str(tmp_path), more)
    assert state(str(tmp_path)) == expected(OLD, "old", 1)


@pytest.mark.parametrize(
    "damage",
    [
        {"placing": {}},
        {"placing": ["/a"]},
        {"leaving": 3},
        {"leaving": ["../a"]},
        {"earlier": ["x"]},
        {"earlier": "../x"},
    ],
)
def test_a_damaged_plan_is_named(tmp_path, damage):
    write_old(str(tmp_path))
    path = tmp_path / placing.UNFINISHED_DIR / "placing.json"
    path.parent.mkdir()
    plan = {"placing": [*NEW], "leaving": [], "earlier": None, **damage}
    path.write_text(json.dumps(plan))
    before = state(str(tmp_path))
    with pytest.raises(UserError, match=f"{path} is not a plan of this program .* remove the fold"):
        placing.finish(str(tmp_path))
    assert state(str(tmp_path)) == before
