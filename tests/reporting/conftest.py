"""A training with its report, run once for all tests of this folder."""

import pytest
import yaml
from exports import SPEC
from main_runs import run_here


@pytest.fixture(scope="session")
def trained(digits_dir, tmp_path_factory):
    """The model_dir of a tiny network that learned the digits a little, with its report."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPEC))
    run_here(
        "--config_file=sample", f"--model_spec={folder}/tiny.yaml", f"--data_dir={digits_dir}",
        f"--model_dir={folder}/model", "--report",
        "--input_image_size=32", "--train_steps=20", "--steps_per_eval=10", "--train_batch_size=16",
        "--log_step_count_steps=5", "--moving_average_decay=0",
    )  # fmt: skip
    return str(folder / "model")
