"""The files of a report: what they say, what they do not load, what they replace."""

import csv
import html.parser
import json
import os
import shutil

import made_predictions
import picture_files
import pytest
import record_files
from main_runs import refusal, run_here
from sklearn import metrics

from bench import measuring, writing
from utils.base.errors import UserError
from utils.reading import pictures
from utils.showing import predictions, report_page
from utils.training import evaluations

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "a\"b'c, d\n", "\u2028 /*DATA*/ ü"]


class Page(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes, and the text of the data."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        with open(path, encoding="utf-8") as f:
            self.text = f.read()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)


def written(folder, labels, top, names, **more):
    """Writes the report of two probabilities a picture; returns (path, data in the page)."""
    path = made_predictions.write_records(folder, labels)
    right = [a == b[0] for a, b in zip(labels, top, strict=True)]
    found = made_predictions.of(
        labels,
        top,
        [[0.75, 0.125]] * len(labels),
        [0.75 if one else 0.125 for one in right],
        len(names),
        [path],
    )
    source = predictions.Source([path], len(names))
    output_dir = str(folder / "report")
    report_page.check_folder(output_dir, "output_dir")
    page = report_page.write(made_predictions.subject(names, **more), source, found, output_dir)
    return page, json.loads(Page(page).scripts[0])


def figures_in(folder):
    with open(os.path.join(folder, report_page.FIGURES)) as f:
        return json.load(f)


def rows_in(folder):
    with open(os.path.join(folder, report_page.TABLE), newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("names", [["a", "b", "c"], HOSTILE], ids=["plain", "hostile"])
def test_a_page_stands_alone(tmp_path, names):
    page, data = written(tmp_path, [0, 1, 2, 2], [[0, 1], [1, 0], [1, 2], [2, 0]], names)
    parsed = Page(page)
    assert data["labels"] == names
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "img", "iframe", "base", "form"), tag
        assert not {"src", "href", "action"} & set(attributes), attributes
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "http" not in policy
    assert not {"/*STYLE*/", "/*SCRIPT*/"} & set(parsed.text.split())
    assert [row["true"] for row in rows_in(tmp_path / "report")] == [
        names[0],
        names[1],
        names[2],
        names[2],
    ]


def test_the_data_of_a_page(tmp_path):
    _, data = written(tmp_path, [0, 1, 2, 2], [[0, 1], [1, 0], [1, 2], [2, 0]], ["a", "b", "c"])
    assert data["headline"]["accuracy"] == 0.75
    assert data["headline"]["top_k_accuracy"] is not None  # two of three classes
    assert data["mistakes"] == [2]
    assert set(data["thumbnails"]) == {"0", "1", "2", "3"}
    assert data["pictures"]["2"] == {
        "file": "validation-00000-of-00001",
        "record": 2,
        "picture": "picture 2.jpg",
        "label": 2,
        "label_probability": 0.125,
        "top": [[1, 0.75], [2, 0.125]],
    }
    assert sorted(map(tuple, data["confusion"])) == [(0, 0, 1), (1, 1, 1), (2, 1, 1), (2, 2, 1)]
    assert data["pairs"] == [[1, 2, 1]]
    assert (data["curves"], data["exports"]) == (None, None)


def test_the_table_of_pictures(tmp_path):
    written(tmp_path, [0, 1], [[1, 0], [1, 0]], ["a", "b"])
    assert rows_in(tmp_path / "report")[0] == {
        "file": "validation-00000-of-00001",
        "record": "0",
        "picture": "picture 0.jpg",
        "true": "a",
        "true_probability": "0.12500",
        "suspicion": "0.62500",
        "class_1": "b",
        "probability_1": "0.75000",
        "class_2": "a",
        "probability_2": "0.12500",
    }


def test_few_classes_have_no_top_5(tmp_path):
    _, data = written(tmp_path, [0, 1], [[1, 0], [1, 0]], ["a", "b"])
    assert data["headline"]["top_k_accuracy"] is None


