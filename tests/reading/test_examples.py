"""Tests of examples: made, parsed, and refused with a reason."""

import pytest
from record_files import BAD, CLASSES, example_of, picture

from utils.base.errors import UserError
from utils.reading import examples

import tensorflow.compat.v1 as tf


@pytest.mark.parametrize("label", [1, 1000, 2**31 - 1])
def test_an_example_parses_to_what_it_was_made_of(label):
    image_bytes, parsed = examples.parse(tf.constant(examples.example(b"\x00bytes", label)))
    assert parsed.dtype == tf.int32
    with tf.Session() as session:
        assert session.run([image_bytes, parsed]) == [b"\x00bytes", label]


@pytest.mark.parametrize(("label", "parsed"), [(2**32 + 1, 2**31 - 1), (-(2**32) + 1, 1 - 2**31)])
def test_a_label_beyond_32_bits_does_not_become_one_in_range(label, parsed):
    with tf.Session() as session:
        assert session.run(examples.parse(tf.constant(examples.example(b"x", label)))[1]) == parsed


def test_examples_are_deterministic():
    assert examples.example(b"x", 3) == examples.example(b"x", 3)


def test_label_message():
    with tf.Session() as session:
        message = session.run(examples.label_message(tf.constant(11), 10)).decode()
    assert message.startswith(examples.LABEL_ERROR)
    assert "11" in message
    assert "1..10" in message


@pytest.mark.parametrize("label", [1, CLASSES])
def test_good_examples_have_no_problem(label):
    example = examples.example(picture(), label)
    assert examples.problem_of(example, CLASSES) is None
    assert examples.undecodable(example) is None


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_every_format_that_training_reads_is_decodable(image_format):
    assert examples.undecodable(examples.example(picture(image_format), 1)) is None


@pytest.mark.parametrize("kind", BAD)
def test_bad_examples_have_a_problem(kind):
    make, word = BAD[kind]
    reason = examples.problem_of(make(), CLASSES) or examples.undecodable(make())
    assert word in reason


# Other formats.


@pytest.mark.parametrize("first_label", [0, 1, 7])
def test_labels_count_from_1_whatever_the_format(first_label):
    form = examples.RecordFormat("image", "class", first_label)
    made = example_of(**{"image": [picture()], "class": [first_label + 2]})
    image_bytes, label = examples.parse(tf.constant(made), form)
    with tf.Session() as session:
        assert session.run([image_bytes, label]) == [picture(), 3]
    assert examples.problem_of(made, 3, form) is None
    assert f"label {first_label + 2} " in examples.problem_of(made, 2, form)


def test_what_reads_other_records_is_named():
    made = example_of(**{"image": [picture()], "class": [2], "id": [b"0f"], "width": [16]})
    reason = examples.problem_of(made, CLASSES)
    assert "class, id, image, width" in reason
    assert "--record_keys=image=image,label=class" in reason
    assert "--first_label=0" in reason
    assert "--first_label=0" in examples.problem_of(examples.example(picture(), 0), CLASSES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("image/encoded", "image/class/label")),
        ("image=jpg, label=y", ("jpg", "y")),
        ("label=class", ("image/encoded", "class")),
    ],
)
def test_keys_as_given(given, expected):
    form = examples.record_format({"record_keys": given, "first_label": 0})
    assert form == (*expected, 0)


@pytest.mark.parametrize("given", ["image", "picture=x", "image=", "image=a,b"])
def test_keys_that_name_nothing(given):
    with pytest.raises(UserError, match="--record_keys="):
        examples.record_format({"record_keys": given, "first_label": 1})
