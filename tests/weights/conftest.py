"""Models imported from golden files, each imported once for all tests of this folder."""

import functools

import golden_files
import pytest
from imported_models import source_of, write

from utils.weights import conversion


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """Golden file's name -> (its content, a model_dir that tests only read)."""

    @functools.cache
    def once(name):
        golden = golden_files.read(name)
        folder = tmp_path_factory.mktemp(name)
        path = write(folder / "weights.safetensors", golden)
        model_dir = str(folder / "model")
        conversion.import_state_dict(path, model_dir, source_of(golden))
        return golden, model_dir

    return once
