"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    """No TPU is named by the environment that the tests happen to run in."""
    monkeypatch.delenv("TPU_NAME", raising=False)


@pytest.fixture
def model_dir(tmp_path):
    """The folder of the checkpoints that a test saves."""
    return str(tmp_path)
