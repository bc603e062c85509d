"""README, CONTRIBUTING and g3doc/: links lead somewhere, commands parse."""

import argparse
import functools
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import textwrap
from unittest import mock

import pytest
from console_commands import console_commands

from bench import __main__ as bench
from utils.base import files
from utils.config import loading, network, settings
from utils.training import configuration
from utils.workers import tasks

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "g3doc").glob("*.md"))]
GUIDE = ROOT / "g3doc/tpu_guide.md"
# First words of commands that do not belong to this package.
OTHER_COMMANDS = (
    "capture_tpu_profile",
    "cbtemulator",
    "cd",
    "gcloud",
    "git",
    "pip",
    "python3",
    "tensorboard",
    "tensorflow_model_server",
)
LANGUAGES = ("sh", "bash", "text", "yaml", "bibtex", "json", "python", "js", "kotlin", "swift")
_FENCED = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.M)
_ASSIGNMENT = re.compile(r"[A-Z_]+=")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# Reading a page.


def blocks(text):
    """Returns (language, content) of the code blocks; indented ones hold commands."""
    found = [(match[1], match[2]) for match in _FENCED.finditer(text)]
    for paragraph in re.split(r"\n\s*\n", _FENCED.sub("", text)):
        lines = [line for line in paragraph.split("\n") if line]
        if lines and all(line.startswith("    ") for line in lines):
            found.append(("sh", textwrap.dedent("\n".join(lines)) + "\n"))
    return found


def commands(text):
    """Returns the words of each command in the blocks of a page, with the assignments before it."""
    found = []
    for language, content in blocks(text):
        if language != "sh":
            continue
        for line in re.sub(r"\\\n\s*", "", content).splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append([word for word in words[:end] if word != "&"])
                words = words[end + 1 :]
    return found


def scripts(text):
    """Returns the blocks of a page that are whole scripts."""
    return [content for language, content in blocks(text) if content.startswith("#!")]


def yaml_files(text):
    """Returns name -> content of the YAML blocks; each begins with its name."""
    found = {}
    for language, content in blocks(text):
        if language == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", content)
            assert name, f"A YAML block begins with '# NAME.yaml': {content[:40]!r}"
            found[name[1]] = content
    return found


def prose(text):
    """Returns the page without its code blocks."""
    return _FENCED.sub("", text)


def anchors(text):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# Checking a command.


class _Found(Exception):
    """Carries the parser out of a command's main."""


@functools.cache
def parser_of(module):
    """Returns the argument parser of a command, which does not run."""
    command = importlib.import_module(module)
    if not hasattr(command, "main"):
        command = importlib.import_module(f"{module}.command")

    def stop(parser, *arguments, **more):
        raise _Found(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        pytest.raises(_Found) as caught,
    ):
        command.main([module])
    return caught.value.args[0]


def options_of(parser):
    """Returns the flags of a parser and of its subcommands."""
    found = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(options_of, action.choices.values()))
    return found


def makefile():
    """Returns (targets, variables) that make knows."""
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):", text, re.M)), set(re.findall(r"^(\w+) \?=", text, re.M))


def check_program(words, folder):
    """Resolves the settings of a command of the program and returns them."""
    # A folder stands for the bucket, because settings are looked up in its files.
    arguments = [word.replace("gs://BUCKET", str(folder / "bucket")) for word in words]
    given = loading.parse_flags(["mnasnet_main.py", *arguments], "")
    # Nothing is fetched: a folder stands for the weights, too.
    return configuration.resolve(given, lambda p: str(folder) if files.is_download(p) else p)


def check_command(module, words):
    """Parses the flags and values of another command."""
    parser = parser_of(module)
    parser.parse_args(words)
    # The parser takes abbreviations; a page should not.
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options_of(parser), f"unknown flags {given - options_of(parser)}"


def check_make(words):
    """Checks targets and variables of make."""
    targets, variables = makefile()
    for word in words:
        name, equals, value = word.partition("=")
        assert name in (variables if equals else targets), f"make knows no {name}"
        if name == "TPU":
            check_command("utils.tpu_check", shlex.split(value))
        if name == "SECTIONS":
            assert set(value.split()) - {"--turns=1"} <= set(bench.SECTIONS)


def check_kubernetes(manifest, folder):
    """Checks that the containers of a TFJob run the program on several workers."""
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "TFJob")
    for kind, replica in manifest["spec"]["tfReplicaSpecs"].items():
        assert kind == "Worker" and replica["replicas"] > 1
        for container in replica["template"]["spec"]["containers"]:
            assert container["command"][0] == "mnasnet"
            params = check_program(container["command"][1:], folder)
            assert params["train_batch_size"] % replica["replicas"] == 0


