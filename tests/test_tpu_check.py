"""The command that compiles for TPUs; with the compiler itself in the slow tests."""

import json

import pytest

from utils import tpu_check
from utils.base.errors import UserError

SMALL = ["--model_name=mnasnet-small", "--batch_size=8", "--input_image_size=96"]


def cases(*arguments):
    return tpu_check.cases(tpu_check._parser().parse_args(arguments))


def test_the_default_is_one_core_of_a_v3_8():
    ((topology, batch_size, params),) = cases()
    assert (topology, batch_size) == ("v3", 128)
    assert (params["model_name"], params["precision"]) == ("mnasnet-a1", "float32")
    assert params["input_image_size"] == 224


def test_every_combination():
    found = cases(
        "--topology=v2,v6e",
        "--precision=float32,bfloat16",
        "--batch_size=64,128",
        "--depth_multiplier=1.4",
        "--model_name=mnasnet-b1,mnasnet-a1",
    )
    assert len(found) == 16
    assert {(t, b) for t, b, _ in found} == {(t, b) for t in ("v2", "v6e") for b in (64, 128)}
    assert {p["depth_multiplier"] for _, _, p in found} == {1.4}
    assert {(p["precision"], p["use_keras"]) for _, _, p in found} == {
        ("float32", None),
        ("bfloat16", False),
    }


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--topology=v1", "topology=v1 is unknown: choose from v2, v3"),
        ("--precision=int8", "precision=int8 is invalid"),
        ("--batch_size=0", "batch_size=0 is invalid"),
        ("--model_spec=/nowhere.yaml", "/nowhere.yaml"),
        ("--model_name=mnasnet-a1,foo", "foo.*choose one of mnasnet-a1"),
        ("--model_spec=/nowhere.yaml --model_name=mnasnet-a1", "both given"),
    ],
)
def test_mistakes_are_found_before_anything_is_installed(argument, words, tmp_path):
    env = tmp_path / "env"
    with pytest.raises(UserError, match=words):
        tpu_check.main(["tpu_check", f"--env={env}", *argument.split()])
    assert not env.exists()


def test_a_network_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("stages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\n")
    ((_, _, params),) = cases(f"--model_spec={path}")
    assert params["model_name"] == "mine" and params["model_spec"]["stem_size"] == 8
    path.write_text("stages: [r1_k3_s11_e3_i16_o16]\nstem_size: 8\n")
    with pytest.raises(UserError, match="takes 16 filters, but 8 come out of the stem"):
        cases(f"--model_spec={path}")


def test_row_says_what_does_not_fit():
    ((_, _, params),) = cases()
    gib = 2**30
    result = {
        "arguments": gib,
        "temporaries": 8 * gib,
        "code": 0,
        "total": 9 * gib,
        "flops": 1e12,
        "bytes_accessed": 1e10,
        "compile_seconds": 61.2,
    }
    fitting = tpu_check.row(params, "v3", 128, {**result, "fits": True})
    assert "9.00 of 15.48 GiB |" in fitting and fitting.count("|") == len(tpu_check.COLUMNS) + 1
    assert "9.00 of 7.48 GiB NO |" in tpu_check.row(params, "v2", 128, {**result, "fits": False})
    failed = tpu_check.row(params, "v2", 128, {"error": "RESOURCE_EXHAUSTED: memory"})
    assert "DOES NOT COMPILE: RESOURCE_EXHAUSTED: memory" in failed


@pytest.fixture(scope="module")
def env():
    """The second environment, where it can be installed."""
    try:
        tpu_check.set_up(tpu_check.DEFAULT_ENV)
    except UserError as e:
        pytest.skip(str(e))
    return f"--env={tpu_check.DEFAULT_ENV}"


@pytest.mark.slow
@pytest.mark.parametrize("topology", tpu_check.TOPOLOGIES)
def test_a_small_step_fits(env, topology, capsys):
    assert tpu_check.main(["tpu_check", env, *SMALL, f"--topology={topology}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    # Forward and backward: three times the forward's multiply-adds, two operations each.
    assert result["flops"] > 0.9 * 3 * 2 * 8 * 13.65e6
    assert result["fits"] and result["temporaries"] > 0


@pytest.mark.slow
def test_a_step_that_does_not_fit(env, capsys):
    arguments = ["--topology=v2", "--batch_size=1536"]
    assert tpu_check.main(["tpu_check", env, *arguments]) == 1
    assert "RESOURCE_EXHAUSTED" in capsys.readouterr().out
