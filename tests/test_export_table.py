"""The table of several exports, from reports as exports write them."""

import json

import pytest

from utils import export_table
from utils.base.errors import UserError


def row(kind, top_1, size=1234567):
    return {
        "kind": kind,
        "bytes": size,
        "images": 360,
        "top_1_accuracy": top_1,
        "top_5_accuracy": None if top_1 is None else 1.0,
        "agreement": 0.995,
        "largest_logit_difference": 1.23e-5,
        "latency_ms": 4.8371,
    }


def write(folder, model, **accuracies):
    folder.mkdir()
    rows = {f"{model}_{kind}": row(kind, top_1) for kind, top_1 in accuracies.items()}
    rows = {"labels.txt": {"kind": "names of the classes"}, **rows}
    report = {"identity": {"model_name": model, "global_step": 3}, "files": rows}
    (folder / "export_report.json").write_text(json.dumps(report))
    return str(folder)


def test_the_table(tmp_path, capsys):
    one = write(tmp_path / "a", "net-a", int8=0.975, float32=0.98, SavedModel=0.98)
    two = write(tmp_path / "b", "net-b", float32=None)
    export_table.main(["export_table", one, two])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| net-a | SavedModel | 1.23 | 98.00 | 100.00 | - | 99.50 | 1e-05 | 4.84 |",
        "| net-a | float32 | 1.23 | 98.00 | 100.00 | - | 99.50 | 1e-05 | 4.84 |",
        "| net-a | int8 | 1.23 | 97.50 | 100.00 | - | 99.50 | 1e-05 | 4.84 |",
        "| net-b | float32 | 1.23 | - | - | - | 99.50 | 1e-05 | 4.84 |",
    ]


def test_a_stretch_and_probabilities(tmp_path, capsys):
    folder = write(tmp_path / "a", "net-a", float32=0.98)
    path = tmp_path / "a" / "export_report.json"
    report = json.loads(path.read_text())
    (measured,) = [r for r in report["files"].values() if r["kind"] == "float32"]
    measured["squeezed_top_1_accuracy"] = 0.875
    measured["largest_probability_difference"] = 2e-6
    del measured["largest_logit_difference"]  # reports of before have this one
    path.write_text(json.dumps(report))
    export_table.main(["export_table", folder])
    lines = capsys.readouterr().out.splitlines()
    assert "| stretched % |" in lines[0] and "| difference |" in lines[0]
    assert lines[2] == "| net-a | float32 | 1.23 | 98.00 | 100.00 | 87.50 | 99.50 | 2e-06 | 4.84 |"


@pytest.mark.parametrize(("int8", "words"), [(0.9701, None), (0.9699, "int8 lost 1.01 points")])
def test_what_int8_may_lose(tmp_path, capsys, int8, words):
    folder = write(tmp_path / "a", "net-a", float32=0.98, int8=int8)
    arguments = ["export_table", "--max_loss=1", folder]
    if words is None:
        export_table.main(arguments)
    else:
        with pytest.raises(UserError, match=words) as error:
            export_table.main(arguments)
        assert folder in str(error.value)
    assert "net-a" in capsys.readouterr().out


@pytest.mark.parametrize("kinds", [{"float32": 0.9}, {"float32": None, "int8": None}])
def test_without_both_measurements_there_is_nothing_to_compare(tmp_path, kinds):
    folder = write(tmp_path / "a", "net-a", **kinds)
    with pytest.raises(UserError, match="was not measured as float32 and int8"):
        export_table.main(["export_table", "--max_loss=1", folder])


@pytest.mark.parametrize(
    "damage",
    [
        {"latency_ms": None},
        {"bytes": "1"},
        {"agreement": []},
        {"kind": 3},
        {"largest_probability_difference": "0"},
        {"squeezed_top_1_accuracy": "all"},
    ],
)
def test_a_damaged_report_is_named(tmp_path, damage):
    folder = write(tmp_path / "a", "net-a", float32=0.9)
    path = tmp_path / "a" / "export_report.json"
    report = json.loads(path.read_text())
    report["files"]["net-a_float32"].update(damage)
    path.write_text(json.dumps(report))
    with pytest.raises(UserError, match=f"{path} is not a report of this program"):
        export_table.main(["export_table", folder])


def test_a_folder_without_export(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no export_report"):
        export_table.main(["export_table", str(tmp_path)])
