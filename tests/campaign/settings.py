"""Section `settings`: invalid values of every setting, as a flag and in a file.

Each must end in one sentence. None can start a training, because --data_dir does not exist.
"""

from __future__ import annotations

from pathlib import Path

import hostile_settings

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.processes import refused, run
from utils.config.settings import SETTINGS

_WRONG = {
    int: ("abc", "", "nan", "1.5", "[]", "0x1F", "-1", "1e999", "9" * 400),
    float: ("abc", "", "nan", "inf", "[]", "0x1F", "-1", "1e999", "1,5"),
    bool: ("maybe", "2", "[]", "None"),
    str: ("[", "{}", "*", "a\nb", "ü" * 300, "x" * 5000),
    object: ("[", "3", "/nonexistent/spec.yaml", "", "x" * 5000),
}


def cases() -> list[Case]:
    """Lists the table of hostile settings, and wrong values of the type of every setting."""
    hostile = [
        Case(" ".join(arguments)[:60], _hostile(arguments, part))
        for arguments, part in hostile_settings.CASES
    ]
    return hostile + [
        Case(f"{name}={value[:20]!r} in {layer}", _wrong(name, value, layer))
        for name, setting in SETTINGS.items()
        for value in _WRONG[setting.kind]
        for layer in ("a flag", "a file")
    ]


def _hostile(arguments: list[str], part: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        hostile_settings.write_files(folder)
        argv = hostile_settings.with_folder(arguments, folder)
        yield refused(run("mnasnet_main", argv, folder), part)

    return attempt


def _wrong(name: str, value: str, layer: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        file = folder / "settings.yaml"
        file.write_text(f"{name}: {value}\n")
        given = {"a flag": f"--{name}={value}", "a file": f"--config_file={file}"}[layer]
        missing = f"--data_dir={folder}/missing"
        argv = [f"--model_dir={folder}/model", f"--model_spec={base.spec}", missing, given]
        outcome = run("mnasnet_main", argv, folder)
        problem = refused(outcome)
        # Another mode or another --data_dir (null among them) may need no data, or find some.
        if outcome.status == 0 and name in ("mode", "data_dir"):
            problem = None
        lost = (folder / "model" / "checkpoint").exists()
        yield problem or ("a checkpoint was written" if lost else None)

    return attempt
