"""The sentence for a TensorFlow that does not fit, and what is set before TensorFlow loads."""

import os
import pathlib
import subprocess
import sys

import pytest

import utils

import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("version", ["2.15.1", "2.15.0.post1", "2.15.1+local", tf.__version__])
def test_fitting_versions(version):
    assert utils.tensorflow_problem(version) is None


@pytest.mark.parametrize("version", ["2.16.0rc0", "2.100.0", "3.0.0", None])
def test_other_versions_have_a_problem(version):
    assert "tensorflow==2.15.1" in utils.tensorflow_problem(version)


def run(folder, *arguments):
    """Runs Python where pip knows another version of TensorFlow."""
    metadata = folder / "tensorflow-2.16.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.16.1\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [ROOT / "mnasnet_main.py", "--help"],
        ["-m", "utils.data", "sample", "--output_dir=x"],
        ["-c", "import mnasnet_model"],
        ["-c", "import preprocessing"],
    ],
)
def test_another_version_ends_in_one_sentence(tmp_path, arguments):
    finished = run(tmp_path, *arguments)
    assert (finished.returncode, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    assert "TensorFlow 2.16.1 " in line and "tensorflow==2.15.1" in line


def test_a_program_may_catch_the_error_and_other_errors_keep_their_trace(tmp_path):
    caught = "try:\n  import mnasnet_models\nexcept ImportError as e:\n  print(e)\n"
    finished = run(tmp_path, "-c", caught + "raise KeyError('other')")
    assert finished.stdout.startswith("TensorFlow 2.16.1 ")
    assert "Traceback" in finished.stderr and "KeyError: 'other'" in finished.stderr


def test_a_session_has_the_threads_that_it_asks_for_whatever_the_first_one_has():
    def threads_of(count):
        before = len(os.listdir("/proc/self/task"))
        config = tf.ConfigProto(intra_op_parallelism_threads=count)
        with tf.Session(config=config) as session:
            session.run(tf.constant(1.0))
            return len(os.listdir("/proc/self/task")) - before

    threads_of(1)  # the first session of the process, or not
    assert threads_of(9) - threads_of(2) == 7
