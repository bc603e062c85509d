"""Tests of files in a bucket of a real server: what is asked for, and what errors say."""

import os
import re

import pytest
from gcs_requests import counts

from utils.base import files
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf


def test_a_file_is_written_whole_in_two_requests(gcs, gs_bucket):
    path = f"{gs_bucket}/folder/file"
    with gcs.counted() as requests:
        files.write_text(path, "first")
        files.write_text(path, "second")
    assert counts(requests) == {"begin": 2, "upload": 2}
    assert files.read_text(path) == "second"
    with gcs.failing(403, "begin"), pytest.raises(UserError, match="cannot be written: HTTP stat"):
        files.write_text(path, "third")
    assert files.read_text(path) == "second"
    assert files.names(f"{gs_bucket}/folder") == ["file"]


def test_a_folder_is_copied_renamed_and_removed(gs_bucket, tmp_path):
    for name in ("saved_model.pb", "variables/index", "assets/a/b.txt"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    files.copy(str(tmp_path / "tree"), f"{gs_bucket}/copy")
    files.rename(f"{gs_bucket}/copy", f"{gs_bucket}/renamed")
    assert sorted(files.names(f"{gs_bucket}/renamed")) == ["assets", "saved_model.pb", "variables"]
    assert files.read_text(f"{gs_bucket}/renamed/assets/a/b.txt") == "assets/a/b.txt"
    assert files.names(f"{gs_bucket}/copy") == []
    files.remove(f"{gs_bucket}/renamed")
    files.remove(f"{gs_bucket}/renamed")  # is not there: nothing to do
    assert files.names(gs_bucket) == []


def test_the_bucket_itself_is_not_asked_for(gcs, gs_bucket):
    """A role that may write objects does not allow that."""
    with gcs.failing(403, "bucket"):
        files.make_writable_dir(f"{gs_bucket}/a/b", "model_dir")
        files.make_writable_dir(f"{gs_bucket}/a/b", "model_dir")
        files.make_dirs(f"{gs_bucket}/c/d")
        files.write_text(f"{gs_bucket}/c/d/file", "x")
    assert tf.io.gfile.isdir(f"{gs_bucket}/c/d")


def test_a_folder_that_cannot_be_listed_is_not_empty(gcs, gs_bucket):
    files.write_text(f"{gs_bucket}/folder/file", "x")
    for status in (403, 503):
        with gcs.failing(status, "list"), pytest.raises(tf.errors.OpError) as error:
            files.names(f"{gs_bucket}/folder")
        assert files.is_of_bucket(error.value)
        assert f"HTTP status {status}" in files.reason(error.value)


def test_what_an_error_of_a_bucket_says(gcs, gs_bucket):
    path = os.path.join(gs_bucket, "x")
    said = {
        403: f"HTTP status 403 when reading metadata of {path} \\(.*storage.objects.get.*\\)",
        503: f"HTTP status 503, the last of 11 times, when reading metadata of {path} \\(.*\\)",
        0: f"Server returned nothing .*, the last of 11 times, when reading metadata of {path}",
    }
    for status, expected in said.items():
        with gcs.failing(status), pytest.raises(tf.errors.OpError) as error:
            tf.io.gfile.exists(path)
        assert re.fullmatch(expected, files.reason(error.value))


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.AbortedError(None, None, "the session ended"),
        OSError("gs://b"),
        None,
        tf.errors.NotFoundError(None, None, "gs://b/x is not there"),
    ],
)
def test_other_errors_are_not_of_a_bucket(error):
    assert not files.is_of_bucket(error)
