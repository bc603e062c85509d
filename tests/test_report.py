"""The command mnasnet-report."""

import json
import os
import shutil

import made_predictions
import pytest
from built_data import write_in_order
from exports import copied, make_export, report_of, settings_of
from other_records import KAGGLE, TFDS, flags_of, write_kaggle, write_tfds

from utils import evaluate, report
from utils.base.errors import UserError


def run(*arguments):
    report.main(["mnasnet-report", *arguments])


def figures_in(folder):
    with open(os.path.join(folder, "report.json")) as f:
        return json.load(f)


def test_a_file_is_as_good_as_evaluate_says(plain, digits_dir, tmp_path, capsys):
    model = f"{plain}/tiny.tflite"
    out = str(tmp_path / "new" / "report")
    run(f"--model={model}", f"--data_dir={digits_dir}", f"--output_dir={out}", "--images=90")
    assert capsys.readouterr().out == f"Wrote {out}/report.html: open it in a browser.\n"
    evaluate.main(["evaluate", f"--model={model}", f"--data_dir={digits_dir}", "--images=90"])
    said = capsys.readouterr().out
    found = figures_in(out)["headline"]
    assert f"top-1 {100 * found['accuracy']:.2f} %" in said
    assert f"top-5 {100 * found['top_k_accuracy']:.2f} % on 90 images" in said
    assert [row[0] for row in figures_in(out)["exports"]["rows"]][1:] == ["tiny.tflite"]


def test_the_training_pictures(plain, digits_dir, tmp_path):
    run(
        f"--model={plain}/tiny.tflite",
        f"--data_dir={digits_dir}",
        "--split=train",
        f"--output_dir={tmp_path}",
        "--images=400",
    )
    assert figures_in(tmp_path)["data"]["split"] == "train"
    with open(tmp_path / "predictions.csv") as f:
        files = {line.partition(",")[0] for line in f.readlines()[1:]}
    assert files == {"train-00000-of-00004", "train-00001-of-00004"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "nowhere"}, "--model=nowhere does not exist"),
        ({"data_dir": "nowhere"}, r"--data_dir=nowhere has no files validation-\*"),
        ({"data_dir": ""}, "--data_dir is missing"),
        ({"images": "0"}, "--images=0 is invalid"),
        ({"labels": "nowhere.txt"}, r"nowhere\.txt"),
        ({"output_dir": "/proc/report"}, "--output_dir=/proc/report cannot be made"),
    ],
)
def test_what_is_refused(plain, digits_dir, tmp_path, changed, words):
    given = {"model": f"{plain}/tiny.tflite", "data_dir": digits_dir, "output_dir": tmp_path}
    with pytest.raises(UserError, match=words):
        run(*(f"--{name}={value}" for name, value in {**given, **changed}.items()))
    assert os.listdir(tmp_path) == []


