"""Imports go one way through the folders."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
NETWORK = ("preprocessing", "mnasnet_model", "mnasnet_models")
# What each place may import besides itself; 'network' stands for the three modules of NETWORK.
_BELOW_TRAINING = {
    "base",
    "workers",
    "network",
    "config",
    "reading",
    "imagenet_input",
}
_BELOW_MAIN = {
    *_BELOW_TRAINING,
    "training",
    "exporting",
    "weights",
    "running",
    "showing",
}
MAY_IMPORT = {
    "base": set(),
    "network": {"base"},
    "config": {"base", "network"},
    "reading": {"base", "network"},
    "workers": {"base"},
    "imagenet_input": {"base", "network", "config", "reading"},
    "building": _BELOW_TRAINING,
    "training": _BELOW_TRAINING,
    "exporting": {*_BELOW_TRAINING, "training"},
    "weights": {*_BELOW_TRAINING, "training"},
    "running": {*_BELOW_TRAINING, "training", "weights"},
    "showing": {*_BELOW_TRAINING, "training", "exporting"},
    "mnasnet_main": _BELOW_MAIN,
    "checks": {"base"},
    "bench": {*_BELOW_MAIN, "mnasnet_main", "building", "command"},
    "command": {*_BELOW_MAIN, "mnasnet_main", "checks", "building"},
}


def modules():
    """Returns the paths of the package's modules by their dotted names."""
    paths = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    paths += [*ROOT.glob("utils/**/*.py"), *ROOT.glob("bench/*.py")]
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
    allowed = {None, *MAY_IMPORT[own]} | ({own} - {"command"})
    return [name for name in imported(source) if place(name) not in allowed]


def test_imports_go_one_way():
    wrong = {
        module: wrong_imports(module, path.read_text())
        for module, path in MODULES.items()
        if place(module)
    }
    assert len(wrong) > 50 and not any(wrong.values()), wrong
