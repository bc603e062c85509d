"""Section `kills`: programs that are ended at many moments, and what they leave.

The same command must then succeed, and nothing that was complete before may be lost.
"""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.processes import Outcome, Program, finished, misbehaviour, run
from utils.training import checkpoints

KILLS = 8  # in each training
TRAININGS = 4  # with each signal
MOMENTS = 8  # of each export and each builder
STEPS = 120
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def complete_steps(model_dir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, in their order."""
    paths = [str(path).removesuffix(".index") for path in model_dir.glob("model.ckpt-*.index")]
    return sorted(checkpoints.step_of(path) for path in paths if checkpoints.is_complete(path))


def cases() -> list[Case]:
    """Lists trainings, exports and builders with the signals and moments that end them."""
    trainings = [
        Case(f"training {number} with {signal.Signals(kind).name}", _killed_training(kind, number))
        for number in range(TRAININGS)
        for kind in _SIGNALS
    ]
    exports = [
        Case(f"export after {part}/{MOMENTS}", _killed_export(part)) for part in range(MOMENTS)
    ]
    builders = [
        Case(f"{name} after {part}/{MOMENTS}", _killed_builder(name, part))
        for name in ("fake", "fake in a task", "folder", "sample")
        for part in range(MOMENTS)
    ]
    return trainings + exports + builders


def _timed(module: str, argv: list, folder: Path) -> float:
    """Runs a program to its end; returns the seconds it took."""
    start = time.monotonic()
    problem = finished(run(module, argv, folder))
    assert problem is None, problem
    return time.monotonic() - start


def _kill(program: Program, number: int, delay: float) -> Outcome:
    """Sends a signal after `delay` seconds and waits for the end.

    Programs handle signals other than SIGKILL once they have said on which device they run, so the
    delay begins there.
    """
    if number != signal.SIGKILL:
        program.wait_for(lambda err: " on CPU" in err)
    time.sleep(delay)
    program.send(number)
    return program.wait()


def _problem_of_killed(outcome: Outcome, number: int) -> str | None:
    """Says why a killed program ended wrongly; None if the signal ended it, or it was faster."""
    if outcome.status in (0, -signal.SIGKILL if number == signal.SIGKILL else 128 + number):
        return None if "Traceback" not in outcome.err else "stack trace"
    return misbehaviour(outcome) or f"status {outcome.status} after signal {number}"


def _killed_training(number: int, seed: int):
    def attempt(base: Base, folder: Path) -> Verdicts:
        model = folder / "model"
        argv = base.flags(model_dir=model, mode="train", train_steps=STEPS)
        whole = _timed("mnasnet_main", [*argv, f"--model_dir={folder / 'whole'}"], folder / "run")
        reached = 0
        for kill in range(KILLS):
            # Each training has other moments, so that together they cover the run closely.
            delay = whole * (kill + (seed + 0.5) / TRAININGS) / KILLS
            outcome = _kill(Program("mnasnet_main", argv, folder / "run"), number, delay)
            before, reached = reached, max(complete_steps(model), default=0)
            yield _problem_of_killed(outcome, number) or _lost(outcome, before, reached)
        outcome = run("mnasnet_main", argv, folder / "run")
        yield finished(outcome) or _lost(outcome, reached, max(complete_steps(model), default=0))

    return attempt


def _lost(outcome: Outcome, before: int, after: int) -> str | None:
    """Says what a run lost of the steps before it; None if nothing."""
    if after < before:
        return f"the newest complete checkpoint was of step {before} and is of step {after}"
    resumed = re.search(r"from step (\d+)", outcome.err)
    if resumed and int(resumed[1]) != before:
        return f"resumed from step {resumed[1]} instead of {before}"
    return None


def _killed_export(part: int):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy, target = base.copy(folder), folder / "export"
        argv = copy.flags(mode="export_only", export_dir=target)
        earlier = [*argv, f"--export_checkpoint={copy.model / 'model.ckpt-2'}"]
        whole = _timed("mnasnet_main", earlier, folder / "run")
        outcome = _kill(
            Program("mnasnet_main", argv, folder / "run"), signal.SIGKILL, whole * part / MOMENTS
        )
        reports = list(folder.glob("export*/export_report.json"))
        problem = _problem_of_killed(outcome, signal.SIGKILL)
        yield problem or (None if any(map(_whole, reports)) else "no whole export is left")
        yield finished(run("mnasnet_main", argv, folder / "run"))
        yield None if _whole(target / "export_report.json") else "the export is not whole"

    return attempt


def _whole(report: Path) -> bool:
    """Says whether all files that an export's report lists are there."""
    names = json.loads(report.read_text())["files"]
    return bool(names) and all((report.parent / name).exists() for name in names)


def _killed_builder(name: str, part: int):
    def attempt(base: Base, folder: Path) -> Verdicts:
        arguments = {
            "fake": ["fake", "--num_train=48", "--num_validation=8"],
            "fake in a task": ["fake", "--num_train=48", "--num_validation=8", "--task=0/1"],
            "folder": ["folder", f"--input_dir={base.pictures}", "--validation_share=0.5"],
            "sample": ["sample"],
        }[name]

        def argv(target):
            return [*arguments, f"--output_dir={folder / target}"]

        whole = _timed("utils.data", argv("clean"), folder / "run")
        program = Program("utils.data", argv("killed"), folder / "run")
        outcome = _kill(program, signal.SIGKILL, whole * part / MOMENTS)
        yield _problem_of_killed(outcome, signal.SIGKILL)
        yield finished(run("utils.data", argv("killed"), folder / "run"))
        same = _content(folder / "killed") == _content(folder / "clean")
        yield None if same else "the data set differs from one built without a kill"

    return attempt


def _content(folder: Path) -> dict[str, bytes]:
    """Returns the content of each file of a folder by its name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
