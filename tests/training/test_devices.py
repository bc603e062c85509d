"""Tests of what is said about the devices of a run."""

import platform

import pytest

from utils.training import devices


@pytest.mark.skipif(devices.has_gpu(), reason="its training does not run on the processor")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's processors")
@pytest.mark.parametrize(
    ("is_fast", "given", "size", "use_tpu", "is_told"),
    [(False, None, 128, False, True), (True, None, 224, False, False),
     (False, "0", 224, False, False), (False, None, 64, False, False),
     (False, None, 224, True, False)],
)  # fmt: skip
def test_a_training_on_slow_kernels_is_told_how_to_get_fast_ones(
    monkeypatch, caplog, is_fast, given, size, use_tpu, is_told
):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    monkeypatch.setattr(devices._pywrap_util_port, "IsMklEnabled", lambda: is_fast)
    with caplog.at_level("INFO", "absl"):
        devices.log_slow_kernels({"use_tpu": use_tpu, "input_image_size": size})
    assert ("TF_ENABLE_ONEDNN_OPTS=1" in caplog.text) is is_told
