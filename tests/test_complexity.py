"""Tests of parameters, multiply-adds and memory: against published tables and the graph."""

import json

import pytest
from write_numbers import network

import mnasnet_models
from g3doc import cost_tables
from utils import complexity
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf

PUBLISHED = cost_tables.texts(cost_tables.A1)


def run(capsys, *arguments):
    complexity.main(["complexity", *arguments])
    return capsys.readouterr().out


def test_table_has_25_rows():
    assert len({(row["image_size"], row["depth_multiplier"]) for row in PUBLISHED}) == 25


@pytest.mark.parametrize(
    "row", PUBLISHED, ids=lambda row: f"{row['image_size']}x{row['depth_multiplier']}"
)
def test_published_row(row):
    figures = network("mnasnet-a1", float(row["depth_multiplier"])).measure(int(row["image_size"]))
    assert f"{figures.parameters / 1e6:.1f}" == row["params_m"]
    printed = float(row["madds_m"])
    assert abs(figures.multiply_adds / 1e6 - printed) <= 0.005 * printed
    # The distance in the first decimal place too: the definition, not luck, is what agrees.
    assert abs(figures.multiply_adds / 1e6 - printed) <= 0.2


@pytest.mark.parametrize(
    ("model_name", "depth_multiplier", "parameters"),
    [
        ("mnasnet-a1", None, 3_887_038),
        ("mnasnet-a1", 1.4, 6_105_992),
        ("mnasnet-b1", None, 4_383_312),
        ("mnasnet-small", None, 2_030_264),
        ("mnasnet-d1", None, 3_638_404),
    ],
)
def test_parameters(model_name, depth_multiplier, parameters):
    assert network(model_name, depth_multiplier).measure(224).parameters == parameters
    assert network(model_name, depth_multiplier).measure(96).parameters == parameters


def test_multiply_adds_of_small_are_published_by_layers_alone():
    assert f"{network('mnasnet-small').measure(224).layer_multiply_adds / 1e6:.0f}" == "68"


def test_stages_add_up():
    a1 = network("mnasnet-a1")
    stages, whole = a1.measure_stages(160), a1.measure(160)
    assert len(stages) == len(a1.stage_names) == 9
    for field in (
        "parameters",
        "multiply_adds",
        "layer_multiply_adds",
        "activations",
        "weights_bytes",
    ):
        assert sum(getattr(stage, field) for stage in stages) == getattr(whole, field), field
    assert max(stage.inference_bytes for stage in stages) == whole.inference_bytes


def test_stem_by_hand():
    stem = network("mnasnet-a1").measure_stages(224)[0]
    outputs = 112 * 112 * 32
    assert stem == complexity.Complexity(
        parameters=3 * 3 * 3 * 32 + 2 * 32,
        multiply_adds=outputs * 27 + outputs / 2,
        layer_multiply_adds=outputs * 27,
        activations=outputs,
        weights_bytes=4 * (3 * 3 * 3 * 32 + 4 * 32),
        # The image and the convolution's output; batch norm and ReLU in place.
        inference_bytes=4 * (224 * 224 * 3 + outputs),
        # The image, what batch norm takes, and what ReLU gives.
        training_bytes=4 * (224 * 224 * 3 + 2 * outputs),
    )


def test_half_the_memory_in_bfloat16_and_no_fewer_weights():
    b1 = network("mnasnet-b1")
    wide, narrow = b1.measure(96), b1.measure(96, "bfloat16")
    assert wide.training_bytes == 2 * narrow.training_bytes
    assert wide.inference_bytes == 2 * narrow.inference_bytes
    assert wide.weights_bytes == narrow.weights_bytes