def test_pairs_count_both_ways(tmp_path):
    labels, top = [0, 1, 1, 2], [[1, 0], [0, 1], [2, 0], [2, 0]]
    _, data = written(tmp_path, labels, top, ["a", "b", "c"])
    assert data["pairs"] == [[0, 1, 2], [1, 2, 1]]


def test_exports(tmp_path):
    row = {
        "kind": "float32",
        "bytes": 1234567,
        "images": 4,
        "top_1_accuracy": 0.5,
        "top_5_accuracy": 1.0,
        "agreement": 1,
        "largest_probability_difference": 1e-5,
        "latency_ms": 4.84,
    }
    made = {"labels.txt": {"kind": "names of the classes"}, "net.tflite": row}
    made["1700000000"] = {**row, "kind": "SavedModel"}
    identity = {"model_name": "net", "global_step": 3}
    (tmp_path / "export_report.json").write_text(json.dumps({"identity": identity, "files": made}))
    _, data = written(tmp_path, [0], [[0, 1]], ["a", "b"], export_dir=str(tmp_path))
    assert [one[:3] for one in data["exports"]["rows"]] == [
        ["net.tflite", "1.23", "50.00"],
        ["SavedModel 1700000000", "1.23", "50.00"],
    ]


@pytest.mark.parametrize(("smoothing", "target"), [(0.1, 0.95), (0.0, 1), (None, None)])
def test_what_label_smoothing_asks_for(tmp_path, smoothing, target):
    _, data = written(tmp_path, [0], [[0, 1]], ["a", "b"], label_smoothing=smoothing)
    assert data["calibration"]["target"] == (target and pytest.approx(target))


# What is in the way.


