"""The web page: what is written and replaced, its runtime from npm, its server."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import uuid

import browser
import pytest
from exports import listing

from utils import demo_page
from utils.base import files
from utils.base.errors import UserError
from utils.showing import demo


def content_of(folder):
    return json.loads(files.read_text(os.path.join(folder, demo.FILE_NAME)))


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


@pytest.mark.parametrize(
    ("name", "kind", "is_integer"),
    [
        # The tiny network has no weights large enough for 8 bits alone.
        ("tiny", "float32", False),
        ("tiny_postquant", "float32", False),
        ("tiny_float16", "float16", False),
        ("tiny_int8", "int8", True),
    ],
)
def test_every_kind_of_file_is_described(exported, name, kind, is_integer):
    found = demo.describe(f"{exported}/{name}.tflite")
    assert (found["kind"], found["image_size"], found["num_classes"]) == (kind, 32, 10)
    assert (found["crop_share"], found["resize_method"]) == (0.5, "bilinear")
    assert found["bytes"] == os.path.getsize(f"{exported}/{name}.tflite")
    assert found["labels"] == [str(digit) for digit in range(10)]
    assert found["normalization"] is None
    assert (found["input"] == {"scale": 1, "zero": 0}) == is_integer
    assert (found["output"] == {"scale": 1 / 256, "zero": 0}) == is_integer
    assert found["is_probabilities"]


def test_a_published_file_is_described(published):
    found = demo.describe(published)
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


def test_a_page_written_again_needs_no_npm_and_keeps_no_old_file(own_page, exported, no_npm):
    before = content_of(own_page)
    demo.write(exported + "/tiny.tflite", own_page)
    assert content_of(own_page) == {**before, "pictures": []}
    demo.write(exported + "/tiny_int8.tflite", own_page)
    assert content_of(own_page)["name"] == "tiny_int8"
    left = [name for name in listing(own_page) if name.startswith(("model-", "pictures/"))]
    assert left == [content_of(own_page)["model"]]


def test_a_page_in_a_bucket(exported):
    browser.require_npm()
    folder = f"ram://bucket/{uuid.uuid4()}/page"
    demo.write(exported + "/tiny.tflite", folder)
    assert content_of(folder)["model"] in listing(folder)


def test_a_page_whose_first_run_was_killed_is_finished(own_page, exported, no_npm):
    os.remove(f"{own_page}/page.json")
    demo.write(exported + "/tiny.tflite", own_page)
    assert content_of(own_page)["model"] in listing(own_page)


def test_a_folder_of_another_page_is_left_alone(exported, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"index\.html"):
        demo.write(exported + "/tiny.tflite", str(tmp_path))
    assert os.listdir(tmp_path) == ["index.html"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model=EXPORT", "--output_dir=OUT"], "--model"),
        (["--model=EXPORT/none.tflite", "--output_dir=OUT"], "none.tflite"),
        (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--port=8000"], "--serve"),
        (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--serve", "--port=70000"], "--port"),
        (["--model=EXPORT/tiny.tflite", "--output_dir=gs://b/page", "--serve"], "gs://b/page"),
        (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "/none.jpg"], "/none.jpg"),
        (["--model=EXPORT/tiny.tflite", "--output_dir=OUT", "--labels=TWO"], "--labels"),
    ],
)
def test_wrong_arguments(exported, tmp_path, arguments, named):
    (tmp_path / "two.txt").write_text("a\nb\n")
    places = {"EXPORT": exported, "OUT": f"{tmp_path}/out", "TWO": f"{tmp_path}/two.txt"}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    with pytest.raises(UserError, match=named):
        demo_page.main(["mnasnet-demo-page", *arguments])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """Puts a shell script in the place of npm."""

    def put(script):
        (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_the_runtime_is_fetched_whole():
    browser.require_npm()
    found = demo.fetch_runtime()
    assert sorted(found) == sorted(demo.RUNTIME_FILES)
    assert found["wasm/litert_wasm_internal.wasm"].startswith(b"\0asm")
    assert b'from "./utils.js"' in found["index.js"]
    assert b"Apache-2.0" in found["NOTICE.txt"]


def test_npm_is_missing(no_npm):
    with pytest.raises(UserError, match="apt-get install npm"):
        demo.fetch_runtime()


def test_the_registry_is_away(monkeypatch, tmp_path):
    browser.require_npm()
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(UserError, match="ECONNREFUSED"):
        demo.fetch_runtime()


def test_an_archive_of_another_content_is_refused(npm):
    npm("for name in core wasm-utils; do echo other > litertjs-$name-2.5.3.tgz; done")
    with pytest.raises(UserError, match="hash"):
        demo.fetch_runtime()


def test_files_have_the_types_that_browsers_need(tmp_path):
    types = {"app.js": "text/javascript", "a.wasm": "application/wasm", "icon.svg": "image/svg+xml"}
    for name in types:
        (tmp_path / name).write_text(name)
    with browser.served(tmp_path) as address:
        for name, expected in types.items():
            with urllib.request.urlopen(address + name, timeout=10) as answer:
                assert answer.read().decode() == name
                assert answer.headers.get_content_type() == expected


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as other:
        other.bind((demo.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}"):
            demo.open_server(str(tmp_path), port)


def test_the_command_serves_until_a_signal(page_dir, exported):
    command = [
        sys.executable,
        "-m",
        "utils.demo_page",
        f"--model={exported}/tiny.tflite",
        f"--output_dir={page_dir}",
        "--serve",
        "--port=0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(120, process.kill)
        limit.start()
        try:
            line = process.stdout.readline()
            address = line.removeprefix("The page is at ").split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert b"<!doctype html>" in answer.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 128 + signal.SIGTERM
        finally:
            limit.cancel()
            process.kill()
