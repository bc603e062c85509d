"""What all tests share: TensorFlow 1 behaviour, a fresh graph for each test, the sample data."""

import contextlib
import os
import resource

from gcs_requests import AT_ONCE

os.environ.update(AT_ONCE)  # before TensorFlow loads


import pytest
from bigtable_tables import loaded, server  # noqa: F401  (fixtures)
from exports import exported, model_dir, plain  # noqa: F401  (fixtures, one for all folders)
from gcs_server import gcs, gs_bucket  # noqa: F401  (fixtures)
from programs import run_as_program  # noqa: F401  (a fixture)
from shades import numbered_dir  # noqa: F401  (a fixture)

from utils.building import build_digits

import tensorflow.compat.v1 as tf

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_v2_behavior()

# Files that take from half a minute to minutes, the longest first.
LONG_FILES = (
    "test_bigtable_runs.py",
    "test_buckets.py",
    "test_mnasnet_main.py",
    "test_warm_start.py",
    "test_pretrained.py",
    "test_mnasnet_main_resuming.py",
    "test_mnasnet_main_stopping.py",
    "test_export.py",
    "test_full_disk.py",
    "test_mnasnet_main_model.py",
    "test_build_photographs.py",
    "test_xla_lowering.py",
    "test_make_venv.py",
    "test_example.py",
)


def pytest_collection_modifyitems(items):
    """Puts long files first, so that the workers of pytest-xdist end at about the same time."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def graph():
    """A default graph of the test's own."""
    with tf.Graph().as_default() as graph:
        yield graph


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """The sample data set."""
    path = str(tmp_path_factory.mktemp("data") / "digits")
    build_digits.build(path)
    return path


@pytest.fixture
def file_size_limit():
    """A block in which the system refuses to write a file beyond a size, as a full disk does."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
