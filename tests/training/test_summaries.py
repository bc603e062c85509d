"""Tests of what a training writes for TensorBoard, in real trainings of a tiny network."""

import collections
import glob
import io

import numpy as np
import pytest
import tpu_graphs
from main_runs import tiny_params, values_of
from PIL import Image

import mnasnet_main
from utils.training import checkpoints, hooks, inputs

import tensorflow.compat.v1 as tf

SPEC = {"stages": ["r1_k3_s22_e1_i8_o8_noskip"], "stem_size": 8, "head_size": 16}


def params_of(digits_dir, model_dir, **more):
    """Settings of a training whose numbers are the same in each run."""
    common = dict(
        model_name="tiny",
        model_spec=SPEC,
        data_dir=digits_dir,
        model_dir=str(model_dir),
        num_train_images=1437,
        train_batch_size=32,
        use_cache=False,
        tf_random_seed=3,
        dropout_rate=0.5,
        base_learning_rate=1.0,
        warmup_epochs=0,
        save_checkpoints_steps=100,
        log_step_count_steps=2,
    )
    return tiny_params(**common, **more)


def train(params, *ends):
    """Trains to each of the steps, as a program of its own; returns the events of each run."""
    found = []
    for end in ends:
        known = set(glob.glob(params["model_dir"] + "/events*"))
        mnasnet_main.train(params, end, inputs.Split(params, is_training=True))
        tf.summary.FileWriterCache.clear()  # the next run is another process
        paths = sorted(set(glob.glob(params["model_dir"] + "/events*")) - known)
        found.append([event for path in paths for event in tf.train.summary_iterator(path)])
    return found


def values(events):
    """tag -> {step: value}."""
    found = collections.defaultdict(dict)
    for event in events:
        for value in event.summary.value:
            found[value.tag][event.step] = value
    return found


def contents(events):
    return collections.Counter(event.WhichOneof("what") for event in events)


@pytest.fixture(scope="module")
def runs(digits_dir, tmp_path_factory):
    """(params, events of a run from step 0 and of one that resumes), with all there is to see."""
    params = params_of(
        digits_dir, tmp_path_factory.mktemp("model"), add_summaries=True, add_histograms=True
    )
    return params, train(params, 5, 8)


def test_the_graph_is_written_once(runs):
    first, resumed = map(contents, runs[1])
    assert first["graph_def"] == 1 and first["meta_graph_def"] == 0
    assert resumed["graph_def"] == resumed["meta_graph_def"] == 0
    graph = next(event.graph_def for event in runs[1][0] if event.graph_def)
    assert b"dense" in graph
    assert sum(event.ByteSize() for event in runs[1][1]) < 100_000


def test_what_the_steps_write_has_a_file_of_its_own(runs):
    """A bucket takes no additions: a file is uploaded whole each time, so the graph is not in it.

    TensorBoard reads the files in the order of their names and does not go back to an earlier one.
    """
    start, first, resumed = sorted(glob.glob(runs[0]["model_dir"] + "/events*"))
    kinds = [contents(tf.train.summary_iterator(path)) for path in (start, first, resumed)]
    assert [kind["graph_def"] for kind in kinds] == [1, 0, 0]
    assert [kind["session_log"] > 0 for kind in kinds] == [False, True, True]
    assert not [tag for tag in values(tf.train.summary_iterator(start)) if "training_im" not in tag]


def test_the_pictures_are_the_first_of_the_first_batch(runs, digits_dir):
    params, (first, resumed) = runs
    shown = {tag: steps for tag, steps in values(first).items() if tag.startswith("training_im")}
    split = inputs.Split(params, is_training=True)
    batches = split.input().input_fn({"batch_size": 32})
    with tf.Session() as session:
        iterator = tf.data.make_initializable_iterator(batches)
        session.run(iterator.initializer)
        images, labels = session.run(iterator.get_next())
    # The digits' names are their labels.
    tags = [f"training_images/{number:02} {labels[number]}" for number in range(16)]
    assert sorted(shown) == tags
    for number, tag in enumerate(tags):
        (value,) = shown[tag].values()
        pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)), np.float32)
        np.testing.assert_allclose(pixels, np.clip(images[number], 0, 255), atol=0.51)
    assert not [tag for tag in values(resumed) if tag.startswith("training_images")]


def test_histograms_are_of_the_weights(runs):
    params, (first, resumed) = runs
    last = values_of(checkpoints.latest(params["model_dir"]))
    tags = {tag[8:] for tag in values(first) if tag.startswith("weights/")}
    assert tags == {n for n in last if n.endswith(("kernel", "bias", "gamma", "beta"))}
    kernel = next(tag for tag in tags if tag.endswith("kernel") and "head" in tag)
    assert set(values(first)[f"weights/{kernel}"]) == {1, 3, 5}
    assert set(values(resumed)[f"weights/{kernel}"]) == {6, 8}
    histogram = values(resumed)[f"weights/{kernel}"][8].histo
    assert histogram.num == last[kernel].size
    assert histogram.min == pytest.approx(last[kernel].min())
    assert histogram.sum == pytest.approx(last[kernel].sum(), rel=1e-3, abs=1e-4)


def test_nothing_of_it_changes_the_training(runs, digits_dir, tmp_path):
    plain = params_of(digits_dir, tmp_path, add_summaries=False)
    events = train(plain, 5, 8)
    assert not any(values(run) for run in events)
    assert "graph_def" not in contents(events[0])
    expected = values_of(checkpoints.latest(runs[0]["model_dir"]))
    for name, value in values_of(checkpoints.latest(str(tmp_path))).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)


def test_black_images_are_not_shown(tmp_path):
    params = params_of("null", tmp_path, add_summaries=True)
    assert inputs.Split(params, is_training=True).first_images(4) is None
    (events,) = train(params, 1)
    assert not [tag for tag in values(events) if tag.startswith("training_images")]


def test_a_tpu_writes_the_same_from_its_host(digits_dir, tmp_path, monkeypatch):
    """The hook on the graph that TPUEstimator would run on a TPU, up to the session."""
    params = params_of(
        digits_dir,
        tmp_path,
        add_summaries=True,
        add_histograms=True,
        use_tpu=True,
        precision="bfloat16",
        use_keras=False,
    )
    hook = hooks.EventsHook(params, 0, inputs.Split(params, is_training=True))

    class Begins(tpu_graphs._KeepGraph):
        def begin(self):
            hook.begin()
            super().begin()

    monkeypatch.setattr(tpu_graphs, "_KeepGraph", Begins)
    graph = tpu_graphs.estimator_graph(params, training=True)
    tf.summary.FileWriterCache.clear()
    histograms = tpu_graphs.operations(graph, "HistogramSummary")
    assert len(histograms) > 5
    assert not set(histograms) & set(tpu_graphs.replicated(graph))
    paths = glob.glob(f"{tmp_path}/events*")
    events = [event for path in paths for event in tf.train.summary_iterator(path)]
    assert contents(events)["graph_def"] == 1
    pictures = [v for tag, v in values(events).items() if tag.startswith("training_images")]
    assert {(v[0].image.height, v[0].image.width) for v in pictures} == {(32, 32)}
    assert len(pictures) == 16
