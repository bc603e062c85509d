"""Tests of reading and writing files."""

import json
import os
import pathlib
import pwd
import stat
import uuid

import pytest

from utils.base import files
from utils.base.errors import UserError
from utils.config import loading

import tensorflow.compat.v1 as tf


def test_text_is_written_and_read(tmp_path):
    path = str(tmp_path / "a.txt")
    for text in ("first\nÄ\n", ""):
        files.write_text(path, text)
        assert files.read_text(path) == text
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("Ä\n", encoding="utf-8-sig")
    assert files.read_text(str(tmp_path / "a.txt")) == "Ä\n"


def test_a_name_need_not_be_in_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.txt")
    pathlib.Path(path).write_text("Ä")
    assert files.read_text(path) == "Ä"
    listed = str(tmp_path / "names.json")
    files.write_json(listed, [path])
    assert json.loads(files.read_text(listed)) == [path]
    with pytest.raises(UserError, match="does not exist"):
        files.read_bytes(path + "x")


def test_a_failed_write_leaves_the_old_text(tmp_path):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "old")
    with pytest.raises(TypeError):
        files.write_bytes(path, object())
    assert files.read_text(path) == "old"


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_next_to_it(
    tmp_path, file_size_limit
):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "old")
    with file_size_limit(100), pytest.raises(UserError) as error:
        files.write_bytes(path, b"x" * 1000)
    assert str(error.value).startswith(f"{path} cannot be written: File too large; raise the limit")
    assert files.read_text(path) == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_in_the_place_of_a_file_stays(tmp_path):
    (tmp_path / "a.txt" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a\.txt cannot be written: .*; move away the folder"):
        files.write_text(str(tmp_path / "a.txt"), "new")
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["pipe", "folder"])
def test_what_is_not_a_file_is_not_replaced_by_one(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"--json={tmp_path}/{name} is "):
        files.check_writable(str(tmp_path / name), "json")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/b")
    assert files.expand_home("~/a/~") == "/home/b/a/~"
    assert files.expand_home("~") == "/home/b"
    assert files.expand_home("~root/a") == pwd.getpwnam("root").pw_dir + "/a"
    for path in ("a/~", "gs://b/~", "hf://a/b", "", "./~"):
        assert files.expand_home(path) == path
    (tmp_path / "~$a.jpg").touch()
    assert files.expand_home("~$a.jpg") == "~$a.jpg"


@pytest.mark.parametrize("path", ["~nobody-of-this-name/a", "~/a"])
def test_a_home_folder_that_is_not_known(monkeypatch, path):
    monkeypatch.setenv("HOME", "~")  # as for a user without HOME and name
    with pytest.raises(UserError, match=f"^{path}: .*HOME"):
        files.expand_home(path)


# JSON.


def size_of(content):
    return files.member(content, "size", int)


def test_json_is_written_and_read(tmp_path):
    path = str(tmp_path / "a.json")
    files.write_json(path, {"size": 3, "name": "Ä"})
    assert files.read_json(path, "a size", "remove it", size_of) == 3
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"size": ', "Expecting value"),
        (b"[]", "[] is not a mapping"),
        (b"null", "None is not a mapping"),
        (b"{}", "'size' is missing"),
        (b'{"size": true}', "size is True and not a whole number"),
        (b'{"size": 1.5}', "size is 1.5 and not a whole number"),
        (b'{"size": ["' + b"x" * 5000 + b'"]}', "... and not"),
        (b"[" * 100_000, "recursion"),
        (b'{"size": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_json_that_is_something_else_is_a_users_error(tmp_path, content, found):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_json(str(path), "a size", "remove it", size_of)
    text = str(error.value)
    assert text.startswith(f"{path} is not a size (") and text.endswith("): remove it.")
    assert found in text
    assert "\n" not in text and len(text) < 300 + len(str(path))


@pytest.mark.parametrize("name", [None, 3, "", ".", "..", "a/b", "/a"])
def test_names_in_a_folder(name):
    with pytest.raises(ValueError, match="is not a name in its folder"):
        files.name_in_folder(name)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x80"])
def test_what_cannot_be_read_is_a_users_error(tmp_path, content):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_text(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "content"),
    [("a: 1\nb: [x]\n", {"a": 1, "b": ["x"]}), ("", {}), ("# nothing", {}), ('{"a": 1}', {"a": 1})],
)
def test_yaml_mappings(tmp_path, text, content):
    (tmp_path / "a.yaml").write_text(text)
    assert loading.read_mapping(str(tmp_path / "a.yaml")) == content


