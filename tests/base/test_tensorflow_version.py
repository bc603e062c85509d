"""Tests of the sentence for a TensorFlow that will not do: real processes, a fake installation."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

from utils.base import tensorflow_version

ROOT = pathlib.Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in [*ROOT.glob("mnasnet_m*.py"), *ROOT.glob("utils/**/*.py")]
    if path.stem not in ("__init__", "__main__")
] + ["imagenet_input", "mnasnet_start", "preprocessing"]
# Imports each module that it is given, and says how that ended.
IMPORTER = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(name, "tensorflow" in sys.modules)
    except ImportError as e:
        print(name, e)
"""


@pytest.mark.parametrize("version", ["2.15.1", "2.15.0", "2.15.0.post1", "2.15.1+local"])
def test_fitting_versions(version):
    assert tensorflow_version.problem(version) is None


@pytest.mark.parametrize("version", ["2.16.1", "2.16.0rc0", "2.17.0", "2.100.0", "3.0.0"])
def test_newer_versions_have_a_problem(version):
    sentence = tensorflow_version.problem(version)
    assert f"TensorFlow {version} " in sentence
    assert "tensorflow==2.15.1" in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_no_tensorflow_is_a_problem():
    sentence = tensorflow_version.problem(None)
    assert "not installed" in sentence
    assert "tensorflow==2.15.1" in sentence


def test_the_installed_version_fits():
    assert tensorflow_version.problem(tf.__version__) is None
    tensorflow_version.check()


def test_log_levels_are_set_before_tensorflow_loads():
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"]
    assert os.environ["GRPC_VERBOSITY"]


def fake_installation(folder, version, name="tensorflow"):
    """What pip leaves of a distribution, found before the real one."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, env=environment, cwd=folder,
    )  # fmt: skip


def assert_one_sentence(finished):
    assert finished.returncode not in (0, None)
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    (line,) = finished.stderr.splitlines()
    assert "TensorFlow 2.16.1 " in line
    assert "tensorflow==2.15.1" in line


def test_no_module_loads_another_version_of_tensorflow(tmp_path):
    fake_installation(tmp_path, "2.16.1")
    finished = run(tmp_path, "-c", IMPORTER, *MODULES)
    ends = dict(line.split(" ", 1) for line in finished.stdout.splitlines())
    assert list(ends) == MODULES, finished.stderr
    refused = {name for name, end in ends.items() if end.startswith("TensorFlow 2.16.1 ")}
    assert {end for name, end in ends.items() if name not in refused} == {"False"}
    assert {"mnasnet_main", "mnasnet_model", "preprocessing", "utils.base.program",
            "utils.data", "utils.reading.records", "utils.classify"} <= refused  # fmt: skip


def test_running_with_another_version_prints_one_sentence(tmp_path):
    fake_installation(tmp_path, "2.16.1")
    assert_one_sentence(run(tmp_path, str(ROOT / "mnasnet_main.py"), "--help"))


def test_a_module_run_with_another_version_prints_one_sentence(tmp_path):
    fake_installation(tmp_path, "2.16.1")
    assert_one_sentence(run(tmp_path, "-m", "utils.data", "sample", "--output_dir=x"))


def test_a_program_may_catch_the_error(tmp_path):
    fake_installation(tmp_path, "2.16.1")
    finished = run(
        tmp_path, "-c",
        "try:\n  import mnasnet_models\nexcept ImportError as e:\n  print('caught', e)",
    )  # fmt: skip
    assert finished.returncode == 0
    assert finished.stdout.startswith("caught TensorFlow 2.16.1 ")
    assert finished.stderr == ""


def test_other_errors_keep_their_trace(tmp_path):
    fake_installation(tmp_path, "2.16.1")
    finished = run(
        tmp_path, "-c",
        "try:\n  import mnasnet_models\nexcept ImportError:\n  pass\nraise KeyError('other')",
    )  # fmt: skip
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr
    assert "KeyError: 'other'" in finished.stderr


def test_the_fitting_version_says_nothing(tmp_path):
    fake_installation(tmp_path, "2.15.1")
    finished = run(tmp_path, "-c", "import utils.base.tensorflow_version as v; print(v.SUPPORTED)")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "2.15\n", "")


def test_checking_does_not_load_tensorflow(tmp_path):
    finished = run(
        tmp_path, "-c",
        "import sys, utils.base.tensorflow_version; print('tensorflow' in sys.modules)",
    )  # fmt: skip
    assert finished.stdout == "False\n"


def test_a_session_has_the_threads_that_it_asks_for_whatever_the_first_one_has():
    def threads_of(count):
        before = len(os.listdir("/proc/self/task"))
        config = tf.ConfigProto(intra_op_parallelism_threads=count)
        with tf.Session(config=config) as session:
            session.run(tf.constant(1.0))
            return len(os.listdir("/proc/self/task")) - before

    threads_of(1)  # the first session of the process, or not
    assert threads_of(9) - threads_of(2) == 7
