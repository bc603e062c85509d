"""Code written for the published program makes its input as it always did, alone or on hosts."""

import numpy as np
import pytest
import tpu_graphs
from shades import NUM_IMAGES, SIZE, batches, labels_of, write_shards

import imagenet_input
import mnasnet_main
from imagenet_input import PADDING, ImageNetBigtableInput, ImageNetInput, ImageNetTFExampleInput
from utils.reading import examples

import tensorflow.compat.v1 as tf

NUM_HOSTS = 4


# Arguments and attributes.


def test_arguments_by_position():
    source = ImageNetTFExampleInput(True, True, 4, 48, True)
    assert source.is_training is True
    assert source.use_bfloat16 is True
    assert source.num_cores == 4
    assert source.image_size == 48
    assert source.transpose_input is True
    source = ImageNetTFExampleInput(False, False)
    assert (source.num_cores, source.image_size, source.transpose_input) == (8, 224, False)


def test_arguments_of_files_and_of_tables_by_position():
    source = ImageNetInput(True, False, True, "DATA", 48, 2, True)
    assert (source.transpose_input, source.data_dir, source.image_size) == (True, "DATA", 48)
    assert (source.num_parallel_calls, source.cache, source.num_cores) == (2, True, 8)
    selection = imagenet_input.BigtableSelection("p", "i", "t", "train_", "family", "qualifier")
    source = ImageNetBigtableInput(True, False, True, selection)
    assert (source.transpose_input, source.selection) == (True, selection)


@pytest.mark.parametrize("transpose", [False, True])
def test_set_shapes(transpose):
    source = ImageNetTFExampleInput(True, False, transpose_input=transpose)
    images, labels = source.set_shapes(
        6, tf.placeholder(tf.float32, [None] * 4), tf.placeholder(tf.int32, [None])
    )
    assert images.shape.as_list() == ([None] * 3 + [6] if transpose else [6] + [None] * 3)
    assert labels.shape.as_list() == [6]


def test_the_usual_function_makes_images():
    source = ImageNetTFExampleInput(True, False)
    assert source.image_preprocessing_fn is imagenet_input.preprocessing.preprocess_image


# Subclasses.


class OwnParser(ImageNetInput):
    """Its images are of one value, and its labels those of the records, which start at 1."""

    def dataset_parser(self, value):
        _, label = examples.parse(value)
        return tf.ones([SIZE, SIZE, 3]), label


class OwnPreprocessing(ImageNetInput):
    """Its pixels are made by a function with the published arguments alone: negatives."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_preprocessing_fn = self.negative

    def negative(self, image_bytes, is_training, image_size, use_bfloat16):
        image = tf.cast(tf.io.decode_jpeg(image_bytes)[:image_size, :image_size], tf.float32)
        image.set_shape([image_size, image_size, 3])
        return tf.cast(255 - image, tf.bfloat16 if use_bfloat16 else tf.float32)


class Extended(ImageNetInput):
    """It adds to what it inherits."""

    def dataset_parser(self, value):
        image, label = super().dataset_parser(value)
        return image, label + 100

    def set_shapes(self, batch_size, images, labels):
        images, labels = super().set_shapes(batch_size, images, labels)
        return images, labels + 100


def own_records(is_training):
    """Records of the labels 1 to 6; a training's repeat, as those of the published program do."""
    dataset = tf.data.Dataset.from_tensor_slices(
        [examples.example(grey_picture(), label) for label in range(1, 7)]
    )
    return dataset.repeat().shuffle(6) if is_training else dataset


def grey_picture():
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(tf.io.encode_jpeg(tf.fill([40, 40, 3], tf.constant(90, tf.uint8))))


class OwnSource(ImageNetTFExampleInput):
    def make_source_dataset(self, index, num_hosts):
        return own_records(self.is_training).shard(num_hosts, index)


class OwnSourceOfFiles(ImageNetInput):
    def make_source_dataset(self, index, num_hosts):
        return own_records(self.is_training).shard(num_hosts, index)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_subclass_may_parse_records_itself(numbered_dir, is_training):
    source = OwnParser(is_training, False, False, numbered_dir, SIZE)
    taken = batches(source, NUM_IMAGES, limit=1)
    assert (taken[0][0] == 1).all()
    np.testing.assert_array_equal(np.sort(labels_of(taken)), np.arange(1, NUM_IMAGES + 1))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_subclass_may_add_to_the_parser_and_to_the_shapes(numbered_dir, is_training):
    source = Extended(is_training, False, False, numbered_dir, SIZE)
    ((images, labels),) = batches(source, NUM_IMAGES, limit=1)
    assert images.shape == (NUM_IMAGES, SIZE, SIZE, 3)
    np.testing.assert_array_equal(np.sort(labels), np.arange(NUM_IMAGES) + 200)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("use_bfloat16", [True, False])
def test_another_function_may_make_the_images(numbered_dir, is_training, use_bfloat16):
    source = OwnPreprocessing(is_training, use_bfloat16, False, numbered_dir, SIZE)
    ((images, labels),) = batches(source, 5, limit=1)
    assert images.dtype == (tf.bfloat16 if use_bfloat16 else tf.float32).as_numpy_dtype
    shades = images.astype(np.float32).mean((1, 2, 3))
    np.testing.assert_allclose(255 - shades, 10 * (labels + 1), atol=2)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("data_dir", ["", "FILES"])
