"""g3doc/architecture.md: it lists all modules, and names only paths that exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYOUT = ROOT / "g3doc/architecture.md"


def modules_in(folder):
    """Returns the names of the modules in a folder that a reader may look for."""
    names = {path.stem for path in folder.glob("*.py")}
    return names - {"__init__", "__main__", "setup"}


def test_the_layout_lists_every_module_in_its_place():
    rows = re.findall(
        r"^\| (the root|`utils/\w*/?`|`bench/`) \| .* \| (.*) \|$", LAYOUT.read_text(), re.M
    )
    listed = {
        ROOT / ("" if place == "the root" else place.strip("`")): set(re.findall(r"`(\w+)`", cell))
        for place, cell in rows
    }
    packages = {path.parent for path in ROOT.glob("[bu]*/**/__init__.py")}
    assert listed == {folder: modules_in(folder) for folder in packages | {ROOT}}


def test_the_layout_names_paths_that_exist():
    text = LAYOUT.read_text()
    paths = {name for name in re.findall(r"`([\w./]*[/.][\w./]*)`", text) if "NAME" not in name}
    assert len(paths) > 20
    for name in paths:
        places = (ROOT / name, ROOT / "utils" / name, ROOT / "utils" / f"{name}.py")
        assert any(place.exists() for place in places), name