def test_data_of_other_classes(plain, model_dir, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    made_predictions.write_records(data, [3, 11])
    model = f"--model={plain}/tiny.tflite"
    with pytest.raises(UserError, match=r"record 1: label 12 is not in 1\.\.10"):
        run(model, f"--data_dir={data}", f"--output_dir={tmp_path}/out")
    info = {
        "name": "x",
        "num_train_images": 0,
        "num_eval_images": 2,
        "num_label_classes": 12,
    }
    (data / "dataset_info.json").write_text(json.dumps(info))
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    (folder / "params.yaml").write_text("model_name: mnasnet-small\nnum_label_classes: 10\n")
    for path in (f"{plain}/tiny.tflite", folder):
        with pytest.raises(UserError, match="has 12 classes and the model 10"):
            run(f"--model={path}", f"--data_dir={data}", f"--output_dir={tmp_path}/out")


def test_a_network_without_training(digits_dir, tmp_path):
    """A folder with a checkpoint's settings but no checkpoint is no model."""
    (tmp_path / "params.yaml").write_text("model_name: mnasnet-small\nnum_label_classes: 10\n")
    with pytest.raises(UserError, match="is not a model"):
        run(f"--model={tmp_path}", f"--data_dir={digits_dir}", f"--output_dir={tmp_path}/out")


def evaluation(capsys, *arguments):
    """What evaluate prints as JSON."""
    capsys.readouterr()
    evaluate.main(["evaluate", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def named(plain, tmp_path_factory):
    """An export with the names of the digits next to it."""
    folder = tmp_path_factory.mktemp("named") / "export"
    copied(plain, folder)
    (folder / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    return folder


def evaluated(capsys, model, data_dir, *more):
    """What evaluate finds of each class, by name."""
    given = (f"--model={model}", f"--data_dir={data_dir}", "--per_class")
    found = evaluation(capsys, *given, *more)
    return found["top_1_accuracy"], {one["name"]: one for one in found["classes"]}


def test_classes_in_another_order_of_which_one_is_missing(named, digits_dir, tmp_path, capsys):
    names = [str(digit) for digit in range(10) if digit != 3]
    data = write_in_order(digits_dir, tmp_path / "data", names[::-1])
    model = named / "tiny.tflite"
    _, whole = evaluated(capsys, model, digits_dir)
    accuracy, part = evaluated(capsys, model, data)
    assert part["3"]["images"] == 0
    for name in names:
        assert whole[name]["images"] > 0
        assert (part[name]["images"], part[name]["recall"]) == (
            whole[name]["images"],
            whole[name]["recall"],
        )
    run(f"--model={model}", f"--data_dir={data}", f"--output_dir={tmp_path}/report")
    assert figures_in(tmp_path / "report")["headline"]["accuracy"] == accuracy


def test_classes_of_other_names(plain, digits_dir, tmp_path, capsys):
    model = f"{copied(plain, tmp_path / 'export')}/tiny.tflite"
    names = tmp_path / "export" / "labels.txt"
    names.write_text("\n".join("abcdefghij") + "\n")
    given = [f"--model={model}", f"--data_dir={digits_dir}"]
    for main, more in ((evaluate.main, []), (report.main, [f"--output_dir={tmp_path}/report"])):
        with pytest.raises(UserError, match=r"no '0', and the data set no 'a'.*--labels"):
            main(["", *given, *more])
    # Who names them knows that they are the same.
    _, classes = evaluated(capsys, model, digits_dir, f"--labels={names}")
    assert list(classes) == list("abcdefghij") and classes["d"]["images"] > 0


def test_records_of_another_program(plain, digits_dir, tmp_path, capsys):
    """They are as many and as well classified as the published ones that they were made of."""
    model = f"--model={plain}/tiny.tflite"
    data = f"--data_dir={write_kaggle(digits_dir, tmp_path / 'kaggle', 'ZLIB')}"
    expected = evaluation(capsys, model, f"--data_dir={digits_dir}")
    found = evaluation(capsys, model, data, *flags_of(KAGGLE))
    for name in ("images", "top_1_accuracy", "top_5_accuracy"):
        assert found[name] == expected[name]
    run(model, data, f"--output_dir={tmp_path}/report", *flags_of(KAGGLE))
    assert figures_in(tmp_path / "report")["headline"]["accuracy"] == expected["top_1_accuracy"]
    with pytest.raises(UserError, match="--first_label=0"):
        evaluation(capsys, model, data, *flags_of({**KAGGLE, "first_label": 1}))


def test_the_export_tells_how_its_data_are_read(model_dir, digits_dir, tmp_path, capsys):
    data_dir = write_tfds(digits_dir, tmp_path / "tfds")
    export_dir = tmp_path / "export"
    make_export(
        settings_of(
            model_dir,
            export_dir,
            data_dir=data_dir,
            num_eval_images=360,
            export_eval_images=30,
            **TFDS,
        )
    )
    flags = (f"--model={export_dir}/tiny.tflite", "--images=30")
    expected = evaluation(capsys, *flags, f"--data_dir={digits_dir}")["top_1_accuracy"]
    assert evaluation(capsys, *flags, f"--data_dir={data_dir}")["top_1_accuracy"] == expected
    assert report_of(export_dir)["files"]["tiny.tflite"]["top_1_accuracy"] == expected