@pytest.mark.parametrize("text", ["- 1", "text", "a: b: c", "[", "3", "!!python/object:os.x {}"])
def test_other_yaml_is_a_users_error(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        loading.read_mapping(str(tmp_path / "a.yaml"))
    assert str(tmp_path / "a.yaml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "remote"), [("gs://b/c", True), ("s3://b", True), ("/a/b", False), ("a:b", False)]
)
def test_is_remote(path, remote):
    assert files.is_remote(path) is remote


def test_a_folder_is_made_with_its_parents_and_may_be_there(tmp_path):
    path = str(tmp_path / "a" / "b")
    files.make_writable_dir(path, "model_dir")
    files.make_writable_dir(path, "model_dir")
    assert os.path.isdir(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "--model_dir is missing"),
        ("a [b]", "has the character '\\['"),
        ("a?", "has the char"),
        ("a\\b", "has the character '\\\\'"),
    ],
)
def test_names_that_no_folder_of_ours_can_have(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    for check in (files.check_dir_name, files.make_writable_dir):
        with pytest.raises(UserError, match=words):
            check(name, "model_dir")
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_a_users_error(tmp_path):
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=f"--model_dir={path}"):
            files.make_writable_dir(str(path), "model_dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_users_error(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(UserError, match=f"--model_dir={path}"):
            files.make_writable_dir(str(path), "model_dir")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("first.\nsecond"), "first"),
        (tf.errors.NotFoundError(None, None, "no file; \n at"), "no file;"),
        (KeyError(), "KeyError"),
        (
            OSError("File isn't whole: 'a\\b' at https://c/d\nmore"),
            "File isn't whole: 'a\\b' at https://c/d",
        ),
        (
            tf.errors.InternalError(None, None, 'Graph execution error:\n  File "a.py"\nIt\'s it'),
            "It's it",
        ),
        (
            tf.errors.FailedPreconditionError(
                None,
                None,
                "Error executing an HTTP request: libcurl code 6 meaning 'Couldn't resolve "
                "host name', error details: Could not resolve host: x\n\t when reading gs://b/it's",
            ),
            "Couldn't resolve host name when reading gs://b/it's",
        ),
        (
            tf.errors.PermissionDeniedError(
                None,
                None,
                "Error executing an HTTP request: HTTP response code 403 with body '{\n "
                r"""  "message": "It's \"b\" when c."}'"""
                "\n\t when reading gs://b/c",
            ),
            """HTTP status 403 when reading gs://b/c (It's "b" when c)""",
        ),
    ],
)
def test_reason(error, text):
    assert files.reason(error).strip() == text


def test_reason_of_an_error_in_a_session_is_what_the_operation_said():
    with tf.Session() as session, pytest.raises(tf.errors.InvalidArgumentError) as error:
        session.run(tf.io.decode_image(b"no picture"))
    reason = files.reason(error.value)
    assert reason.startswith("Unknown image file format")
    assert "\n" not in reason


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path):
    """A folder on disk or in a bucket."""
    path = str(tmp_path) if request.param == "folder" else f"ram://bucket/{uuid.uuid4()}"
    tf.io.gfile.makedirs(path)
    return path


def walk(path):
    return {
        os.path.join(place, name).removeprefix(path)
        for place, _, names in tf.io.gfile.walk(path)
        for name in names
    }


@pytest.fixture
def tree(tmp_path):
    """A local folder that looks like a SavedModel."""
    for name in ("saved_model.pb", "variables/index", "assets/a/b.txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return str(tmp_path / "tree")


def test_folders_are_copied_renamed_and_removed(root, tree):
    expected = {"/saved_model.pb", "/variables/index", "/assets/a/b.txt"}
    files.copy(tree, root + "/copy")
    assert walk(root + "/copy") == walk(tree) == expected
    files.rename(root + "/copy", root + "/renamed")
    assert walk(root + "/renamed") == expected
    assert files.read_text(root + "/renamed/assets/a/b.txt") == "assets/a/b.txt"
    assert not tf.io.gfile.exists(root + "/copy")
    files.remove(root + "/renamed")
    assert not tf.io.gfile.exists(root + "/renamed")


def test_files_are_copied_renamed_and_removed(root, tree):
    files.copy(tree + "/saved_model.pb", root + "/copy")
    files.rename(root + "/copy", root + "/renamed")
    assert files.read_text(root + "/renamed") == "saved_model.pb"
    assert not tf.io.gfile.exists(root + "/copy")
    files.remove(root + "/renamed")
    files.remove(root + "/renamed")  # is not there: nothing to do
    assert not tf.io.gfile.exists(root + "/renamed")


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("a/../b") == str(tmp_path / "b")
    assert files.absolute("gs://bucket/a") == "gs://bucket/a"


def test_a_file_in_a_package_is_found_without_running_the_package(tmp_path, monkeypatch):
    (tmp_path / "explosive" / "data").mkdir(parents=True)
    (tmp_path / "explosive" / "__init__.py").write_text("raise RuntimeError('it ran')\n")
    (tmp_path / "explosive" / "data" / "x.png").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = str(tmp_path / "explosive" / "data/x.png")
    assert files.in_package("explosive", "data/x.png") == expected
    assert files.in_package("explosive", "data/y.png") is None
    assert files.in_package("no_such_package", "data/x.png") is None
