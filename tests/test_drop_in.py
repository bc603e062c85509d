"""Code written for the published program calls pixels and networks as it always did."""

import golden_files
import numpy as np
import pytest
from small_networks import TINY, names_of_variables, tiny

import mnasnet_models
import preprocessing
from mnasnet_model import BlockArgs, GlobalParams, MnasBlock, MnasNetModel, round_filters

import tensorflow.compat.v1 as tf


def run(*tensors):
    with tf.Session() as session:
        return session.run(tensors)


@pytest.fixture
def picture():
    return golden_files.picture("chelsea.jpg")


# Preprocessing.


def test_evaluation_pixels_by_position(picture):
    expected = preprocessing.preprocess_image(picture, False, False, 64)
    exact = preprocessing.preprocess_for_eval(picture, False, 64)
    rounded = preprocessing.preprocess_for_eval(picture, True, image_size=64)
    assert rounded.dtype == tf.bfloat16
    assert preprocessing.preprocess_for_eval(picture, use_bfloat16=False).shape == (224, 224, 3)
    ours, expected, low = run(exact, expected, tf.cast(rounded, tf.float32))
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(low, expected, rtol=1 / 128)


def test_training_pixels_by_position(picture):
    for use_bfloat16, dtype in ((False, tf.float32), (True, tf.bfloat16)):
        image = preprocessing.preprocess_for_train(picture, use_bfloat16, 48)
        assert (image.dtype, image.shape) == (dtype, (48, 48, 3))
    assert preprocessing.preprocess_for_train(picture, use_bfloat16=True).shape == (224, 224, 3)
    first, second = run(image)[0], run(image)[0]
    assert not np.array_equal(first, second)


def test_a_box_that_only_the_whole_picture_covers_is_not_cropped(picture):
    whole = run(tf.image.decode_jpeg(picture))[0]
    box = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    crop = preprocessing.distorted_bounding_box_crop(
        picture, box, 1.0, (0.1, 10.0), (0.999, 1.0), 2, "crop"
    )
    assert crop.op.name.startswith("crop/")
    np.testing.assert_array_equal(run(crop)[0], whole)


def test_random_crops_cover_their_box_in_the_ranges_given():
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    array = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    crop = preprocessing.distorted_bounding_box_crop(
        run(tf.io.encode_png(array))[0],
        tf.constant([[[0.4, 0.2, 0.6, 0.3]]]),
        1.0,
        (0.9, 1.1),
        (0.3, 0.6),
        100,
        None,
    )
    assert crop.dtype == tf.uint8
    shapes = set()
    for _ in range(10):
        found = run(crop)[0]
        top, left = found[0, 0, :2]
        bottom, right = found[-1, -1, :2]
        assert top <= 80 and left <= 40 and bottom >= 119 and right >= 59
        height, width = found.shape[:2]
        assert 0.85 < width / height < 1.15 and 0.29 < height * width / 200**2 < 0.61
        shapes.add(found.shape)
    assert len(shapes) > 1


def test_a_crop_needs_no_more_than_picture_and_box(picture):
    crop = preprocessing.distorted_bounding_box_crop(
        image_bytes=picture, bbox=tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    )
    assert crop.shape.as_list() == [None, None, 3]
    assert run(crop)[0].dtype == np.uint8


# The table of networks.


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (mnasnet_models.mnasnet_a1, "mnasnet-a1"),
        (mnasnet_models.mnasnet_b1, "mnasnet-b1"),
        (mnasnet_models.mnasnet_small, "mnasnet-small"),
        (mnasnet_models.mnasnet_d1, "mnasnet-d1"),
        (mnasnet_models.mnasnet_d1_320, "mnasnet-d1-320"),
    ],
)
def test_each_network_has_a_function(function, name):
    assert function() == mnasnet_models.get_model_params(name, None)
    blocks_args, global_params = function(0.5)
    assert blocks_args == mnasnet_models.MnasNetDecoder().decode(mnasnet_models.MODELS[name].stages)
    assert global_params == function()[1]._replace(depth_multiplier=0.5)
    assert function(depth_multiplier=None) == function()


@pytest.mark.parametrize(
    ("se_ratio", "field"),
    [(None, ""), (0, ""), (0.0, ""), (1.5, ""), (0.25, "_se0.25"), (1, "_se1")],
)
def test_a_ratio_of_no_effect_is_not_encoded(se_ratio, field):
    block = BlockArgs(3, 1, 8, 16, 6, True, [2, 2], se_ratio)
    assert mnasnet_models.MnasNetDecoder().encode([block]) == ["r1_k3_s22_e6_i8_o16" + field]


# The network.


@pytest.mark.parametrize("multiplier", [None, 0, 0.0])
@pytest.mark.parametrize("filters", [17, 32])
def test_filters_are_unchanged_without_a_multiplier(multiplier, filters):
    assert round_filters(filters, GlobalParams(depth_multiplier=multiplier)) == filters


def test_a_block_says_what_it_is():
    args = BlockArgs(3, 1, 8, 8, 3, True, [1, 1], 0.25)
    block = MnasBlock(args, GlobalParams())
    assert block.block_args() == args
    assert block.has_se is True
    for se_ratio in (None, 0, 1.5):
        assert MnasBlock(args._replace(se_ratio=se_ratio), GlobalParams()).has_se is False


@pytest.mark.parametrize(("use_keras", "dtype"), [(True, "float32"), (False, "bfloat16")])
@pytest.mark.parametrize("frozen", [None, "block_0"])
def test_a_network_has_its_variables(use_keras, dtype, frozen):
    model = tiny(use_keras=use_keras, frozen=frozen)
    with pytest.raises(ValueError, match="before its first call"):
        model.count_params()
    with tf.tpu.bfloat16_scope() if dtype == "bfloat16" else tf.variable_scope("model"):
        tf.get_variable("another", [3])
        model(tf.zeros([2, 32, 32, 3], dtype), training=True)
    names = [name for name in names_of_variables() if not name.endswith("another")]
    assert [v.op.name for v in model.variables] == names
    trainable = [v.op.name for v in tf.trainable_variables()]
    assert [v.op.name for v in model.trainable_variables] == trainable[1:]
    assert model.count_params() == sum(v.shape.num_elements() for v in model.variables)
    model(tf.zeros([2, 32, 32, 3], dtype), training=False)
    assert len(model.variables) == len(names)


def test_the_published_number_of_parameters():
    model = MnasNetModel(*mnasnet_models.mnasnet_small())
    model(tf.zeros([1, 32, 32, 3]), training=False)
    assert sum(v.shape.num_elements() for v in model.trainable_variables) == 2_030_264
    assert model.count_params() > 2_030_264


def test_a_subclass_may_override_the_call():
    class Doubled(MnasNetModel):
        def call(self, inputs, training=True, features_only=None):
            return 2 * super().call(inputs, training=training, features_only=features_only)

    stages = mnasnet_models.MnasNetDecoder().decode(TINY)
    model = Doubled(blocks_args=stages, global_params=GlobalParams(stem_size=8))
    output = model(tf.zeros([1, 32, 32, 3]), training=False)
    assert output.op.type == "Mul"


def test_a_network_without_stages_is_an_error():
    with pytest.raises(ValueError, match="blocks_args"):
        MnasNetModel()
