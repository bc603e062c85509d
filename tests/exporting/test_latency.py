"""Measuring networks in turns on one thread."""

import pytest
from exports import SPEC, settings_of

import mnasnet_main
from utils.exporting import measure, tflite


@pytest.fixture(scope="module")
def contents():
    """The files of a tiny network with random weights."""
    params = {**settings_of("none", "none"), "model_spec": SPEC}
    return measure.random_files(params, mnasnet_main.mnasnet_model_fn)


def test_files_of_random_weights_are_of_both_kinds(contents):
    assert list(contents) == list(measure.LATENCY_KINDS)
    assert tflite.float_operators(contents["float32"])
    assert not tflite.float_operators(contents["int8"])


def test_files_take_turns(contents, monkeypatch):
    """In each round one after the other, each twice: once to warm up."""
    ran = []
    run_again = tflite.Interpreter.run_again

    def record(interpreter):
        ran.append(interpreter)
        run_again(interpreter)

    monkeypatch.setattr(tflite.Interpreter, "run_again", record)
    found = measure.median_latencies(contents, rounds=3)
    assert list(found) == list(contents) and all(ms > 0 for ms in found.values())
    assert len(ran) == 12 and ran[:4] * 3 == ran
    assert ran[0] is ran[1] is not ran[2] is ran[3]


def test_the_machine_is_named():
    machine = measure.machine()
    assert machine["processor"] and machine["cores"] >= 1 and machine["threads"] == 1
    words = measure.describe_machine({**machine, "processor": "Some CPU", "cores": 2, "load": 0.25})
    assert words == (
        "through the interpreter of TensorFlow 2.15.1 on one thread of Some CPU (2 cores, "
        "load average 0.25)"
    )
