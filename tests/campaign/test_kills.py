"""Programs that are ended at many moments: the same command then succeeds, and nothing is lost."""

import json
import re
import signal
import time

import programs
import pytest

from utils.training import checkpoints

pytestmark = pytest.mark.slow

MOMENTS = 6


def newest(model_dir):
    """Returns the step of the newest complete checkpoint; 0 without one."""
    paths = [str(path).removesuffix(".index") for path in model_dir.glob("model.ckpt-*.index")]
    return max([checkpoints.step_of(p) for p in paths if checkpoints.is_complete(p)], default=0)


def ended(process):
    """Waits for the end of a program; returns (status, stderr)."""
    _, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training(number, base, tmp_path):
    model = tmp_path / "model"
    flags = base.flags(model_dir=model, mode="train", train_steps=400, log_step_count_steps=1)
    for moment in range(MOMENTS):
        before = newest(model)
        process = programs.start(*flags)
        # Programs handle signals other than SIGKILL once they have said where they run.
        programs.wait_for_line(process, " on CPU")
        time.sleep(1.5 * moment)
        process.send_signal(number)
        status, err = ended(process)
        assert status in (0, -number if number == signal.SIGKILL else 128 + number), err
        resumed = re.search(r"from step (\d+)", err)
        assert newest(model) >= before and (not resumed or int(resumed[1]) == before)
    before = newest(model)
    status, err = ended(programs.start(*flags))
    assert status == 0 and newest(model) == 400
    assert before in (0, 400) or f"from step {before}" in err


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_an_export(moment, base):
    model = base.folder / "model"
    flags = base.flags(
        mode="export_only", export_dir=model / "export", export_checkpoint=model / "model.ckpt-2"
    )
    process = programs.start(*flags)
    programs.wait_for_line(process, " on CPU")
    time.sleep(moment)
    process.kill()
    ended(process)
    assert ended(programs.start(*flags))[0] == 0
    report = json.loads((model / "export" / "export_report.json").read_text())
    assert report["identity"]["global_step"] == 2
    assert all((model / "export" / name).exists() for name in report["files"])