def check_script(text, folder):
    """Checks that the program takes the flags that srun gives it, on as many GPUs as workers."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    (line,) = re.findall(r"^srun (.*)$", text, re.M)
    words = shlex.split(line)
    assert words[words.index("python") + 1] == "mnasnet_main.py"
    params = check_program(words[words.index("python") + 2 :], folder)
    workers = int(options["nodes"]) * int(options["ntasks-per-node"])
    assert params["train_batch_size"] % workers == 0
    assert options["ntasks-per-node"] == options["gpus-per-node"]


def check(words, folder, monkeypatch):
    """Fails for a command of a page that could not be run."""
    words = [os.path.expandvars(word) for word in words]
    if words[0] == "export":
        for word in words[1:]:
            name, value = word.split("=", 1)
            if name == tasks.VARIABLE:
                assert tasks.of_tf_config(value).count > 1
            monkeypatch.setenv(name, value)
        return
    while _ASSIGNMENT.match(words[0]):
        words = words[1:]
    consoles = console_commands()
    if words[:2] == ["python", "mnasnet_main.py"]:
        check_program(words[2:], folder)
    elif words[0] == "mnasnet":
        check_program(words[1:], folder)
    elif words[:2] == ["python", "-m"]:
        check_command(words[2], words[3:])
    elif words[0] in consoles:
        check_command(consoles[words[0]], words[1:])
    elif words[0] == "make":
        check_make(words[1:])
    else:
        assert words[0] in OTHER_COMMANDS, f"unknown command {words[0]}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes an empty working folder, without a TPU in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TPU_NAME", raising=False)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")  # which a scheduler sets
    return tmp_path


# The pages.


@each_page
def test_links_lead_somewhere(page):
    text = prose(page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{page.name} links to {target}"


@each_page
def test_commands_parse(page, folder, monkeypatch):
    text = page.read_text()
    for name, content in yaml_files(text).items():
        (folder / name).write_text(content)
    for words in commands(text):
        try:
            check(words, folder, monkeypatch)
        except (Exception, SystemExit) as e:
            raise AssertionError(f"{page.name}: {shlex.join(words)}") from e


@each_page
def test_yaml_loads(page, folder):
    for name, content in yaml_files(page.read_text()).items():
        (folder / name).write_text(content)
        found = loading.read_mapping(name)
        if "stages" in found:
            network.read_file(name)
        elif "apiVersion" in found:
            check_kubernetes(found, folder)
        elif set(found) <= set(settings.SETTINGS):
            configuration.resolve({"config_file": name, "model_dir": "M", "data_dir": "null"})
        else:  # names of an import
            assert all(isinstance(ours, str | None) for ours in found.values())


@each_page
def test_blocks_say_what_they_are(page):
    starts = ("python ", "make ", "mnasnet ", "mnasnet-data ", "pip ")
    for language, content in blocks(page.read_text()):
        assert language in LANGUAGES
        if language == "text":
            assert not [line for line in content.splitlines() if line.startswith(starts)]


def modules_named():
    """Returns the commands that the pages name as python -m utils.X."""
    return set(re.findall(r"python -m (utils\.\w+)", "".join(p.read_text() for p in PAGES)))


@functools.cache
def all_flags():
    """Returns the flags of the program and of every command."""
    names = set(loading.define_flags())
    parsers = map(parser_of, modules_named() | set(console_commands().values()) - {"mnasnet_main"})
    return {f"--{name}" for name in names} | {"--debug"}.union(*map(options_of, parsers))


@each_page
def test_scripts_are_valid(page):
    for script in scripts(page.read_text()):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_training_of_several_machines_parses(folder):
    [script] = scripts((ROOT / "g3doc/scaling.md").read_text())
    check_script(script, folder)


@each_page
def test_words_in_the_text_exist(page):
    """Checks flags, targets and commands in the prose."""
    for code in re.findall(r"`([^`]+)`", prose(page.read_text())):
        words = shlex.split(code)
        for flag in re.findall(r"(?<![\w-])--[a-z][\w]*", code):
            if words[0] not in (*OTHER_COMMANDS, "make"):
                assert flag in all_flags(), f"{page.name}: {code}"
        if words[0] == "make" and len(words) > 1:
            check_make(words[1:])
        if words[0].startswith("mnasnet-") and len(words) > 1:
            assert words[0] in console_commands(), f"{page.name}: {code}"
        if all(w.partition("=")[0][2:] in settings.SETTINGS and "=" in w for w in words):
            loading.parse_flags(["mnasnet_main.py", *words], "")


def test_the_readme_lists_every_page():
    text = (ROOT / "README.md").read_text()
    missing = [page.name for page in PAGES if f"({page.relative_to(ROOT)})" not in text]
    assert missing == ["README.md"]


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", text, re.M)[1].replace("\\", "").split()
    helped = dict(re.findall(r"^([a-z-]+):.*  ## (.*)$", text, re.M))
    assert set(phony) == set(helped) == makefile()[0]


def test_batches_of_the_tpu_guide(folder, monkeypatch):
    """Each core of a TPU gets 128 images, whatever the slice."""
    monkeypatch.setenv("TPU_NAME", "NAME")
    found = [words[2:] for words in commands(GUIDE.read_text()) if "mnasnet_main.py" in words]
    assert len(found) == 5
    for words in found:
        params = check_program(words, folder)
        assert params["use_tpu"] == ("--use_tpu=False" not in words)
        if params["use_tpu"]:
            hosts = 4 if "--config_file=v2-32" in words else 1
            assert params["train_batch_size"] == hosts * 8 * 128


def test_the_tpu_guide_installs_what_the_package_needs():
    """The image of a TPU VM brings TensorFlow and what TensorFlow itself needs."""
    text = (ROOT / "setup.py").read_text()
    needed = re.search(r"install_requires=\[(.*?)\]", text, re.S)[1]
    names = set(re.findall(r'^ *"([\w-]+)', needed, re.M)) - {"tensorflow", "numpy", "protobuf"}
    [command] = [words for words in commands(GUIDE.read_text()) if "PyYAML" in words]
    assert {re.match(r"[\w-]+", word)[0] for word in command[2:]} == names
