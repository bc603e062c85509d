"""Pictures to export with, and folders to export to."""

import glob
import pathlib
import uuid

import pytest


@pytest.fixture(scope="session")
def pictures(digits_dir):
    return [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(digits_dir + "/pictures/*"))]


@pytest.fixture(params=["folder", "bucket"])
def target(request, tmp_path):
    """A folder that is not there yet, on disk or in a bucket."""
    return f"{tmp_path}/made" if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}/made"
