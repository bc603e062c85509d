"""The command that runs exports in LiteRT and MediaPipe; with the runtimes in the slow tests."""

import glob
import json
import sys

import pytest
from exports import make_export, settings_of

from utils.base.errors import UserError
from utils.check_exports import command, worker


def test_a_folder_without_export_is_found_before_anything_is_installed(tmp_path):
    with pytest.raises(UserError, match="holds no export_report"):
        command.main(["x", str(tmp_path), "--pictures", "a.jpg", f"--env={tmp_path}/env"])
    assert not (tmp_path / "env").exists()


def test_a_runtime_that_is_not_there(tmp_path):
    # The program's own environment has neither.
    with worker.Worker(sys.executable, str(tmp_path)) as runtimes:
        for name in ("litert", "mediapipe"):
            with pytest.raises(UserError, match=f"start_{name} failed: ModuleNotFoundError"):
                runtimes.ask(f"start_{name}")


def test_a_process_that_ends_is_an_error_in_words(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Illegal instruction' >&2\nexit 132\n")
    python.chmod(0o755)
    with (
        worker.Worker(str(python), str(tmp_path)) as runtimes,
        pytest.raises(UserError, match=r"the process ended with 132 \(Illegal instruction\)"),
    ):
        runtimes.ask("start_litert")


def test_a_process_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "LIMIT_SECONDS", 0.5)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    with (
        worker.Worker(str(python), str(tmp_path)) as runtimes,
        pytest.raises(UserError, match="the process ended with -9"),
    ):
        runtimes.ask("start_litert")


@pytest.mark.slow
def test_without_the_packages_it_says_so_in_a_sentence(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert command.main(["x", exported, "--pictures", "a.jpg", f"--env={tmp_path}/env"]) == 1
    said = capsys.readouterr().err
    for name in command.RUNTIMES:
        assert f"error: {name} cannot be installed here (" in said


@pytest.fixture(scope="module")
def env():
    """The second environment, where it can be installed."""
    try:
        for name, (packages, size) in command.RUNTIMES.items():
            command.second.set_up(command.DEFAULT_ENV, name, packages, "", size)
    except UserError as e:
        pytest.skip(str(e))
    return f"--env={command.DEFAULT_ENV}"


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["app", "published"])
def test_litert_and_mediapipe_agree(
    env, exported, model_dir, digits_dir, tmp_path, capsys, contract
):  # fmt: skip
    folder = exported
    if contract == "published":
        folder = str(tmp_path / "published")
        make_export(settings_of(model_dir, folder, data_dir=digits_dir, quantize="int8",
                                tflite_contract=contract))  # fmt: skip
    pictures = sorted(glob.glob(digits_dir + "/pictures/*.jpg"))
    assert command.main(["x", folder, env, "--pictures", *pictures]) == 0
    out, err = capsys.readouterr()
    assert "error" not in err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()
            if line.startswith("| tiny")]  # fmt: skip
    with open(folder + "/export_report.json") as f:
        kinds = [row["kind"] for row in json.load(f)["files"].values()]
    assert [row[1] for row in rows] == kinds[2:]
    for row in rows:
        # A class may change where two are nearly equally probable, as with these weights.
        assert row[2].endswith("of 10")
        assert float(row[3]) < (1e-4 if row[1] in ("float32", "float16") else 0.1)
        assert float(row[4]) > 0 and float(row[5]) > 0
        if contract == "app":
            assert row[6].endswith("of 10") and float(row[7]) < 0.15
        else:  # MediaPipe cannot feed files that take normalized pixels
            assert row[6:] == ["-", "-"]
