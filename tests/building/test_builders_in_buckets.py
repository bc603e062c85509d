"""Tests of data sets that are built from and into buckets of a real server."""

import built_data
import picture_files
import pytest

from utils import data as data_command
from utils.base import files
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf


def build(pictures, output_dir):
    return data_command.main(
        ["x", "folder", f"--input_dir={pictures}", f"--output_dir={output_dir}"]
    )


def inspect(data_dir, capsys):
    status = data_command.main(["x", "inspect", f"--data_dir={data_dir}", "--no_duplicates"])
    return status, capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path):
    """A local folder of two classes."""
    for number in range(24):
        name = f"train/{'a cat' if number % 2 else 'dog'}/{number}.jpg"
        name = name if number < 16 else name.replace("train", "validation")
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_files.jpeg(number))
    return str(tmp_path / "pictures")


def test_from_a_bucket_to_a_bucket(gcs, gs_bucket, pictures, tmp_path, capsys):
    """The data set is the same as on a disk, although one look-up in ten fails."""
    build(pictures, tmp_path / "local")
    source, target = f"{gs_bucket}/pictures", f"{gs_bucket}/made"
    with gcs.failing(503, "stat", "list", every=10):
        files.copy(pictures, source)
        build(source, target)
        assert inspect(target, capsys)[0] == 0
    made = built_data.content(gcs.root / target.removeprefix("gs://"))
    assert made == built_data.content(tmp_path / "local")
    with gcs.counted() as requests:
        build(source, target)
    assert len(requests) <= 12, "\n".join(map(str, requests))  # it is there already


def test_a_contact_sheet_reads_a_file_once(gcs, gs_bucket, pictures, capsys):
    """A bucket sends a file from the asked byte on, megabytes of it, however little is read."""
    target = f"{gs_bucket}/made"
    build(pictures, target)
    capsys.readouterr()
    with gcs.counted() as requests:
        status = data_command.main(
            [
                "x",
                "inspect",
                f"--data_dir={target}",
                "--no_duplicates",
                f"--contact_sheet={gs_bucket}/sheet.png",
            ]
        )
    assert status == 0 and "16 pictures of train" in capsys.readouterr().out
    reads = [r for r in requests if r.kind == "read" and "/train-" in r.path]
    assert len(reads) <= 4  # scan and sheet, each after a look at the compression


def test_a_file_that_was_lost_is_built_again(gcs, gs_bucket, pictures):
    target = f"{gs_bucket}/made"
    build(pictures, target)
    folder = gcs.root / target.removeprefix("gs://")
    before = built_data.content(folder)
    tf.io.gfile.remove(f"{target}/validation-00000-of-00001")
    build(pictures, target)
    assert built_data.content(folder) == before


def test_a_build_that_a_server_ends_goes_on(gcs, gs_bucket, pictures):
    target = f"{gs_bucket}/made"
    with gcs.failing(503, "copy"), pytest.raises(UserError, match="cannot be written: HTTP status"):
        build(pictures, target)
    build(pictures, target)
    names = set(built_data.content(gcs.root / target.removeprefix("gs://")))
    assert {"dataset_info.json", "labels.txt", "train-00000-of-00001"} < names
    assert not [name for name in names if "tmp" in name or "lock" in name]
