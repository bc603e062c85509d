"""The command that runs exports in LiteRT and MediaPipe; with the runtimes in the slow tests."""

import glob
import json

import pytest
from exports import make_export, settings_of

from utils import check_exports
from utils.base.errors import UserError
from utils.checks import environments


def test_a_folder_without_export_is_found_before_anything_is_installed(tmp_path):
    with pytest.raises(UserError, match="holds no export_report"):
        check_exports.main(["x", str(tmp_path), "--pictures", "a.jpg", f"--env={tmp_path}/env"])
    assert not (tmp_path / "env").exists()


@pytest.fixture(scope="module")
def env():
    """The second environment, where it can be installed."""
    try:
        for name, (packages, size) in check_exports.RUNTIMES.items():
            environments.set_up(check_exports.DEFAULT_ENV, name, packages, "", size)
    except UserError as e:
        pytest.skip(str(e))
    return f"--env={check_exports.DEFAULT_ENV}"


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["app", "published"])
def test_litert_and_mediapipe_agree(
    env, exported, model_dir, digits_dir, tmp_path, capsys, contract
):
    folder = exported
    if contract == "published":
        folder = str(tmp_path / "published")
        make_export(
            settings_of(
                model_dir, folder, data_dir=digits_dir, quantize="int8", tflite_contract=contract
            )
        )
    pictures = sorted(glob.glob(digits_dir + "/pictures/*.jpg"))
    assert check_exports.main(["x", folder, env, "--pictures", *pictures]) == 0
    out, err = capsys.readouterr()
    assert "error" not in err
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in out.splitlines()
        if line.startswith("| tiny")
    ]
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
