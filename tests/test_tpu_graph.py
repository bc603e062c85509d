"""Tests of the complete graphs that TPUEstimator builds for TPUs; only a session needs a device."""

import collections
import functools
import re
import tempfile

import pytest
import tpu_graphs

import mnasnet_main
from utils import tpu_check
from utils.training import inputs

import tensorflow.compat.v1 as tf

SIZE, BATCH, CLASSES = 224, 1024, 1000
# Where the network does not matter, one that is built in a second.
TINY = {"model_name": "tiny", "model_spec": {"stages": ["r2_k3_s22_e3_i8_o8_se0.5"]}}
# (precision, hosts of 8 cores). One of them stays in `make test`.
TRAININGS = [
    ("bfloat16", 4),
    pytest.param("float32", 1, marks=pytest.mark.slow),
    pytest.param("float32", 4, marks=pytest.mark.slow),
    pytest.param("bfloat16", 1, marks=pytest.mark.slow),
]


@functools.cache
def build(training, precision, hosts):
    """mnasnet-a1's graph, built once for all tests."""
    return build_anew(training, precision, hosts)


def build_anew(training, precision, hosts, **given):
    params = tpu_check.tpu_params(
        precision=precision,
        model_dir=tempfile.mkdtemp(),
        **{"input_image_size": SIZE, "num_label_classes": CLASSES, **given},
    )
    return tpu_graphs.estimator_graph(params, training, num_hosts=hosts)


def check_infeed(graph, precision, hosts, transposed=True, size=SIZE):
    """Every core of every host takes its share of the batch once."""
    infeeds = tpu_graphs.infeeds(graph)
    batch = BATCH // (8 * hosts)
    images = (size, size, 3, batch) if transposed else (batch, size, size, 3)
    assert {infeed.shapes for infeed in infeeds} == {(images, (batch,))}
    assert {infeed.dtypes for infeed in infeeds} == {(tf.as_dtype(precision), tf.int32)}
    assert sorted((infeed.host, infeed.core) for infeed in infeeds) == [
        (f"/job:worker/task:{host}", core) for host in range(hosts) for core in range(8)
    ]
    (dequeue,) = tpu_graphs.operations(graph, "InfeedDequeueTuple")
    assert dequeue in tpu_graphs.replicated(graph)
    assert tuple(dequeue.outputs[0].shape.as_list()) == images


def shapes(tensors):
    return collections.Counter(tuple(tensor.shape.as_list()) for tensor in tensors)


# Training.


