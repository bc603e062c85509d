"""Models imported from golden files, each imported once for all tests of this folder; a hub."""

import functools

import golden_files
import pytest
from hub_server import hub  # noqa: F401  (a fixture)
from imported_models import write

from utils.weights import conversion


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """Golden file's name -> (its content, a model_dir that tests only read)."""

    @functools.cache
    def once(name):
        golden = golden_files.read(name)
        folder = tmp_path_factory.mktemp(name)
        path = write(folder / "weights.safetensors", golden)
        # Two networks fit the files of EfficientNet-Lite0.
        source = f"timm:{golden['model']}" if "efficientnet" in name else None
        conversion.import_weights(path, str(folder / "model"), source)
        return golden, str(folder / "model")

    return once
