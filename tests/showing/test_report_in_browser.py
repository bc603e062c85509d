"""The page of a report in a headless Chromium, opened from the disk as a user does."""

import json
import os
import pathlib

import browser
import made_predictions
import pytest
from playwright.sync_api import expect

from bench import writing
from utils.showing import predictions, report_page

PHONE = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def chromium():
    with browser.started() as found:
        yield found


@pytest.fixture
def opened(chromium):
    """Opens a report's page in a tab; its scripts must not fail, and it may load nothing."""
    problems, tabs = [], []

    def open_page(folder, **options):
        context = browser.tab(chromium, **options)
        tab = context.__enter__()
        tabs.append(context)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        tab.on(
            "request",
            lambda asked: (
                problems.append(asked.url)
                if ":" in asked.url[:6] and not asked.url.startswith(("file:", "data:"))
                else None
            ),
        )
        tab.goto(pathlib.Path(folder, report_page.PAGE).absolute().as_uri())
        return tab

    yield open_page
    for context in tabs:
        context.__exit__(None, None, None)
    assert problems == []


def figures_in(folder):
    with open(os.path.join(folder, report_page.FIGURES)) as f:
        return json.load(f)


def column(tab, number):
    """Returns the texts of a column of the table of classes."""
    return tab.locator(f"#class-table tbody td:nth-child({number})").all_inner_texts()


