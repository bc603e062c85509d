"""The notebook, executed on a model as `make train` leaves it, and its committed output."""

import json
import os
import pathlib

import nbclient
import nbformat
import pytest
from programs import run

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "mnasnet_example.ipynb"
TINY = "name: tiny\nstages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\nhead_size: 16\n"


@pytest.fixture(scope="module")
def export_dir(digits_dir, tmp_path_factory):
    """The export of a tiny network, which was trained for two steps on the digits."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "tiny.yaml").write_text(TINY)
    status, _, err = run(
        "--mode=train",
        f"--model_spec={folder}/tiny.yaml",
        "--input_image_size=32",
        f"--data_dir={digits_dir}",
        f"--model_dir={folder}/model",
        "--train_steps=2",
        "--train_batch_size=16",
        f"--export_dir={folder}/export",
        "--quantize=int8",
        "--export_eval_images=20",
    )
    assert status == 0, err
    return folder / "export"


def test_the_notebook_runs(export_dir, digits_dir, monkeypatch):
    monkeypatch.setenv("MNASNET_EXPORT", str(export_dir))
    monkeypatch.setenv("MNASNET_PICTURES", os.path.join(digits_dir, "pictures", "*.jpg"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "10 pictures, 10 classes" in text and "WARNING" not in text


def test_the_committed_notebook_has_its_output():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
