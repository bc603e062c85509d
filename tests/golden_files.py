"""Reads golden files and compares with them."""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "golden"
IMAGES = FOLDER / "images"


def read(name):
    """The content of golden/NAME.json."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def picture(name):
    """The bytes of golden/images/NAME."""
    return (IMAGES / name).read_bytes()


def assert_close(golden, ours, tolerance=1e-3, path=""):
    """Numbers within `tolerance` of the golden ones (relative, above 0.01); all else equal."""
    if isinstance(golden, dict):
        assert set(golden) == set(ours), path
        for key in golden:
            assert_close(golden[key], ours[key], tolerance, f"{path}/{key}")
    elif isinstance(golden, list):
        assert len(golden) == len(ours), path
        for index, (expected, value) in enumerate(zip(golden, ours, strict=True)):
            assert_close(expected, value, tolerance, f"{path}[{index}]")
    elif isinstance(golden, float):
        # So written that a NaN fails.
        assert abs(golden - ours) <= tolerance * max(1e-2, abs(golden)), f"{path}: {golden}, {ours}"
    else:
        assert golden == ours, path
