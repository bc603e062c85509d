"""Tests of --skip_bad_images: what is left out, and when the list of it holds."""

import json
import os

import picture_files
import pytest
from record_files import good, picture, write

from utils.base.errors import UserError
from utils.config import settings
from utils.reading import examples, scan


@pytest.fixture
def params(tmp_path):
    serialized = good(6)
    serialized[2] = examples.example(b"no picture", 1)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00001", serialized)
    return {
        **settings.default_params(),
        "data_dir": str(tmp_path / "data"),
        "model_dir": str(tmp_path / "model"),
        "skip_bad_images": True,
    }


def list_of(params):
    with open(os.path.join(params["model_dir"], scan.FILE_NAME)) as f:
        return json.load(f)


def test_without_the_flag_nothing_is_looked_at(params):
    assert scan.of_split({**params, "skip_bad_images": False}, "train-") is None
    assert scan.of_split({**params, "data_dir": "null"}, "train-") is None
    assert not os.path.exists(params["model_dir"])


def test_the_list_is_kept(params):
    first = scan.of_split(params, "train-")
    assert [problem.record for problem in first.problems] == [2]
    assert [(s.count) for s in first.segments] == [2, 3]
    assert first.num_records == 6
    os.utime(os.path.join(params["model_dir"], scan.FILE_NAME), (1, 1))
    assert scan.of_split(params, "train-") == first
    assert os.path.getmtime(os.path.join(params["model_dir"], scan.FILE_NAME)) == 1


def test_changed_files_are_looked_at_again(params):
    scan.of_split(params, "train-")
    path = os.path.join(params["data_dir"], "train-00000-of-00001")
    with open(path, "r+b") as f:
        f.write(b"")
    write(path, good(7))
    again = scan.of_split(params, "train-")
    assert again.problems == ()
    assert [segment.count for segment in again.segments] == [7]
    assert list_of(params)["train-"]["problems"] == []


def test_each_split_has_its_list(params):
    write(os.path.join(params["data_dir"], "validation-0"), [examples.example(b"", 1), *good(1)])
    scan.of_split(params, "train-")
    scan.of_split(params, "validation-")
    listed = list_of(params)
    assert [p["record"] for p in listed["train-"]["problems"]] == [2]
    assert [p["record"] for p in listed["validation-"]["problems"]] == [0]


@pytest.mark.parametrize("kind", ["jpeg", "gif"])
def test_a_picture_of_gigantic_size_is_left_out(params, kind):
    path = os.path.join(params["data_dir"], "train-00000-of-00001")
    write(path, [*good(1), examples.example(picture_files.GIGANTIC[kind], 1), *good(1)])
    (problem,) = scan.of_split(params, "train-").problems
    assert str(problem).startswith(f"{path}, record 1: the picture has 30000 x 30000 pixels")


def test_no_good_record_is_an_error(params):
    path = os.path.join(params["data_dir"], "train-00000-of-00001")
    write(path, [examples.example(b"no picture", 1)])
    with pytest.raises(UserError, match="no record is good"):
        scan.of_split(params, "train-")


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_is_cut_short_is_an_error(params, count):
    """Whether one record is lost or hundreds, nobody can tell."""
    path = os.path.join(params["data_dir"], "train-00001-of-00002")
    write(path, good(count + 1))
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) - 5)
    with pytest.raises(UserError) as error:
        scan.of_split(params, "train-")
    assert f"{path}, record {count}: the file is cut short" in str(error.value)
    assert "--skip_bad_images leaves out bad records" in str(error.value)
    assert not os.path.exists(os.path.join(params["model_dir"], scan.FILE_NAME))


def test_no_record_at_all_is_an_error(params):
    write(os.path.join(params["data_dir"], "train-00000-of-00001"), [])
    with pytest.raises(UserError, match=r"its train-\* hold no record"):
        scan.of_split(params, "train-")


def test_a_wrong_label_is_an_error(params):
    path = os.path.join(params["data_dir"], "train-00000-of-00001")
    write(path, [examples.example(picture(), 1001)])
    with pytest.raises(UserError, match="record 0: label 1001"):
        scan.of_split(params, "train-")


SPLIT = {"files": [["a", 1, 2]], "segments": [["a", 0, 1, 0]], "problems": []}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"train-": {}}',
        '{"train-": {"files": 3}}',
        json.dumps({"train-": {**SPLIT, "files": [["a", 1]]}}),
        json.dumps({"train-": {**SPLIT, "segments": [["a", 0, "1", 0]]}}),
        json.dumps({"train-": {**SPLIT, "problems": [{"path": "a", "record": "1"}]}}),
    ],
)
def test_a_broken_list_is_named(params, content):
    os.makedirs(params["model_dir"])
    path = os.path.join(params["model_dir"], scan.FILE_NAME)
    with open(path, "w") as f:
        f.write(content)
    with pytest.raises(UserError, match=f"{scan.FILE_NAME} is not a list"):
        scan.of_split(params, "train-")


def test_a_model_dir_that_cannot_be_is_known_before_the_scan(params, tmp_path, caplog):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(UserError, match=r"--model_dir=.*cannot be made"):
        scan.of_split(params, "train-")
    assert "bad" not in caplog.text
