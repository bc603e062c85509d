"""What all of the campaign starts from: a tiny trained network with data, exports and weights."""

import dataclasses
import pathlib
import shutil

import pytest
from console_commands import main_of
from main_runs import run_here
from programs import TINY_NETWORK

SETTINGS = {
    "model_spec": TINY_NETWORK,
    "input_image_size": 32,
    "train_batch_size": 8,
    "eval_batch_size": 8,
    "train_steps": 4,
    "steps_per_eval": 4,
    "save_checkpoints_steps": 2,
    "eval_timeout": 1,
    "tf_random_seed": 1,
    "add_summaries": False,
}


@dataclasses.dataclass
class Base:
    """A folder with `data`, `model` (its export within), `weights.safetensors` and `pictures`."""

    folder: pathlib.Path

    def flags(self, **given):
        """The flags of a training of seconds; a value replaces or adds one."""
        values = {
            **SETTINGS,
            "data_dir": self.folder / "data",
            "model_dir": self.folder / "model",
            **given,
        }
        return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    base = Base(tmp_path_factory.mktemp("campaign"))
    data, model = base.folder / "data", base.folder / "model"
    counts = ["--num_train=24", "--num_validation=8", "--num_classes=4"]
    main_of("mnasnet-data")(["x", "fake", f"--output_dir={data}", *counts])
    run_here(*base.flags(export_dir=model / "export"))
    weights = base.folder / "weights.safetensors"
    main_of("mnasnet-export-weights")(["x", f"--model_dir={model}", f"--output={weights}"])
    images = pathlib.Path(__file__).parents[1] / "golden" / "images"
    for name in ("chelsea", "coffee"):
        (base.folder / "pictures" / name).mkdir(parents=True)
        shutil.copy(images / f"{name}.jpg", base.folder / "pictures" / name)
    return base


@pytest.fixture
def base(whole, tmp_path, monkeypatch):
    """A copy that may be damaged, next to the working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Base(shutil.copytree(whole.folder, tmp_path / "base"))


@pytest.fixture
def answer(run_as_program):
    """Runs a main function, which must succeed or refuse in one sentence; returns the status."""

    def run(main, *arguments):
        status, err = run_as_program(main, *map(str, arguments))
        errors = [line for line in err.splitlines() if "error: " in line]
        assert "Traceback" not in err and "this is a bug" not in err, err
        assert status in (0, 1, 2) and len(errors) == bool(status), err
        return status

    return run