def fits(tab):
    """Returns whether nothing makes the page wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def write(folder, num_classes, labels, predicted):
    """Writes the report of a made-up model; the first pictures are the surest."""
    names = [f"class {number}" for number in range(num_classes)]
    path = made_predictions.write_records(folder, labels)
    sure = [0.9 - 0.5 * number / len(labels) for number in range(len(labels))]
    found = made_predictions.of(
        labels,
        [[one, (one + 1) % num_classes] for one in predicted],
        [[p, 0.05] for p in sure],
        [p if a == b else 0.01 for p, a, b in zip(sure, labels, predicted, strict=True)],
        num_classes,
        [path],
    )
    report_page.check_folder(str(folder / "report"), "output_dir")
    source = predictions.Source([path], num_classes)
    report_page.write(made_predictions.subject(names), source, found, str(folder / "report"))
    return folder / "report"


def test_the_report_of_a_training(opened, trained):
    folder = os.path.join(trained, report_page.FOLDER)
    found = figures_in(folder)
    tab = opened(folder)
    headline = found["headline"]
    assert tab.locator("h1").inner_text() == "tiny on digits"
    assert tab.locator("#accuracy").inner_text() == f"{100 * headline['accuracy']:.2f} %"
    low, high = (f"{100 * limit:.2f}" for limit in headline["interval"])
    assert tab.locator("#interval").inner_text() == f"95 % interval: {low} to {high} %"
    assert "model.ckpt-20" in tab.locator("#facts").inner_text()
    assert tab.locator("#sections a").all_inner_texts() == [
        "Classes",
        "Confusion",
        "Confident mistakes",
        "Unsure",
        "Calibration",
        "Training",
    ]
    error = found["calibration"]["expected_error"]
    assert tab.locator("#calibration-error").inner_text() == f"{100 * error:.2f} %"
    assert "label smoothing 0.1, which asks for 91 %" in tab.locator("#calibration").inner_text()
    assert fits(tab)


def test_a_click_on_a_cell_shows_its_pictures(opened, trained):
    folder = os.path.join(trained, report_page.FOLDER)
    found = figures_in(folder)
    label, predicted, images = max(
        (cell for cell in found["confusion"] if cell[0] != cell[1]), key=lambda cell: cell[2]
    )
    tab = opened(folder)
    cell = tab.locator(f".cell[data-cell='{label}-{predicted}']")
    assert cell.inner_text() == str(images)
    assert cell.get_attribute("title") == (
        f"{label}: {images} of {found['classes'][label]['images']} taken for {predicted}"
    )
    expect(tab.locator("#cell")).to_be_hidden()
    cell.click()
    assert tab.locator("#cell h3").inner_text() == f"{label} taken for {predicted}"
    shown = tab.locator("#cell .picture")
    said = tab.locator("#cell p").first.inner_text()
    assert said.startswith(f"{shown.count()} of {images} picture")
    assert 0 < shown.count() <= images
    for card in shown.all():
        assert card.locator(".true").inner_text() == f"label {label}"
        assert card.locator(".bar.wrong span").inner_text() == str(predicted)
        assert card.locator("img").evaluate(
            "image => image.decode().then(() => image.naturalWidth)"
        )
    other = next(n for n in range(10) if n not in (label, predicted))
    tab.locator(f".cell[data-cell='{other}-{other}']").click()
    assert tab.locator("#cell h3").inner_text() == f"{other} found as such"
    assert tab.locator(".cell[aria-pressed=true]").count() == 1


def test_the_table_sorts(opened, trained):
    folder = os.path.join(trained, report_page.FOLDER)
    recalls = [one["recall"] for one in figures_in(folder)["classes"]]
    shown = [f"{100 * recall:.1f} %" for recall in recalls]
    tab = opened(folder)
    assert column(tab, 1) == [str(number) for number in range(10)]
    assert column(tab, 4) == shown
    head = tab.locator("#class-table th:nth-child(4)")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(tab, 4) == sorted(shown, key=lambda text: float(text.split()[0]))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(tab, 4) == sorted(shown, key=lambda text: -float(text.split()[0]))
    tab.locator("#class-table th:nth-child(1) button").click()
    assert column(tab, 1) == [str(number) for number in range(10)]


def test_mistakes_begin_with_the_most_confident(opened, trained):
    folder = os.path.join(trained, report_page.FOLDER)
    found = figures_in(folder)
    tab = opened(folder)
    cards = tab.locator("#mistakes .picture")
    numbers = [card.get_attribute("data-number") for card in cards.all()]
    assert numbers == [str(number) for number in found["mistakes"]]
    first = found["pictures"][numbers[0]]
    words = cards.first.inner_text()
    assert f"{first['file']} #{first['record']}" in words
    assert f"{100 * first['top'][0][1]:.1f} %" in words
    assert cards.last.is_hidden()
    tab.locator("#mistakes .more").click()
    assert cards.last.is_visible()


def test_curves_by_step_and_by_time(opened, trained):
    tab = opened(os.path.join(trained, report_page.FOLDER))
    titles = tab.locator("#training h3").all_inner_texts()
    assert titles == ["Accuracy of the evaluations", "Loss", "Learning rate", "Speed"]
    charts = tab.locator("#training svg")
    assert charts.first.locator("circle").count() == 4  # top-1 and top-5 of two evaluations
    assert "step" in charts.first.inner_html()
    tab.locator("#training .choices button", has_text="by time").click()
    assert "time of training" in tab.locator("#training svg").first.inner_html()
    tab.locator("#training svg").first.hover()
    assert "\nat " in tab.locator("#training figcaption").first.inner_text()


@pytest.mark.parametrize("num_classes", [1, 2, 3, 40])
def test_a_grid_of_few_classes(opened, tmp_path, num_classes):
    labels = [number % num_classes for number in range(60)]
    predicted = [
        (label + 1) % num_classes if number % 7 == 0 else label
        for number, label in enumerate(labels)
    ]
    tab = opened(write(tmp_path, num_classes, labels, predicted))
    assert tab.locator(".cell").count() == num_classes**2
    assert fits(tab)
    top = tab.locator(".tile", has_text="top-")
    assert top.count() == (num_classes > 2)  # the model gives two probabilities
    if num_classes > 1:
        tab.locator(".pair").first.click()
        assert tab.locator("#cell h3").count() == 2
        assert tab.locator("#cell .picture").count() > 0


def test_a_thousand_classes(opened, tmp_path):
    writing.make_report(str(tmp_path), 3000, [made_predictions.jpeg(80)])()
    found = figures_in(tmp_path / "report")
    tab = opened(tmp_path / "report")
    one, other, images = found["pairs"][0]
    names = found["labels"]
    assert tab.locator(".cell").count() == 0
    first = tab.locator(".pair").first
    assert first.inner_text().split("\n")[-1] == str(images)
    first.click()
    assert tab.locator("#cell h3").all_inner_texts() == [
        f"{names[one]} taken for {names[other]}",
        f"{names[other]} taken for {names[one]}",
    ]
    assert tab.locator(".pair:visible").count() == 10
    tab.locator("#pairs .more").click()
    assert tab.locator(".pair:visible").count() == report_page.MOST_PAIRS
    # A click finds the nearest cell; browsers round to pixels, and a class is less than one.
    canvas = tab.locator("canvas#matrix")
    label = found["classes"].index(max(found["classes"], key=lambda row: row["right"]))
    side = canvas.bounding_box()["width"] / 1000
    canvas.click(position={"x": (label + 0.5) * side, "y": (label + 0.5) * side})
    shown = tab.locator("#cell h3").first.inner_text()
    assert any(shown.startswith(name) for name in names[max(label - 3, 0) : label + 4])
    tab.get_by_label("Find a class").fill("espresso")
    assert sorted(column(tab, 1)) == [n for n in sorted(names) if "espresso" in n.lower()]
    assert fits(tab)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(opened, trained, scheme):
    tab = opened(os.path.join(trained, report_page.FOLDER), viewport=PHONE, color_scheme=scheme)
    assert fits(tab)
    ink, paper = tab.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    numbers = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (ink, paper)]
    assert (numbers[0] < numbers[1]) == (scheme == "light")


def test_names_are_never_markup(opened, tmp_path):
    names = ["<img src=x onerror=alert(1)>", "</script><b>b</b>"]
    path = made_predictions.write_records(tmp_path, [0, 1])
    found = made_predictions.of([0, 1], [[1, 0], [1, 0]], [[0.8, 0.2]] * 2, [0.2, 0.8], 2, [path])
    report_page.check_folder(str(tmp_path / "report"), "output_dir")
    report_page.write(
        made_predictions.subject(names),
        predictions.Source([path], 2),
        found,
        str(tmp_path / "report"),
    )
    tab = opened(tmp_path / "report")
    assert column(tab, 1) == names
    assert tab.locator("main b", has_text="b").filter(has_text="alert").count() == 0
    tab.locator(".cell.wrong").nth(0).click()
    assert tab.locator("#cell h3").inner_text() == f"{names[0]} taken for {names[1]}"
    assert tab.locator("img[src=x]").count() == 0


def test_on_paper(opened, trained):
    tab = opened(os.path.join(trained, report_page.FOLDER))
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.locator("nav").is_hidden()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(tab.pdf()) > 20_000
