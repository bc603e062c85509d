"""Section `file_system`: wrong places behind flags, and disks that are full."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.places import PLACES
from campaign.processes import finished, finished_or_refused, run

_FLAGS = (
    "data_dir", "model_dir", "export_dir", "init_checkpoint", "config_file", "model_spec",
    "export_checkpoint",
)  # fmt: skip
_BYTES_LEFT = (0, 100, 2_000, 50_000)


def cases() -> list[Case]:
    """Lists each flag with each wrong place, and each program that writes on a full disk."""
    wrong = [
        Case(f"--{flag} is {kind}", _wrong_place(flag, kind)) for flag in _FLAGS for kind in PLACES
    ]
    full = [
        Case(f"{name} on a disk with {size} bytes left", _full_disk(name, size))
        for name in _WRITERS
        for size in _BYTES_LEFT
    ]
    return wrong + full


def _wrong_place(flag: str, kind: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        place = PLACES[kind](folder)
        given = {"model_dir": folder / "model", "mode": "train_and_eval"}
        if flag == "export_checkpoint":
            given = {"model_dir": base.copy(folder).model, "mode": "export_only"}
            given["export_dir"] = folder / "export"
        outcome = run("mnasnet_main", base.flags(**{**given, flag: place}), folder)
        yield finished_or_refused(outcome)

    return attempt


# Name -> (module, what makes its arguments from the base and a new path).
_WRITERS: dict[str, tuple[str, Callable[[Base, Path], list]]] = {
    "training": ("mnasnet_main", lambda base, new: base.flags(model_dir=new)),
    "export": ("mnasnet_main", lambda base, new: base.flags(mode="export_only", export_dir=new)),
    "building": ("utils.data", lambda base, new: ["fake", f"--output_dir={new}", "--num_train=8"]),
    "weights": (
        "utils.export_weights",
        lambda base, new: [f"--model_dir={base.model}", f"--output={new}.safetensors"],
    ),
    "import": (
        "utils.import_weights",
        lambda base, new: [f"--weights={base.weights}", f"--model_dir={new}"],
    ),
}


def _full_disk(name: str, size: int):
    def attempt(base: Base, folder: Path) -> Verdicts:
        module, arguments = _WRITERS[name]
        copy = base.copy(folder)
        limits = {resource.RLIMIT_FSIZE: size}
        argv = arguments(copy, folder / "new")
        outcome = run(module, argv, folder, limits)
        yield finished_or_refused(outcome)
        if outcome.status:  # the same command must succeed once there is room again
            yield finished(run(module, argv, folder))

    return attempt