def test_layers_agree_with_tensorflow_s_own_count():
    """tf.profiler counts floating-point operations, two a multiply-add, by its own formulas."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [1, 96, 96, 3])
        mnasnet_models.build_mnasnet_model(images, "mnasnet-small", False)
        options = tf.profiler.ProfileOptionBuilder.float_operation()
        options["output"] = "none"
        options["account_type_regexes"] = ["Conv2D", "DepthwiseConv2dNative", "MatMul"]
        profile = tf.profiler.profile(graph, cmd="op", options=options)
    counted = {"Conv2D", "DepthwiseConv2dNative", "MatMul"}
    found, pending = 0, [profile]
    while pending:
        node = pending.pop()
        pending.extend(node.children)
        found += node.float_ops if node.name in counted else 0
    assert found == 2 * network("mnasnet-small").measure(96).layer_multiply_adds


def test_json_and_table(capsys):
    arguments = (
        "--model_name=mnasnet-small",
        "--input_image_size=64,96",
        "--per_stage",
        "--num_label_classes=10",
    )
    content = json.loads(run(capsys, *arguments, "--json"))
    sizes = [row["input_image_size"] for row in content["networks"]]
    assert sizes == [64, 96]
    row = content["networks"][0]
    assert row["parameters"] == 2_030_264 - 990 * 1281
    assert sum(stage["parameters"] for stage in row["stages"]) == row["parameters"]
    assert set(content["definitions"]) <= set(row)
    table = run(capsys, *arguments)
    assert f"{row['parameters']:,}" in table
    assert all(text in table for text in complexity.DEFINITIONS.values())


def test_model_of_your_own(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("stages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\nhead_size: 16\n")
    row = json.loads(run(capsys, f"--model_spec={path}", "--json"))["networks"][0]
    assert row["model_name"] == "mine"
    blocks = 9 * 8 + 8 * 8 + 2 * 16
    assert row["parameters"] == (27 * 8 + 16) + blocks + (8 * 16 + 32) + 16 * 1000 + 1000


def test_latency_of_each_network(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("stages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\nhead_size: 16\n")
    arguments = (
        f"--model_spec={path}",
        "--input_image_size=32,64",
        "--num_label_classes=10",
        "--latency",
    )
    content = json.loads(run(capsys, *arguments, "--json"))
    for row in content["networks"]:
        assert set(row["latency_ms"]) == {"float32", "int8"}
        assert all(milliseconds > 0 for milliseconds in row["latency_ms"].values())
    assert "on one thread of" in content["definitions"]["latency_ms"]
    first, *_, last = run(capsys, *arguments, "--per_stage").splitlines()
    assert first.endswith("float32 ms  int8 ms")
    assert last.startswith("float32 ms, int8 ms: median of 60 runs in turns, with random weights")


def test_the_multiplier_of_a_model_s_file_is_shown(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("stages: [r1_k3_s22_e1_i32_o16]\ndepth_multiplier: 0.5\n")
    row = json.loads(run(capsys, f"--model_spec={path}", "--json"))["networks"][0]
    assert row["depth_multiplier"] == 0.5
    assert "mine x 0.5 at 224" in run(capsys, f"--model_spec={path}")
    other = run(capsys, f"--model_spec={path}", "--depth_multiplier=0.75")
    assert "mine x 0.75 at 224" in other


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_name=mnasnet-a2"], "mnasnet-a2.*choose one of mnasnet-a1"),
        (["--depth_multiplier=-1"], "depth_multiplier=-1.*greater than 0"),
        (["--input_image_size=abc"], "input_image_size=abc is not a whole number"),
        (["--precision=int8"], "precision=int8.*choose one of float32, bfloat16"),
        (["--precision=float32,bfloat16"], "precision=float32,bfloat16 is invalid"),
        (["--num_label_classes=10,20"], "num_label_classes=10,20 is not a whole number"),
        (["--model_spec=/nowhere.yaml"], "/nowhere.yaml"),
        (["--model_spec=/nowhere.yaml", "--model_name=mnasnet-a1"], "both given"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(UserError, match=words):
        complexity.main(["complexity", *arguments])
