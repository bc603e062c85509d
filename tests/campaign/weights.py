"""Section `weights`: files that are not weights, or strange ones, given to import and listing."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import hostile_weights

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.processes import MEMORY_LIMIT, finished_or_refused, run

_EVERY = 4  # tests/weights/test_hostile_weights.py tries all of them, in one process


def cases() -> list[Case]:
    """Lists every fourth of the hostile weights files that are refused quickly."""
    return [
        Case(f"{name} ({file_name})", _hostile(file_name, content))
        for name, file_name, content in itertools.islice(hostile_weights.quick(), 0, None, _EVERY)
    ]


def _hostile(file_name: str, content: bytes):
    def attempt(base: Base, folder: Path) -> Verdicts:
        file, model = folder / file_name, folder / "model"
        file.write_bytes(content)
        limits = {resource.RLIMIT_AS: MEMORY_LIMIT}
        for module, argv in (
            ("utils.import_weights", [f"--weights={file}", f"--model_dir={model}"]),
            ("utils.checkpoint_tool", ["list", file]),
        ):
            outcome = run(module, argv, folder, limits)
            left = outcome.status and (model / "checkpoint").exists()
            problem = finished_or_refused(outcome)
            yield problem or ("a refused import left a model" if left else None)

    return attempt
