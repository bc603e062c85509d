"""Tests of what a run says when a signal ends it, wherever it is."""

import contextlib
import signal

import pytest
from saved_checkpoints import save

from utils.base import stopping
from utils.training import explanations


@contextlib.contextmanager
def unwound():
    """A scope that fails while a stop unwinds it, as TensorFlow's do."""
    try:
        yield
    finally:
        raise AttributeError("of the scope")


@pytest.mark.parametrize("mode", ["train", "train_and_eval", "eval", "export_only"])
@pytest.mark.parametrize("scope", [contextlib.nullcontext, unwound])
@pytest.mark.parametrize("steps", [[], [3, 7]])
def test_a_stop_names_the_saved_step(model_dir, caplog, mode, scope, steps):
    save(model_dir, *steps)
    params = {"mode": mode, "model_dir": model_dir}
    with (
        caplog.at_level("INFO", "absl"),
        pytest.raises((stopping.Stop, AttributeError)),
        explanations.naming_what_is_saved(params),
        scope(),
    ):
        raise stopping.Stop(signal.SIGINT)
    if not mode.startswith("train"):
        assert caplog.messages == []
    elif steps:
        assert caplog.messages == [
            f"Saved step 7 in {model_dir}: the same command resumes from there."
        ]
    else:
        assert caplog.messages == [
            f"No step was saved in {model_dir}: the same command begins anew."
        ]


def test_an_error_is_no_stop(model_dir, caplog):
    params = {"mode": "train", "model_dir": model_dir}
    with (
        caplog.at_level("INFO", "absl"),
        pytest.raises(ValueError),
        explanations.naming_what_is_saved(params),
    ):
        raise ValueError("of another kind")
    assert caplog.messages == []
