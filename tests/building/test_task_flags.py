"""Tests of --task and --finish on the command line of the builders."""

import logging
import shutil

import picture_files
import pytest
from built_data import content

from utils import data as command
from utils.base.errors import UserError

SYNSETS = ("n01440764", "n01443537")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The flags that name the input of each builder, with pictures for eight files or more."""
    root = tmp_path_factory.mktemp("sources")
    for number in range(24):
        name = f"{number:02d}.JPEG"
        for path in (
            root / "letters" / "ab"[number % 2] / name,
            root / "ilsvrc" / "train" / SYNSETS[number % 2] / name,
            root / "ilsvrc" / "validation" / name,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture_files.jpeg(number))
    (root / "letters" / "a" / "turned.jpg").write_bytes(
        picture_files.jpeg(exif=picture_files.exif(6))
    )
    (root / "letters" / "b" / "bad.jpg").write_bytes(b"bad")
    (root / "labels.txt").write_text("".join(f"{SYNSETS[n % 2]}\n" for n in range(24)))
    split = ["--train_shards=7", "--validation_shards=3"]
    return root, {
        "folder": [f"--input_dir={root}/letters", "--max_bad_share=0.1", *split],
        "imagenet": [
            f"--input_dir={root}/ilsvrc", f"--validation_labels={root}/labels.txt", *split,
        ],
        "fake": ["--num_train=40", "--num_validation=10"],
    }  # fmt: skip


def run(builder, flags, target, *more):
    return command.main(["x", builder, f"--output_dir={target}", *flags, *more])


@pytest.mark.parametrize("builder", ["folder", "imagenet", "fake"])
def test_four_tasks_build_what_one_command_builds(tmp_path, sources, builder):
    flags = sources[1][builder]
    run(builder, flags, tmp_path / "one")
    clean = content(tmp_path / "one")
    for number in range(4):
        assert "dataset_info.json" not in content(tmp_path)
        run(builder, flags, tmp_path / "four", f"--task={number}/4")
    assert content(tmp_path / "four") == clean
    assert ("unreadable.txt" in clean) == (builder == "folder")


def test_each_machine_may_have_a_copy_of_the_pictures(tmp_path, sources):
    root, flags = sources
    copy = tmp_path / "copy" / "letters"
    shutil.copytree(root / "letters", copy, copy_function=shutil.copyfile)
    run("folder", flags["folder"], tmp_path / "out", "--task=0/2")
    more = copy / "b" / "more.jpg"
    more.write_bytes(picture_files.jpeg(99))
    own = [f"--input_dir={copy}", *flags["folder"][1:]]
    with pytest.raises(UserError, match="class 'b' has 13 pictures for train here and 12 there"):
        run("folder", own, tmp_path / "out", "--task=1/2")
    more.unlink()
    run("folder", own, tmp_path / "out", "--task=1/2")
    run("folder", flags["folder"], tmp_path / "one")
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_a_data_set_that_is_there_already(tmp_path, sources, caplog):
    flags = sources[1]["folder"]
    run("folder", flags, tmp_path)
    before = content(tmp_path)
    for more in ("--task=1/4", "--finish"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "absl"):
            run("folder", flags, tmp_path, more)
        assert f"{tmp_path} is there already: " in caplog.text
        with pytest.raises(UserError, match="holds another data set"):
            run("folder", flags, tmp_path, "--seed=1", more)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--task=4/4"], "tasks are numbered from 0, so the last of 4 is 3/4"),
        (["--task=0/0"], "there must be 1 to 10000 tasks"),
        (["--task=0/10001"], "there must be 1 to 10000 tasks"),
        (["--task=-1/4"], "it must be I/N, such as 0/4 for the first of 4 tasks"),
        (["--task=/4"], "it must be I/N"),
        (["--task=2"], "it must be I/N"),
        (["--task=1.0/4"], "it must be I/N"),
        (["--task=0/4", "--finish"], "--finish: not allowed with argument --task"),
    ],
)
def test_impossible_flags(tmp_path, capsys, given, words):
    with pytest.raises(SystemExit) as stop:
        run("fake", [], tmp_path / "out", *given)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