def test_a_report_is_written_again(tmp_path):
    first, _ = written(tmp_path, [0], [[0, 1]], ["a", "b"])
    second, data = written(tmp_path, [1], [[0, 1]], ["a", "b"])
    assert first == second
    assert data["headline"]["accuracy"] == 0
    assert sorted(os.listdir(tmp_path / "report")) == [
        "predictions.csv",
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize("name", [report_page.PAGE, report_page.FIGURES, report_page.TABLE])
def test_files_of_others_stay(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff my own")
    with pytest.raises(UserError, match=f"{name} is there already and is not of a report"):
        report_page.check_folder(str(tmp_path), "output_dir")
    assert (tmp_path / name).read_bytes() == b"\xff my own"


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / report_page.PAGE).mkdir()
    with pytest.raises(UserError, match="is there already"):
        report_page.check_folder(str(tmp_path), "output_dir")


def test_a_full_disk_leaves_the_report_of_before(tmp_path, file_size_limit):
    page, _ = written(tmp_path, [0], [[0, 1]], ["a", "b"])
    with open(page) as f:
        before = f.read()
    with file_size_limit(20_000), pytest.raises(UserError, match=r"report\.html cannot be written"):
        written(tmp_path, [0, 1], [[0, 1], [0, 1]], ["a", "b"])
    with open(page) as f:
        assert f.read() == before
    assert len(os.listdir(tmp_path / "report")) == 3


# At the end of a training.


def test_a_training_writes_the_report_of_its_last_evaluation(trained):
    folder = os.path.join(trained, report_page.FOLDER)
    found, last = figures_in(folder), evaluations.read(trained)[-1]
    assert found["headline"]["images"] == last["images"] == 360
    assert found["headline"]["accuracy"] == pytest.approx(last["top_1_accuracy"], abs=1e-6)
    assert found["headline"]["top_k_accuracy"] == pytest.approx(last["top_5_accuracy"], abs=1e-6)
    assert (found["model"]["step"], found["data"]["split"]) == (20, "validation")
    rows = rows_in(folder)
    true, predicted = [row["true"] for row in rows], [row["class_1"] for row in rows]
    recalls = metrics.recall_score(true, predicted, average=None, zero_division=0)
    assert [one["recall"] for one in found["classes"]] == pytest.approx(recalls)
    assert len(found["curves"]["evaluations"]) == 2


def test_an_evaluation_writes_one_too(trained, digits_dir, tmp_path, caplog):
    folder = shutil.copytree(trained, tmp_path / "model")
    shutil.rmtree(folder / report_page.FOLDER)
    with caplog.at_level("INFO", "absl"):
        run_here(
            "--mode=eval",
            f"--data_dir={digits_dir}",
            f"--model_dir={folder}",
            "--report",
            "--train_steps=20",
            "--eval_batch_size=360",
        )
    assert f"Wrote {folder}/report/report.html: open it in a browser." in caplog.messages
    assert figures_in(folder / report_page.FOLDER)["headline"]["images"] == 360


def test_bad_images_are_left_out_as_in_the_evaluation(trained, tmp_path):
    folder, data = shutil.copytree(trained, tmp_path / "model"), tmp_path / "data"
    data.mkdir()
    records = [*record_files.good(7), record_files.BAD["no picture"][0](), *record_files.good(2)]
    record_files.write(data / "validation-00000-of-00001", records)
    run_here(
        "--mode=eval",
        f"--data_dir={data}",
        f"--model_dir={folder}",
        "--report",
        "--skip_bad_images",
        "--num_eval_images=10",
        "--train_steps=20",
        "--num_label_classes=10",
    )
    found = figures_in(folder / report_page.FOLDER)
    assert (found["headline"]["images"], found["data"]["skipped_images"]) == (9, 1)
    assert [row["record"] for row in rows_in(folder / report_page.FOLDER)] == [*"0123456", "8", "9"]


def test_what_is_refused_before_the_training(digits_dir, tmp_path):
    model = f"--model_dir={tmp_path}/model"
    assert "--report shows the pictures of TFRecord files" in refusal(
        "--data_dir=null", model, "--report", "--model_name=mnasnet-small"
    )
    assert "mnasnet-report makes one of any model" in refusal(
        "--mode=export_only", f"--export_dir={tmp_path}/e", model, "--report"
    )
    (tmp_path / "model" / "report").mkdir(parents=True, exist_ok=True)
    (tmp_path / "model" / "report" / "report.html").write_text("mine")
    assert "is not of a report" in refusal(
        f"--data_dir={digits_dir}", model, "--report", "--config_file=sample"
    )
    os.remove(tmp_path / "model" / "report" / "report.html")
    train_alone = tmp_path / "data"
    train_alone.mkdir()
    shutil.copy(f"{digits_dir}/train-00000-of-00004", train_alone)
    assert "has no files validation-" in refusal(
        "--mode=train", f"--data_dir={train_alone}", model, "--report", "--config_file=sample"
    )


# Many classes and pictures.


def test_a_thousand_classes(tmp_path):
    writing.make_report(str(tmp_path), 2000, [made_predictions.jpeg(80)])()
    names = {report_page.PAGE, report_page.FIGURES, report_page.TABLE}
    assert set(writing.sizes(tmp_path)) == names
    data = json.loads(Page(tmp_path / "report" / report_page.PAGE).scripts[0])
    assert len(data["classes"]) == 1000
    assert len(data["pairs"]) == report_page.MOST_PAIRS
    assert sum(images for *_, images in data["confusion"]) == 2000


@pytest.mark.slow
def test_fifty_thousand_pictures_fit_in_20_mb(tmp_path):
    """The pictures of the page are photographs, which take as much as ImageNet's."""
    large = measuring.make_pictures(20)
    pictures = [picture_files.save(pictures.thumbnail(one, 160), "JPEG") for one in large]
    writing.make_report(str(tmp_path), 50_000, pictures)()
    sizes = writing.sizes(tmp_path)
    assert 2e6 < sizes[report_page.PAGE] < 10e6
    assert sum(sizes.values()) < 20e6
    assert len(rows_in(tmp_path / "report")) == 50_000