def test_a_subclass_may_have_its_own_source(numbered_dir, is_training, transpose, data_dir):
    folder = numbered_dir if data_dir else ""
    source = OwnSourceOfFiles(is_training, False, transpose, folder, SIZE)
    taken = batches(source, 3, limit=40)
    assert len(taken) == (40 if is_training else 2)
    assert {images.shape for images, _ in taken} == {
        (SIZE, SIZE, 3, 3) if transpose else (3, SIZE, SIZE, 3)
    }
    assert set(labels_of(taken)) == set(range(6))
    plain = OwnSource(is_training, False, image_size=SIZE, transpose_input=transpose)
    assert set(labels_of(batches(plain, 3, limit=40))) == set(range(6))


# Hosts.


def tpu_contexts():
    """The params of TPUEstimator's input function on each host of a TPU: 4 hosts of 8 cores."""
    found = []

    def input_fn(params):
        found.append(params["context"])
        images = tf.data.Dataset.from_tensors((tf.zeros([params["batch_size"], 2]), tf.zeros([])))
        return images.map(lambda images, _: images).repeat()

    def model_fn(features, labels, mode, params):
        loss = tf.reduce_sum(features * tf.get_variable("x", []))
        optimizer = tf.tpu.CrossShardOptimizer(tf.train.GradientDescentOptimizer(1.0))
        step = optimizer.minimize(loss, tf.train.get_global_step())
        return tf.estimator.tpu.TPUEstimatorSpec(mode, loss=loss, train_op=step)

    per_host = tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2
    estimator = tf.estimator.tpu.TPUEstimator(
        model_fn,
        train_batch_size=64,
        use_tpu=True,
        config=tf.estimator.tpu.RunConfig(
            master="grpc://10.0.0.1:8470",
            tpu_config=tf.estimator.tpu.TPUConfig(per_host_input_for_training=per_host),
        ),
    )
    tpu_graphs.built_graph(estimator, input_fn, True, NUM_HOSTS, cores_per_host=8)
    assert [context.current_input_fn_deployment()[1] for context in found] == [0, 1, 2, 3]
    return found


@pytest.fixture(scope="module")
def contexts():
    return tpu_contexts()


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """23 images of 23 classes in 8 files of each split."""
    folder = tmp_path_factory.mktemp("many")
    for prefix in ("train-", "validation-"):
        write_shards(folder, prefix, np.arange(1, NUM_IMAGES + 1), 8)
    return str(folder)


@pytest.mark.parametrize("more", [{}, {"use_tpu": False}, {"use_tpu": True}])
def test_each_host_evaluates_its_share_alone(many_files, contexts, more):
    source = ImageNetInput(False, False, False, many_files, SIZE)
    shares = [
        labels_of(batches(source, 3, limit=3, context=context, **more)).tolist()
        for context in contexts
    ]
    counted = [[label for label in share if label != PADDING] for share in shares]
    assert sorted(sum(counted, [])) == list(range(NUM_IMAGES))
    assert {len(share) for share in counted} <= {5, 6}


@pytest.mark.parametrize("more", [{}, {"use_tpu": False}, {"use_tpu": True}])
def test_each_host_trains_on_its_share_alone(many_files, contexts, more):
    source = ImageNetInput(True, False, False, many_files, SIZE)
    # Two epochs of the least share: an image of another host's would show.
    shares = [
        set(labels_of(batches(source, 2, limit=8, context=context, **more)).tolist())
        for context in contexts
    ]
    assert sorted(sum(map(list, shares), [])) == list(range(NUM_IMAGES))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_source_of_ones_own_is_told_its_host(contexts, is_training):
    class Told(ImageNetInput):
        def make_source_dataset(self, index, num_hosts):
            told.append((index, num_hosts))
            return own_records(self.is_training).shard(num_hosts, index)

    told = []
    for context in contexts:
        batches(Told(is_training, False, False, "DATA", SIZE), 1, limit=1, context=context)
    assert told == [(host, NUM_HOSTS) for host in range(NUM_HOSTS)]


# Black images.


@pytest.mark.parametrize("data_dir", ["", None, "null", "fake", mnasnet_main.FAKE_DATA_DIR])
def test_images_are_black_without_data(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for transpose, use_bfloat16 in ((False, False), (True, False), (False, True), (True, True)):
        source = ImageNetInput(not transpose, use_bfloat16, transpose, data_dir, SIZE)
        dataset = source.input_fn({"batch_size": 3})
        shape = [SIZE, SIZE, 3, 3] if transpose else [3, SIZE, SIZE, 3]
        dtype = tf.bfloat16 if use_bfloat16 else tf.float32
        assert [s.as_list() for s in tf.data.get_output_shapes(dataset)] == [shape, [3]]
        assert tf.data.get_output_types(dataset) == (dtype, tf.int32)
        ((images, labels),) = batches(source, 3, limit=1)
        assert not images.any() and not labels.any()


def test_a_folder_called_fake_is_read(numbered_dir, tmp_path, monkeypatch):
    (tmp_path / "fake").symlink_to(numbered_dir)
    monkeypatch.chdir(tmp_path)
    source = ImageNetInput(False, False, False, "fake", SIZE)
    np.testing.assert_array_equal(labels_of(batches(source, NUM_IMAGES)), np.arange(NUM_IMAGES))
