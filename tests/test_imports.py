"""Tests of the order of the folders, and of the size of folders and modules."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NETWORK = ("preprocessing", "mnasnet_model", "mnasnet_models")
# What each place may import besides itself; 'network' stands for the three modules of NETWORK.
_BELOW_TRAINING = {
    "base", "cluster", "network", "config", "reading", "pictures", "imagenet_input",
}  # fmt: skip
_BELOW_MAIN = {
    *_BELOW_TRAINING, "training", "features", "exporting", "reporting", "weights", "running",
}  # fmt: skip
MAY_IMPORT = {
    "mnasnet_start": set(),
    "base": {"mnasnet_start"},
    "network": {"base", "mnasnet_start"},
    "config": {"base", "network"},
    "reading": {"base", "network"},
    "pictures": {"base", "network", "reading"},
    "cluster": {"base"},
    "imagenet_input": {"base", "network", "config", "reading", "mnasnet_start"},
    "inspecting": {"base", "network", "reading", "pictures"},
    "sharding": {"base", "network", "reading", "pictures"},
    "data": {*_BELOW_TRAINING, "inspecting", "sharding"},
    "training": _BELOW_TRAINING,
    "features": {*_BELOW_TRAINING, "training"},
    "exporting": {*_BELOW_TRAINING, "training"},
    "reporting": {*_BELOW_TRAINING, "training", "exporting"},
    "weights": {*_BELOW_TRAINING, "training"},
    "running": {*_BELOW_TRAINING, "training", "weights"},
    "demo": {*_BELOW_TRAINING, "training", "exporting"},
    "mnasnet_main": {*_BELOW_MAIN, "mnasnet_start"},
    "environments": {"base"},
    "tpu_check": {*_BELOW_MAIN, "mnasnet_main", "environments"},
    "check_exports": {*_BELOW_TRAINING, "exporting", "environments"},
    "benchmarks": {*_BELOW_MAIN, "mnasnet_main", "data"},
    "command": {*_BELOW_MAIN, "mnasnet_main", "data", "demo", "reporting"},
}
MOST_MODULES = 14  # of a folder, beyond which it no longer explains itself
MOST_LINES = {"mnasnet_main": 420}
MOST_LINES_ELSEWHERE = 400


def modules():
    """Returns the paths of the package's modules by their dotted names."""
    paths = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    paths += ROOT.glob("utils/**/*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


MODULES = modules()


def place(module):
    """Returns the place of a dotted name in the order; None for a module of another package."""
    first, *rest = module.split(".")
    if first in NETWORK:
        return "network"
    if first in MAY_IMPORT:
        return first
    if first != "utils" or not rest:
        return None
    return rest[0] if (ROOT / "utils" / rest[0]).is_dir() else "command"


def imported(source):
    """Returns the dotted names that a source imports, inside functions too."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def wrong_imports(module, source):
    """Returns the imports of a module that run against the order."""
    own = place(module)
    allowed = {None, own, *MAY_IMPORT[own]} - {"command"}
    return [name for name in imported(source) if place(name) not in allowed]


@pytest.mark.parametrize("module", [name for name in MODULES if place(name)])
def test_imports_go_one_way(module):
    assert wrong_imports(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("utils.base.files", "from utils.reading import records", True),
        ("utils.base.files", "def f():\n    import utils.reading.records", True),
        ("utils.base.files", "import mnasnet_model", True),
        ("utils.base.files", "from utils.base import errors\nimport os", False),
        ("mnasnet_start", "from utils.base import program", True),
        ("utils.config.settings", "from utils.reading.records import list_files", True),
        ("utils.sharding.shards", "from utils.training import inputs", True),
        ("utils.sharding.shards", "from utils.reading import records", False),
        ("utils.sharding.tasks", "from utils.data import shared_arguments", True),
        ("utils.inspecting.splits", "from utils.sharding import shards", True),
        ("utils.training.inputs", "import mnasnet_main", True),
        ("utils.exporting.export", "from utils.weights import conversion", True),
        ("mnasnet_model", "from utils.config import settings", True),
        ("utils.reporting.models", "import mnasnet_main", True),
        ("mnasnet_main", "from utils import classify", True),
        ("mnasnet_main", "from utils.tpu_check import tpu_program", True),
        ("utils.classify", "from utils import evaluate", True),
        ("utils.benchmarks.input", "import mnasnet_main", False),
    ],
)
def test_an_import_against_the_order_is_found(module, source, wrong):
    assert bool(wrong_imports(module, source)) is wrong


FOLDERS = [path.parent.name for path in ROOT.glob("utils/*/__init__.py")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_few_modules(folder):
    names = {path.stem for path in (ROOT / "utils" / folder).glob("*.py")}
    assert len(names - {"__init__", "__main__"}) <= MOST_MODULES


def test_every_folder_has_its_place():
    assert set(FOLDERS) <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short(module):
    lines = MODULES[module].read_text().count("\n")
    assert lines <= MOST_LINES.get(module, MOST_LINES_ELSEWHERE)
