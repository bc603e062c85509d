"""Makes what attempts start from: a tiny trained network with its data, exports and weights."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

from campaign import processes
from utils.reading import records

SPEC = "name: tiny\nstages: [r1_k3_s22_e1_i8_o8]\nstem_size: 8\nhead_size: 16\n"


@dataclasses.dataclass
class Base:
    """A folder that attempts start from; they change copies of it."""

    folder: Path

    def __post_init__(self):
        self.data, self.model = self.folder / "data", self.folder / "model"
        self.spec, self.weights = self.folder / "tiny.yaml", self.folder / "tiny.safetensors"
        self.pictures = self.folder / "pictures"

    def flags(self, **given) -> list[str]:
        """Returns the flags of a training of seconds; a value of None leaves a flag out."""
        values = {
            "data_dir": self.data, "model_dir": self.model, "model_spec": self.spec,
            "input_image_size": 32, "train_batch_size": 8, "eval_batch_size": 8,
            "num_label_classes": 4, "train_steps": 4, "steps_per_eval": 4,
            "save_checkpoints_steps": 2, "eval_timeout": 1, "tf_random_seed": 1, **given,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in values.items() if value is not None]

    def copy(self, folder: Path) -> Base:
        """Makes a copy that may be damaged."""
        shutil.copytree(self.folder, folder / "base", ignore=shutil.ignore_patterns("runs"))
        return Base(folder / "base")


def make_base(folder: Path) -> Base:
    """Builds a data set, trains, exports and writes weights, with the package's own programs."""
    base = Base(folder)
    folder.mkdir(parents=True)
    base.spec.write_text(SPEC)
    counts = ["--num_train=24", "--num_validation=8", "--num_classes=4"]
    for module, argv in (
        ("utils.data", ["fake", f"--output_dir={base.data}", *counts]),
        ("mnasnet_main", base.flags(export_dir=base.model / "export")),
        ("utils.export_weights", [f"--model_dir={base.model}", f"--output={base.weights}"]),
    ):
        outcome = processes.run(module, argv, folder / "runs")
        problem = processes.finished(outcome)
        assert problem is None, problem
    _write_pictures(base)
    return base


def _write_pictures(base: Base) -> None:
    """Writes two folders of pictures from the data set."""
    paths = records.list_files(str(base.data), "train-")
    for number, record in enumerate(itertools.islice(records.read_records(paths[0]), 12)):
        place = base.pictures / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(records.unpack(record, paths[0], number)[0])