@pytest.mark.parametrize(("precision", "hosts"), TRAININGS)
def test_training_graph(precision, hosts):
    graph = build(True, precision, hosts)
    assert tpu_graphs.replicas(graph) == 8 * hosts
    check_infeed(graph, precision, hosts)
    assert graph.get_tensor_by_name("logits:0").shape == [BATCH // (8 * hosts), CLASSES]
    with graph.as_default():
        weights = tf.trainable_variables()
    sums = [op for op in tpu_graphs.replicated(graph) if op.type == "CrossReplicaSum"]
    assert len(sums) == len(weights) == 181
    assert len(tpu_graphs.operations(graph, "CrossReplicaSum")) == 181
    assert shapes(op.outputs[0] for op in sums) == shapes(weights)


@pytest.mark.parametrize(("precision", "hosts"), TRAININGS)
def test_a_core_can_run_all_of_the_training(precision, hosts):
    operations = tpu_graphs.replicated(build(True, precision, hosts))
    updates = [op for op in operations if op.type == "ResourceApplyRMSProp"]
    assert len(updates) == 181  # it is the whole step that is replicated
    assert tpu_graphs.graph_problems(operations) == []


@pytest.mark.parametrize(("precision", "hosts"), TRAININGS)
def test_precision(precision, hosts):
    graph = build(True, precision, hosts)
    kinds = re.compile(r"(Conv2D|DepthwiseConv2dNative)(Backprop(Input|Filter))?")
    dtypes = collections.Counter(
        op.outputs[0].dtype.name for op in tpu_graphs.replicated(graph) if kinds.fullmatch(op.type)
    )
    assert dtypes == {precision: 195}
    with graph.as_default():
        assert {v.dtype.base_dtype for v in tf.trainable_variables()} == {tf.float32}


@pytest.mark.parametrize(("precision", "hosts"), TRAININGS)
def test_summaries_are_written_by_the_host(precision, hosts):
    graph = build(True, precision, hosts)
    writers = tpu_graphs.operations(graph, "WriteSummary")
    assert len(writers) == 4  # cross-entropy, epoch, learning rate, loss
    assert {op.device for op in writers} == {"/job:worker/task:0/device:CPU:0"}
    assert not set(writers) & set(tpu_graphs.replicated(graph))
    assert len(tpu_graphs.operations(graph, "OutfeedDequeueTuple")) == 8 * hosts
    (enqueue,) = tpu_graphs.operations(graph, "OutfeedEnqueueTuple")
    assert enqueue in tpu_graphs.replicated(graph)
    # The step, and a value for each summary.
    assert shapes(enqueue.inputs) == {(1,): 5}


def test_infeed_as_it_is_and_no_host_call():
    graph = build_anew(True, "float32", 1, transpose_input=False, skip_host_call=True, **TINY)
    check_infeed(graph, "float32", 1, transposed=False)
    assert tpu_graphs.operations(graph, "WriteSummary") == []


@pytest.mark.parametrize("transposed", [True, False])
def test_the_network_sees_images_in_its_layout(transposed):
    graph = build_anew(False, "float32", 1, transpose_input=transposed, **TINY)
    stem, *_ = tpu_graphs.operations(graph, "Conv2D")
    assert stem.inputs[0].shape == [128, 224, 224, 3]
    (dequeue,) = tpu_graphs.operations(graph, "InfeedDequeueTuple")
    (user,) = dequeue.outputs[0].consumers()
    assert (user.type == "Transpose") == transposed


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_frozen_layers_are_neither_summed_nor_updated(precision):
    spec = {"stages": ["r2_k3_s22_e3_i8_o8_se0.5"]}
    graph = build_anew(
        True, precision, 1, model_name="tiny", model_spec=spec, freeze_until="block_0"
    )
    with graph.as_default():
        trained = [v.op.name for v in tf.trainable_variables()]
        every = {v.op.name for v in tf.global_variables()}
    # Block 1, the head and the classifier: expansion, depthwise, squeeze, projection, norms.
    assert len(trained) == 9 + 4 + 3 + 2
    assert not [name for name in trained if "mnas_blocks_0" in name or "mnas_stem" in name]
    operations = tpu_graphs.replicated(graph)
    assert sum(op.type == "CrossReplicaSum" for op in operations) == len(trained)
    assert sum(op.type == "ResourceApplyRMSProp" for op in operations) == len(trained)
    norms = [op for op in operations if op.type == "FusedBatchNormV3"]
    assert [op.get_attr("is_training") for op in norms].count(False) == 4
    assert tpu_graphs.graph_problems(operations) == []
    with build_anew(True, precision, 1, model_name="tiny", model_spec=spec).as_default():
        assert {v.op.name for v in tf.global_variables()} == every


def test_pictures_are_decoded_by_the_hosts(digits_dir):
    graph = build_anew(True, "float32", 4, data_dir=digits_dir, **TINY)
    check_infeed(graph, "float32", 4)
    functions = graph.as_graph_def().library.function
    decoding = [f for f in functions if any("Jpeg" in node.op for node in f.node_def)]
    assert decoding  # in the functions of the data set
    assert tpu_graphs.graph_problems(tpu_graphs.replicated(graph)) == []
    iterators = tpu_graphs.operations(graph, "IteratorV2")
    assert sorted(op.device for op in iterators) == [
        f"/job:worker/task:{host}/device:CPU:0" for host in range(4)
    ]


# Evaluation.


@pytest.mark.parametrize(("precision", "hosts"), TRAININGS)
def test_evaluation_graph(precision, hosts):
    graph = build(False, precision, hosts)
    assert tpu_graphs.replicas(graph) == 8 * hosts
    check_infeed(graph, precision, hosts)
    operations = tpu_graphs.replicated(graph)
    assert sum(op.type in ("Conv2D", "DepthwiseConv2dNative") for op in operations) == 65
    assert tpu_graphs.graph_problems(operations) == []
    # Metrics are the host's: it gets labels, logits and losses (and the loss) of every core.
    assert len(tpu_graphs.operations(graph, "OutfeedDequeueTuple")) == 8 * hosts
    (enqueue,) = tpu_graphs.operations(graph, "OutfeedEnqueueTuple")
    batch = BATCH // (8 * hosts)
    assert shapes(enqueue.inputs) == {(batch,): 2, (batch, CLASSES): 1}
    metrics = tpu_graphs.operations(graph, "InTopKV2")
    assert len(metrics) == 1 and not set(metrics) & set(operations)


# A model that is wrong.


def test_wrong_operations_are_found():
    def model_fn(features, labels, mode, params):
        spec = mnasnet_main.mnasnet_model_fn(features, labels, mode, params)
        metric_fn, (labels, logits, losses) = spec.eval_metrics
        wrong = [
            tf.boolean_mask(logits, logits > 0),
            tf.cast(logits, tf.float64) * 2,
            tf.py_func(lambda y: y, [logits], tf.float32),
            tf.as_string(logits),
        ]
        with tf.control_dependencies(wrong):
            losses = tf.identity(losses)
        return spec._replace(eval_metrics=(metric_fn, [labels, logits, losses]))

    params = tpu_check.tpu_params(
        model_dir=tempfile.mkdtemp(), tpu="grpc://10.0.0.1:8470", input_image_size=32, **TINY
    )
    estimator = tf.estimator.tpu.TPUEstimator(
        model_fn,
        config=mnasnet_main.build_estimator(params, training=False).config,
        params=params,
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
    )
    graph = tpu_graphs.built_graph(
        estimator, inputs.Split(params, False).input().input_fn, False, 1, 8
    )
    problems = "; ".join(tpu_graphs.graph_problems(tpu_graphs.replicated(graph)))
    for words in ("unknown shape", "float64", "PyFunc.*runs on hosts only", "gives strings"):
        assert re.search(words, problems), problems
