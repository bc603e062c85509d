"""Tests of what a run says when a signal ends it, wherever it is."""

import contextlib
import errno
import os
import signal

import pytest
from saved_checkpoints import save

from utils.base import stopping
from utils.base.errors import UserError
from utils.running import loop


@pytest.fixture
def model_dir(tmp_path):
    """The folder of the checkpoints that a test saves."""
    return str(tmp_path)


@contextlib.contextmanager
def unwound():
    """A scope that fails while a stop unwinds it, as TensorFlow's do."""
    try:
        yield
    finally:
        raise AttributeError("of the scope")


@pytest.mark.parametrize(
    ("mode", "scope", "steps"),
    [
        ("train", contextlib.nullcontext, [3, 7]),
        ("train_and_eval", unwound, [3, 7]),
        ("train", unwound, []),
        ("eval", contextlib.nullcontext, [3, 7]),
    ],
)
def test_a_stop_names_the_saved_step(model_dir, caplog, mode, scope, steps):
    save(model_dir, *steps)
    params = {"mode": mode, "model_dir": model_dir}
    with (
        caplog.at_level("INFO", "absl"),
        pytest.raises((stopping.Stop, AttributeError)),
        loop.naming_what_is_saved(params),
        scope(),
    ):
        raise stopping.Stop(signal.SIGINT)
    if mode == "eval":
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert message.startswith("Saved step 7 in" if steps else "No step was saved in")
        assert model_dir in message


def test_a_full_disk_names_the_checkpoint_that_is_kept(model_dir):
    save(model_dir, 3)
    params = {"mode": "train", "model_dir": model_dir}
    with (
        pytest.raises(UserError, match=r"No space left .*model\.ckpt-3 is kept"),
        loop.naming_what_is_saved(params),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), model_dir)


def test_an_error_is_no_stop(model_dir, caplog):
    params = {"mode": "train", "model_dir": model_dir}
    with (
        caplog.at_level("INFO", "absl"),
        pytest.raises(ValueError),
        loop.naming_what_is_saved(params),
    ):
        raise ValueError("of another kind")
    assert caplog.messages == []
