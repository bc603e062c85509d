"""The folder of the web page: what is written, what is replaced, what is refused."""

import json
import os
import pathlib
import shutil
import uuid

import browser
import pytest
from exports import listing

from utils import demo_page
from utils.base import files
from utils.base.errors import UserError
from utils.demo import description, page


def content_of(folder):
    return json.loads(files.read_text(os.path.join(folder, page.FILE_NAME)))


@pytest.fixture
def no_npm(monkeypatch, tmp_path):
    """A machine without npm."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def own_page(page_dir, tmp_path):
    """A copy of a page, to be written again."""
    shutil.copytree(page_dir, tmp_path / "page")
    return str(tmp_path / "page")


@pytest.mark.parametrize(("name", "kind", "is_integer"), [
    # The tiny network has no weights large enough for 8 bits alone.
    ("tiny", "float32", False), ("tiny_postquant", "float32", False),
    ("tiny_float16", "float16", False), ("tiny_int8", "int8", True),
])  # fmt: skip
def test_every_kind_of_file_is_described(exported, name, kind, is_integer):
    found = description.describe(f"{exported}/{name}.tflite")
    assert (found["kind"], found["image_size"], found["num_classes"]) == (kind, 32, 10)
    assert (found["crop_share"], found["resize_method"]) == (0.5, "bilinear")
    assert found["bytes"] == os.path.getsize(f"{exported}/{name}.tflite")
    assert found["labels"] == [str(digit) for digit in range(10)]
    assert found["normalization"] is None
    assert (found["input"] == {"scale": 1, "zero": 0}) == is_integer
    assert (found["output"] == {"scale": 1 / 256, "zero": 0}) == is_integer
    assert found["is_probabilities"]


def test_a_published_file_is_described(published):
    found = description.describe(published)
    assert not found["is_probabilities"]
    assert set(found["normalization"]) == {"mean", "stddev"}
    assert found["normalization"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert found["labels"] is None


def test_the_page_is_whole(page_dir, exported, digits_dir):
    names = set(listing(page_dir))
    found = content_of(page_dir)
    assert {"index.html", "style.css", "app.js", "litert/index.js", "litert/NOTICE.txt"} < names
    assert (
        pathlib.Path(page_dir, found["model"]).read_bytes()
        == pathlib.Path(exported, "tiny.tflite").read_bytes()
    )
    [picture] = found["pictures"]
    assert picture["name"] == "digit-7.jpg" and picture["file"] in names
    assert not [name for name in names if ".tmp-" in name]


def test_a_page_written_again_needs_no_npm_and_keeps_no_old_file(
    own_page, exported, no_npm, digits_dir, tmp_path
):
    before = content_of(own_page)
    page.write(exported + "/tiny.tflite", own_page)
    assert content_of(own_page) == {**before, "pictures": []}
    name = os.fsdecode(b"not-utf8-\xe9.jpg")
    shutil.copy(f"{digits_dir}/pictures/digit-7.jpg", f"{tmp_path}/{name}")
    page.write(exported + "/tiny_int8.tflite", own_page, [f"{tmp_path}/{name}"])
    assert content_of(own_page)["name"] == "tiny_int8"
    assert [picture["name"] for picture in content_of(own_page)["pictures"]] == [name]
    page.write(exported + "/tiny_int8.tflite", own_page)
    left = [name for name in listing(own_page) if name.startswith(("model-", "pictures/"))]
    assert left == [content_of(own_page)["model"]]


def test_a_page_in_a_bucket(exported):
    browser.require_npm()
    folder = f"ram://bucket/{uuid.uuid4()}/page"
    page.write(exported + "/tiny.tflite", folder)
    assert content_of(folder)["model"] in listing(folder)


def test_a_page_whose_first_run_was_killed_is_finished(own_page, exported, no_npm):
    os.remove(f"{own_page}/page.json")
    page.write(exported + "/tiny.tflite", own_page)
    assert content_of(own_page)["model"] in listing(own_page)


def test_a_page_that_cannot_be_finished_stays_the_earlier_one(own_page, exported, monkeypatch):
    before = content_of(own_page)

    def fail(path, content):
        raise UserError(f"{path} cannot be written.")

    monkeypatch.setattr(files, "write_json", fail)
    with pytest.raises(UserError):
        page.write(exported + "/tiny_int8.tflite", own_page)
    assert content_of(own_page) == before
    assert {before["model"], before["pictures"][0]["file"]} < set(listing(own_page))


# What is refused.


def mistake(*arguments):
    with pytest.raises(UserError) as error:
        demo_page.main(["mnasnet-demo-page", *arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_of_another_page_is_left_alone(exported, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    model = f"--model={exported}/tiny.tflite"
    assert "has a file index.html that this program did not write" in mistake(
        model, f"--output_dir={tmp_path}"
    )
    (tmp_path / "page.json").write_text('{"model": "../tiny.tflite", "pictures": []}')
    assert "is not a name in its folder" in mistake(model, f"--output_dir={tmp_path}")
    assert sorted(os.listdir(tmp_path)) == ["index.html", "page.json"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--model=EXPORT", "--output_dir=OUT"], "is not a .tflite file: browsers run no other"),
    (["--model=EXPORT/none.tflite", "--output_dir=OUT"], "does not exist: export a model first"),
    (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--port=8000"], "--port without --serve"),
    (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--serve", "--port=70000"], "0..65535"),
    (["--model=EXPORT/tiny.tflite", "--output_dir=gs://b/page", "--serve"], "cannot serve gs://b"),
    (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "/none.jpg"], "/none.jpg does not exist"),
    (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--labels=TWO"], "2 label names do not"),
])  # fmt: skip
def test_wrong_arguments(exported, tmp_path, arguments, words):
    (tmp_path / "two.txt").write_text("a\nb\n")
    places = {"EXPORT": exported, "OUT": f"{tmp_path}/out", "TWO": f"{tmp_path}/two.txt"}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    assert words in mistake(*arguments)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_to_do_with_the_page(own_page, exported, capsys):
    demo_page.main(
        ["mnasnet-demo-page", f"--model={exported}/tiny.tflite", f"--output_dir={own_page}"]
    )
    said = capsys.readouterr().out
    assert said == f"Wrote {own_page}: a web server of yours or --serve shows the page.\n"
