"""Every kind of damage is found by every check, which names file and record."""

import itertools
import os

import damaged_records
import pytest

import imagenet_input
from utils import data as data_command
from utils.base.errors import UserError
from utils.config import settings
from utils.reading import records, scan

import tensorflow.compat.v1 as tf

DAMAGES = list(damaged_records.all_damages())


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The path of each damaged file, in a folder of its own, by name."""
    folder = tmp_path_factory.mktemp("damaged")
    found = {}
    for number, damage in enumerate(DAMAGES):
        path = folder / f"{number:03}" / f"train-{number:05}"
        path.parent.mkdir()
        path.write_bytes(damage.content)
        found[damage.name] = str(path)
    return found


def is_named(damage, path, text):
    return text.startswith(f"{path}, record {damage.record}: ") and damage.words in text


def test_there_are_many_kinds_and_none_twice(paths):
    assert len(paths) == len(DAMAGES) > 40


def test_an_undamaged_file_passes(tmp_path):
    path = tmp_path / "train-00000"
    path.write_bytes(damaged_records.content_of(damaged_records.good()))
    records.check_first_records([str(path)], damaged_records.CLASSES)
    assert scan.first_problem([str(path)], damaged_records.CLASSES) is None


def test_the_check_at_the_start_names_it(paths):
    missed = []
    for damage in DAMAGES:
        path = paths[damage.name]
        try:
            records.check_first_records([path], damaged_records.CLASSES)
            missed.append((damage.name, None))
        except UserError as e:
            if not is_named(damage, path, str(e)):
                missed.append((damage.name, str(e)))
    assert missed == []


@pytest.fixture(scope="module")
def scans(paths):
    """What a scan finds in the files, in their order."""
    return scan.scan(list(paths.values()), damaged_records.CLASSES)


def test_a_scan_names_it(scans):
    said = [str(next(iter(one.problems), None)) for one in scans]
    missed = [
        (damage.name, text)
        for damage, one, text in zip(DAMAGES, scans, said, strict=True)
        if not is_named(damage, one.path, text) or len(one.mislabelled) != damage.is_label
    ]
    assert missed == []


def test_inspecting_names_it(paths, tmp_path, capsys):
    for damage in DAMAGES:
        os.link(paths[damage.name], tmp_path / os.path.basename(paths[damage.name]))
    classes = f"--num_label_classes={damaged_records.CLASSES}"
    json = tmp_path / "found.json"
    assert (
        data_command.main(["x", "inspect", f"--data_dir={tmp_path}", classes, f"--json={json}"])
        == 1
    )
    text = json.read_text()
    missed = [d.name for d in DAMAGES if os.path.basename(paths[d.name]) not in text]
    assert missed == []


def test_what_can_be_skipped_is_left_out(paths, scans, tmp_path):
    """All but wrong labels and files that break off, which end the run."""
    (tmp_path / "data").mkdir()
    left_out = set()
    for damage, found in zip(DAMAGES, scans, strict=True):
        if not damage.is_label and not found.broken_off:
            path = tmp_path / "data" / os.path.basename(found.path)
            os.link(found.path, path)
            left_out.add((str(path), damage.record))
    params = {
        **settings.default_params(),
        "skip_bad_images": True,
        "data_dir": str(tmp_path / "data"),
        "model_dir": str(tmp_path / "model"),
        "num_label_classes": damaged_records.CLASSES,
    }
    split = scan.of_split(params, "train-")
    assert left_out <= {(problem.path, problem.record) for problem in split.problems}
    assert len(left_out) > 20


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
def test_what_the_checks_refuse_the_input_refuses_too(is_training):
    """Else the checks would be stricter than what they check for."""
    source = imagenet_input.ImageNetInput(
        is_training, False, False, None, 32, num_classes=damaged_records.CLASSES
    )
    serialized = tf.placeholder(tf.string, [])
    parsed = source.dataset_parser(serialized, tf.constant([1, 2], tf.int64))
    kinds = (damaged_records.examples, damaged_records.labels, damaged_records.images)
    with tf.Session() as session:
        session.run(parsed, {serialized: damaged_records.good()[0]})
        for name, record, _ in itertools.chain.from_iterable(kind() for kind in kinds):
            try:
                session.run(parsed, {serialized: record})
                pytest.fail(f"{name} is fed")
            except scan.data_errors():
                pass
