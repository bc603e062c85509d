"""Section `state`: damaged files of the program's own, next to a model and its data.

Each mode must go ahead or refuse in one sentence, and no checkpoint may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.kills import complete_steps
from campaign.processes import finished_or_refused, run

_FILES = (
    "model/checkpoint", "model/evaluations.json", "model/archive/best.json", "model/params.yaml",
    "model/labels.txt", "model/export/export_report.json", "data/dataset_info.json",
    "data/labels.txt",
)  # fmt: skip
_CONTENTS = {
    "empty": b"", "null": b"null", "a list": b"[]", "a number": b"3", "a text": b'"text"',
    "a mapping": b"{}", "binary": bytes(range(256)), "lists of lists": b"[[1], [2]]",
    "a mapping of nulls": b'{"global_step": null, "files": null}',
    "a list of nulls": b"[null, {}]",
}  # fmt: skip
_MODES = ("train_and_eval", "eval", "export_only")


def cases() -> list[Case]:
    """Lists each file with each damage, for each mode."""
    changes: dict[str, Callable[[bytes], bytes]] = {
        **{name: (lambda _, new=new: new) for name, new in _CONTENTS.items()},
        "cut in half": lambda content: content[: len(content) // 2],
        "garbled": lambda content: content.replace(b'"', b"\0").replace(b":", b"\xff"),
        "numbers as texts": lambda content: content.replace(b": ", b": x"),
    }
    return [
        Case(f"{file}: {name}, mode={mode}", _damaged(file, change, mode))
        for file in _FILES
        for name, change in changes.items()
        for mode in _MODES
    ]


def _damaged(file: str, change: Callable[[bytes], bytes], mode: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy = base.copy(folder)
        path = copy.folder / file
        path.write_bytes(change(path.read_bytes()))
        outcome = run(
            "mnasnet_main",
            copy.flags(mode=mode, train_steps=6, export_dir=copy.model / "export"),
            folder,
        )
        kept = complete_steps(copy.model)
        lost = None if kept and max(kept) >= 4 else f"complete checkpoints left: {kept}"
        yield finished_or_refused(outcome) or lost

    return attempt
