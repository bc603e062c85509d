"""Which pictures a report shows, and how small they are."""

import io

import made_predictions
import picture_files
import pytest
from PIL import Image
from record_files import write

from utils.reading import examples
from utils.showing import predictions


def found_of(labels, predicted):
    """Predictions of three classes; the first pictures are the surest."""
    sure = [0.9 - 0.01 * number for number in range(len(labels))]
    top = [[one, (one + 1) % 3] for one in predicted]
    of_label = [p if a == b else 0.05 for p, a, b in zip(sure, labels, predicted, strict=True)]
    return made_predictions.of(labels, top, [[p, 0.05] for p in sure], of_label, 3)


def test_each_cell_has_its_turn():
    #            0  1  2  3  4  5  6  7  8  9
    labels = [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
    predicted = [1, 1, 1, 1, 1, 2, 1, 2, 0, 2]
    chosen = predictions.choose_thumbnails(found_of(labels, predicted), [9, 6])
    assert chosen == [9, 6, 0, 1, 2, 3, 5, 8, 4, 7]


def test_no_more_than_the_limits():
    count = 5 * predictions.MOST_WRONG
    chosen = predictions.choose_thumbnails(found_of([0] * count, [1] * count), [])
    assert chosen == list(range(predictions.MOST_WRONG))
    chosen = predictions.choose_thumbnails(found_of([0] * count, [0] * count), [])
    assert len(chosen) == predictions.MOST_RIGHT


@pytest.fixture
def data(tmp_path):
    """Predictions of six pictures, of which one is no picture, and their source."""
    large = [picture_files.smooth(seed).repeat(3, 0).repeat(3, 1) for seed in range(5)]
    pictures = [picture_files.save(one, "JPEG") for one in large] + [b"no picture"]
    path = write(tmp_path / "validation-0", [examples.example(one, 1) for one in pictures])
    return found_of([0] * 6, [1] * 6), predictions.Source([path], 3), pictures


def test_pictures_are_small_and_are_those_of_their_records(data):
    found, source, pictures = data
    made = predictions.thumbnails(source, found, [4, 0, 5])
    assert set(made) == {0, 4}
    for number, encoded in made.items():
        small, whole = (Image.open(io.BytesIO(one)) for one in (encoded, pictures[number]))
        assert (small.format, max(small.size)) == ("WEBP", predictions.THUMBNAIL_SIDE)
        left, right = (one.convert("RGB").resize((4, 4)).tobytes() for one in (small, whole))
        assert max(abs(a - b) for a, b in zip(left, right, strict=True)) < 20
    assert predictions.thumbnails(source, found, []) == {}


def test_the_most_important_ones_fit(data, monkeypatch):
    found, source, _ = data
    sizes = {
        number: len(one) for number, one in predictions.thumbnails(source, found, range(5)).items()
    }
    monkeypatch.setattr(predictions, "MOST_THUMBNAIL_BYTES", sizes[4] + sizes[2])
    assert set(predictions.thumbnails(source, found, [4, 2, 0, 1, 3])) == {4, 2}


def test_tiny_pictures_keep_their_size(tmp_path):
    path = made_predictions.write_records(tmp_path, [0])
    [encoded] = predictions.thumbnails(
        predictions.Source([path], 3), found_of([0], [1]), [0]
    ).values()
    assert Image.open(io.BytesIO(encoded)).size == (40, 48)


def test_cells_of_many_pictures_come_first():
    labels, predicted = [0, 1, 1, 2, 2, 2], [1, 2, 2, 0, 0, 0]
    found = found_of(labels, predicted)
    cells = [labels[number] for number in predictions.choose_thumbnails(found, [])]
    assert cells == [2, 2, 2, 1, 1, 0]
