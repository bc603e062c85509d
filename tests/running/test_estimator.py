"""Evaluations of a run share one graph; their metrics are those of a graph of their own."""

import os
import shutil

import numpy as np
import pytest
from main_runs import run_here, values_of
from programs import flags

import mnasnet_main
from utils.config import loading
from utils.running import estimator
from utils.training import configuration, evaluations, inputs
from utils.weights import conversion

STEPS = (2, 4, 6)


@pytest.fixture
def arguments(digits_dir, tmp_path):
    return flags(
        data_dir=digits_dir,
        model_dir=tmp_path / "model",
        train_steps=6,
        steps_per_eval=2,
        tf_random_seed=1,
    )


def params_of(arguments):
    given = loading.parse_flags(["mnasnet_main.py", *arguments], "")
    return configuration.resolve(given, conversion.initial_weights)


def test_an_evaluation_on_a_kept_graph_has_the_metrics_of_one_of_its_own(arguments, tmp_path):
    run_here(*arguments)
    recorded = evaluations.read(str(tmp_path / "model"))
    assert tuple(entry["global_step"] for entry in recorded) == STEPS
    assert len({entry["loss"] for entry in recorded}) == len(STEPS)
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    os.remove(tmp_path / "copy" / evaluations.EVALUATIONS_FILE)
    params = {**params_of(arguments), "model_dir": str(tmp_path / "copy")}
    for step in STEPS:
        alone = inputs.Split(params, is_training=False)  # a new split has no graph yet
        mnasnet_main.evaluate(params, str(tmp_path / f"copy/model.ckpt-{step}"), alone)
    again = evaluations.read(str(tmp_path / "copy"))
    times = ("time", "date", "seconds", "cpu_seconds")
    for one, other in zip(recorded, again, strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {
            k: v for k, v in other.items() if k not in times
        }


def test_intervals_on_a_kept_graph_train_as_runs_that_were_interrupted_there(digits_dir, tmp_path):
    def run(folder, steps):
        run_here(
            *flags(
                data_dir=digits_dir,
                model_dir=tmp_path / folder,
                train_steps=steps,
                steps_per_eval=2,
                tf_random_seed=1,
                dropout_rate=0.5,
            )
        )

    run("once", STEPS[-1])
    for steps in STEPS:
        run("anew", steps)
    once, anew = (values_of(str(tmp_path / f"{name}/model.ckpt-6")) for name in ("once", "anew"))
    assert once.keys() == anew.keys()
    for name, value in once.items():
        np.testing.assert_array_equal(value, anew[name], name)


def test_other_settings_get_a_graph_of_their_own(arguments):
    params = params_of(arguments)
    split = inputs.Split(params, is_training=False)

    def make(params):
        return estimator.of_split(
            split, params, lambda: mnasnet_main.build_estimator(params, training=False)
        )

    kept = make(params)
    assert make({**params, "init_checkpoint": "weights"}) is kept
    assert make({**params, "eval_batch_size": 50}) is not kept
