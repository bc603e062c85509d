"""Console commands, and a `utils` or `preprocessing` of another program in place of ours."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from console_commands import console_commands, entry_points

import mnasnet_start
from utils.base import program

ROOT = pathlib.Path(__file__).parent.parent


# The commands.


def test_every_command_has_a_console_command():
    tops = {path.stem for path in ROOT.glob("utils/*.py")} - {"__init__"}
    packages = {path.parent.name for path in ROOT.glob("utils/*/__main__.py")}
    modules = {f"utils.{name}" for name in tops} | {f"utils.{name}.command" for name in packages}
    assert tops and packages
    assert set(console_commands().values()) == {"mnasnet_main", *modules}
    listed = re.findall(r'^ *"([^"=]+) = .*",$', (ROOT / "setup.py").read_text(), re.M)
    assert sorted(listed) == sorted(console_commands())


def test_the_page_lists_every_console_command():
    rows = re.findall(
        r"^\| `([\w-]+)` \| `python (?:-m )?([\w.]+)` \|",
        (ROOT / "g3doc/commands.md").read_text(), re.M,
    )  # fmt: skip
    named = {command: module.removesuffix(".py") for command, module in rows}
    assert named == {
        command: module.removesuffix(".command") for command, module in console_commands().items()
    }


@pytest.mark.parametrize("command", entry_points())
def test_a_console_command_answers_help(command, monkeypatch, capsys):
    def run(main):
        sys.exit(main([command, "--help"]))

    monkeypatch.setattr(program, "run", run)
    with pytest.raises(SystemExit) as stopped:
        getattr(mnasnet_start, entry_points()[command])()
    assert not stopped.value.code
    (usage,) = re.findall(r"^usage: (\S+)", capsys.readouterr().out, re.M)
    assert usage == command


# Another module in place of ours. TensorFlow is not loaded before the sentence.


def copy_of_ours(folder):
    """Copies what the sentence needs; returns the folder as an installation has it."""
    (folder / "utils" / "base").mkdir(parents=True)
    for name in ("mnasnet_start.py", "mnasnet_model.py", "preprocessing.py", "utils/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def python(code, folder, ours):
    """Runs code in a folder, where modules are looked for first, and then in `ours`."""
    environment = {**os.environ, "PYTHONPATH": str(ours)}
    # Without installed packages: this package may be one of them.
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=60,
    )  # fmt: skip


def sentence_of(finished):
    """Returns the only line that a program without a stack trace printed."""
    assert finished.returncode == 1
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


@pytest.mark.parametrize("foreign", ["utils.py", "utils/__init__.py", "preprocessing.py"])
@pytest.mark.parametrize(
    "code", ["import mnasnet_model", "import imagenet_input", "import mnasnet_start as s; s.data()"]
)
def test_a_foreign_module_in_the_working_folder(tmp_path, foreign, code):
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("raise SystemExit('the foreign module ran')")
    sentence = sentence_of(python(code, tmp_path, ROOT))
    assert f" finds {tmp_path / foreign}, which is not part of mnasnet-tpu ({ROOT}/" in sentence
    assert "rename it, or take its folder off Python's path" in sentence


def test_a_folder_without_modules_is_not_in_the_way(tmp_path):
    (tmp_path / "utils").mkdir()
    finished = python("import mnasnet_start", tmp_path, ROOT)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("file", ["utils/__init__.py", "preprocessing.py"])
@pytest.mark.parametrize("content", ["from . import other", None])
def test_a_file_of_ours_that_was_overwritten_or_removed(tmp_path, file, content):
    ours = copy_of_ours(tmp_path / "ours")
    code = "import mnasnet_start"
    assert python(code, tmp_path, ours).returncode == 0
    (ours / file).unlink()
    if content:
        (ours / file).write_text(content)
    sentence = sentence_of(python(code, tmp_path, ours))
    assert f"error: {ours / file} is no longer that of mnasnet-tpu" in sentence
    assert "install mnasnet-tpu again, in a virtual environment of its own" in sentence


def test_linked_files_and_folders_are_ours(tmp_path):
    """Some installers link each file to a cache."""
    ours = copy_of_ours(tmp_path / "ours")
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, path in enumerate([ours / "preprocessing.py", ours / "utils" / "__init__.py"]):
        path.rename(cache / f"{number}.py")
        path.symlink_to(cache / f"{number}.py")
    link = tmp_path / "link"
    link.symlink_to(ours)
    assert python("import mnasnet_start", tmp_path, link).returncode == 0


def test_a_program_may_catch_the_error(tmp_path):
    (tmp_path / "utils.py").touch()
    code = (
        "try:\n  import mnasnet_models\nexcept ImportError as e:\n  print('caught')\nraise KeyError"
    )
    finished = python(code, tmp_path, ROOT)
    assert finished.stdout == "caught\n"
    assert "Traceback" in finished.stderr and finished.stderr.endswith("KeyError\n")


# What pip does.

WHEEL = """Wheel-Version: 1.0
Generator: tests
Root-Is-Purelib: true
Tag: py3-none-any
"""


def other_wheel(folder):
    """Makes a wheel of another package that installs a package utils; returns its path."""
    info = "other-1.dist-info"
    contents = {
        "utils/__init__.py": "", "utils/helpers.py": "", f"{info}/WHEEL": WHEEL,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 1\n",
    }  # fmt: skip
    contents[f"{info}/RECORD"] = "".join(f"{n},,\n" for n in [*contents, f"{info}/RECORD"])
    path = folder / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in contents.items():
            wheel.writestr(name, content)
    return path


def our_wheel(folder):
    """Builds our wheel, from a copy of the sources; returns its path."""
    source = folder / "source"
    shutil.copytree(ROOT / "utils", source / "utils", ignore=shutil.ignore_patterns("*.pyc"))
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"]:
        shutil.copy(path, source)
    pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", source)
    (wheel,) = folder.glob("mnasnet_tpu-*.whl")
    return wheel


def pip(*arguments, environment=None):
    options = ["--disable-pip-version-check", *(["--python", environment] if environment else [])]
    return subprocess.run(
        [sys.executable, "-m", "pip", *options, *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    ).stderr  # fmt: skip


def test_another_package_installs_utils_over_ours(tmp_path):
    """pip says nothing in either order, so our commands do."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "e"], check=True)
    environment = tmp_path / "e" / "bin" / "python"
    install = ("install", "--no-deps", "--no-index", "--no-compile")

    def start():
        return subprocess.run(
            [environment, "-c", "import mnasnet_start"],
            capture_output=True, text=True, cwd=tmp_path, timeout=60,
        )  # fmt: skip

    ours, other = our_wheel(tmp_path), other_wheel(tmp_path)
    assert pip(*install, ours, environment=environment) == ""
    assert start().returncode == 0
    for name in console_commands():
        assert (environment.parent / name).exists()
    assert pip(*install, other, environment=environment) == ""
    assert "was installed or removed (other);" in sentence_of(start())
    command = [environment.parent / "mnasnet-classify", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "/utils/__init__.py is no longer that of mnasnet-tpu" in sentence_of(finished)
    assert pip("uninstall", "--yes", "other", environment=environment) == ""
    assert "was installed or removed;" in sentence_of(start())
    assert pip(*install, "--force-reinstall", ours, environment=environment) == ""
    assert start().returncode == 0


@pytest.mark.parametrize("module", sorted(console_commands().values()))
def test_help_and_wrong_flags_are_answered_without_tensorflow(module):
    """TensorFlow takes seconds to load, so no command loads it before it knows what to do."""
    code = (
        "import importlib, sys\n"
        "for flag in ('--help', '--no_such_flag=1'):\n"
        "    sys.argv = ['command', flag]\n"
        "    try:\n"
        f"        importlib.import_module({module!r}).console()\n"
        "    except SystemExit as end:\n"
        "        assert bool(end.code) == (flag != '--help'), end.code\n"
        "    assert 'tensorflow' not in sys.modules, flag\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--debug shows the stack trace" in done.stdout
    assert "error: " in done.stderr
