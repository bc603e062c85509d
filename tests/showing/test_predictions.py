"""What a model gives for the records of a split, and which pictures come first."""

import pathlib

import made_predictions
import numpy as np
import pytest
from record_files import BAD, good, write

import mnasnet_main
from utils.base.errors import UserError
from utils.config import settings
from utils.reading import examples, scan
from utils.showing import models, predictions


def shade_of(picture):
    """Probabilities that follow from a picture's bytes alone."""
    return np.random.RandomState(sum(picture)).dirichlet(np.ones(10))


def classify(pictures):
    return np.stack([shade_of(picture) for picture in pictures])


@pytest.fixture
def paths(tmp_path):
    return [write(tmp_path / f"validation-{n}", good(count)) for n, count in enumerate((40, 5))]


def test_each_record_counts_once_and_in_order(paths):
    found = predictions.collect(classify, predictions.Source(paths, 10), 45)
    assert found.files.tolist() == [0] * 40 + [1] * 5
    assert found.records.tolist() == [*range(40), *range(5)]
    assert found.labels.tolist() == [n % 10 for n in range(40)] + list(range(5))
    samples = list(predictions.Source(paths, 10))
    for number, sample in enumerate(samples):
        expected = shade_of(sample.image_bytes)
        assert found.predicted[number] == expected.argmax()
        assert found.label_probabilities[number] == pytest.approx(expected[sample.label])
        np.testing.assert_allclose(found.top_probabilities[number], np.sort(expected)[:4:-1], 1e-5)


def test_a_part_and_chosen_records(paths):
    assert len(predictions.collect(classify, predictions.Source(paths, 10, count=3), 3)) == 3
    picked = list(predictions.Source(paths, 10).pick([(1, 4), (0, 39), (1, 0)]))
    assert [(one.file, one.record) for one in picked] == [(0, 39), (1, 0), (1, 4)]
    whole = {(one.file, one.record): one for one in predictions.Source(paths, 10)}
    assert all(one == whole[one.file, one.record] for one in picked)


def test_the_name_of_a_picture(tmp_path):
    path = made_predictions.write_records(tmp_path, [0, 1])
    assert [one.picture for one in predictions.Source([path], 2)] == [
        "picture 0.jpg",
        "picture 1.jpg",
    ]
    wrong = write(tmp_path / "other", [examples.example(b"p", 1, {"image/filename": 7})])
    assert [one.picture for one in predictions.Source([wrong], 2)] == [""]


def test_few_classes_have_few_probabilities(tmp_path):
    path = made_predictions.write_records(tmp_path, [0, 1])
    found = predictions.collect(
        lambda pictures: np.full((len(pictures), 2), 0.5), predictions.Source([path], 2), 2
    )
    assert found.top.shape == (2, 2)
    assert found.predicted.tolist() == [0, 0]  # the first of two that are as probable


@pytest.mark.parametrize("kind", ["label 11", "no label", "garbage"])
def test_a_bad_record_is_named(tmp_path, kind):
    make, words = BAD[kind]
    path = write(tmp_path / "validation-0", [*good(2), make()])
    with pytest.raises(UserError, match=f"validation-0, record 2: .*{words}"):
        predictions.collect(classify, predictions.Source([path], 10), 0)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, trained, digits_dir):
    model = models.load(trained, digits_dir, mnasnet_main.mnasnet_model_fn)
    path = write(tmp_path / "validation-0", [*good(2), BAD["no picture"][0](), *good(2)])
    with pytest.raises(UserError, match="validation-0, record 2: the picture cannot be decoded"):
        predictions.collect(model.classify, predictions.Source([path], 10), 0)


def test_no_record_at_all(tmp_path):
    path = write(tmp_path / "validation-0", [])
    with pytest.raises(UserError, match="hold no record"):
        predictions.collect(classify, predictions.Source([path], 10), 0)


def test_bad_images_are_left_out_and_numbers_stay(tmp_path):
    """A damaged record in the middle of a file, an undecodable picture, and one at the end."""
    records = good(7)
    records[1] = records[6] = examples.example(b"no picture", 1)
    path = write(tmp_path / "validation-0", records)
    content = bytearray(pathlib.Path(path).read_bytes())
    frame = len(content) // 7
    content[content.index(records[3], 3 * frame - 200) + 50] ^= 255
    pathlib.Path(path).write_bytes(content)
    params = {
        **settings.default_params(),
        "data_dir": str(tmp_path),
        "skip_bad_images": True,
        "model_dir": str(tmp_path / "model"),
        "num_label_classes": 10,
    }
    kept = scan.of_split(params, "validation-")
    source = predictions.Source([path], 10, good=kept)
    assert [(one.record, one.label) for one in source] == [(0, 0), (2, 2), (4, 4), (5, 5)]
    assert [one.record for one in source.pick([(0, 4)])] == [4]


def test_the_order_of_suspicion():
    found = made_predictions.of(
        labels=[0, 0, 1, 2],
        top=[[1, 0], [0, 2], [2, 0], [0, 2]],
        probabilities=[[0.6, 0.3], [0.9, 0.05], [0.8, 0.1], [0.51, 0.49]],
        label_probabilities=[0.3, 0.9, 0.02, 0.49],
        num_classes=3,
    )
    np.testing.assert_allclose(found.suspicion(), [0.3, -0.85, 0.78, 0.02], atol=1e-6)
    assert found.mistakes().tolist() == [2, 0, 3]
    assert found.unsure().tolist() == [3, 0, 2, 1]
    assert found.is_right.tolist() == [False, True, False, False]


def test_one_class_has_no_second_one():
    found = made_predictions.of([0, 0], [[0], [0]], [[1], [1]], [1, 1], 1)
    assert found.mistakes().tolist() == []
    assert found.unsure().tolist() == [0, 1]
