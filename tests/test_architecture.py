"""g3doc/architecture.md names only paths that exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYOUT = ROOT / "g3doc/architecture.md"


def test_the_layout_names_paths_that_exist():
    text = LAYOUT.read_text()
    paths = {name for name in re.findall(r"`([\w./]*[/.][\w./]*)`", text) if "NAME" not in name}
    assert len(paths) > 20
    for name in paths:
        places = (ROOT / name, ROOT / "utils" / name, ROOT / "utils" / f"{name}.py")
        assert any(place.exists() for place in places), name
