"""Section `records`: trainings on damaged TFRecord files, with and without --skip_bad_images."""

from __future__ import annotations

from pathlib import Path

import damaged_records

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.processes import finished_or_refused, refused, run


def cases() -> list[Case]:
    """Lists every damaged file twice: it must be refused, or may be read where records may go."""
    return [
        Case(f"{damage.name}, skip_bad_images={skip}", _damaged(damage, skip))
        for damage in damaged_records.all_damages()
        for skip in (False, True)
    ]


def _damaged(damage: damaged_records.Damage, skip: bool):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy = base.copy(folder)
        (path,) = copy.data.glob("train-*")
        path.write_bytes(damage.content)
        (copy.data / "dataset_info.json").unlink()
        outcome = run(
            "mnasnet_main",
            copy.flags(model_dir=folder / "new", num_eval_images=8, skip_bad_images=skip),
            folder,
        )
        yield (finished_or_refused if skip else refused)(outcome, "train-")

    return attempt
