"""The campaign: hostile input, damaged files and kills against the real programs, counted.

    python -m tests.campaign [SECTION ...]

prints a table of sections with their attempts and failures, and exits with 1 if anything failed. A
failure is a stack trace, a mistake without its sentence, a wrong exit status, a hang, a crash, or
something lost. The fork server wants Linux.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import campaign_files, campaign_kills, campaign_process, hostile_settings
from tests.campaign_files import Base
from tests.campaign_process import finished, finished_or_refused, misbehaviour, refused, run
from utils.config import settings
from utils.reading import records

import tensorflow.compat.v1 as tf  # isort: skip

# A verdict is None, or what was wrong.
Verdicts = Iterator[str | None]


class Case(NamedTuple):
    """One or more attempts at something: `run(base, folder)` gives a verdict for each."""

    name: str
    run: Callable[[Base, Path], Verdicts]


class Failure(NamedTuple):
    case: str
    problem: str


# Settings.

_WRONG = {
    int: ("abc", "", "nan", "1.5", "[]", "0x1F", "-1", "1e999", "9" * 400),
    float: ("abc", "", "nan", "inf", "[]", "0x1F", "-1", "1e999", "1,5"),
    bool: ("maybe", "2", "[]", "None"),
    str: ("[", "{}", "*", "a\nb", "ü" * 300, "x" * 5000),
    object: ("[", "3", "/nonexistent/spec.yaml", "", "x" * 5000),
}


def settings_cases() -> list[Case]:
    """Wrong values of every setting in every layer: all end in one sentence.

    None may start a training: the folder of data does not exist.
    """
    hostile = [
        Case(" ".join(arguments)[:60], _hostile_setting(arguments, part))
        for arguments, part in hostile_settings.CASES
    ]
    return hostile + [
        Case(f"{name}={value[:20]!r} in {layer}", _wrong_setting(name, value, layer))
        for name, setting in settings.SETTINGS.items()
        for value in _WRONG[setting.kind]
        for layer in ("a flag", "a file")
    ]


def _hostile_setting(arguments: list[str], part: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        hostile_settings.write_files(folder)
        argv = hostile_settings.with_folder(arguments, folder)
        yield refused(run("mnasnet_main", argv, folder), part)

    return attempt


def _wrong_setting(name: str, value: str, layer: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        file = folder / "settings.yaml"
        given = {
            "a flag": f"--{name}={value}",
            "a file": f"--config_file={file}",
        }[layer]
        file.write_text(f"{name}: {value}\n")
        missing = f"--data_dir={folder}/missing"
        argv = [f"--model_dir={folder}/model", f"--model_spec={base.spec}", missing, given]
        outcome = run("mnasnet_main", argv, folder)
        problem = refused(outcome)
        # null, 'export_only' and another folder of data need no data or find some.
        if problem and outcome.status == 0 and name in ("mode", "data_dir"):
            problem = None
        lost = (folder / "model" / "checkpoint").exists()
        yield problem or ("a checkpoint was written" if lost else None)

    return attempt


# Weights.


def weights_cases() -> list[Case]:
    """Files that are no weights, or strange ones, for the import and the tool that lists."""
    base = _example_weights()
    return [
        Case(f"{name} ({file_name})", _hostile_weights(file_name, content))
        for name, file_name, content in campaign_files.hostile_weights(base)
    ]


def _example_weights() -> bytes:
    """Weights of a network with names as the package exports them; no program needs to run."""
    import numpy as np

    from utils.weights import weights_file

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        keys = ("conv_stem.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
        shapes = ((8, 3, 3, 3), (8,), (8,), (8,), (8,))
        state = {k: np.ones(s, np.float32) for k, s in zip(keys, shapes, strict=True)}
        weights_file.write_safetensors(file.name, state)
        return Path(file.name).read_bytes()


def _hostile_weights(file_name: str, content: bytes):
    def attempt(base: Base, folder: Path) -> Verdicts:
        file, model = folder / file_name, folder / "model"
        file.write_bytes(content)
        limits = {resource.RLIMIT_AS: campaign_process.MEMORY_LIMIT}
        for module, argv in (
            ("utils.import_weights", [f"--weights={file}", f"--model_dir={model}"]),
            ("utils.checkpoint_tool", ["list", file]),
        ):
            outcome = run(module, argv, folder, limits)
            left = outcome.status and (model / "checkpoint").exists()
            yield finished_or_refused(outcome) or (
                "a refused import left a model" if left else None
            )

    return attempt


# Damaged records.


def records_cases() -> list[Case]:
    """Damaged TFRecord files, trained on with and without leaving bad pictures out."""
    content, example = _example_records()
    return [
        Case(f"{name}, skip_bad_images={skip}", _damaged_records(damaged, skip))
        for name, damaged in campaign_files.damaged_records(content, example)
        for skip in (False, True)
    ]


def _example_records() -> tuple[bytes, bytes]:
    """A file of a few records as the builder of random pictures makes them, and its first one."""
    from utils.data import build_fake

    with tempfile.TemporaryDirectory() as folder:
        build_fake.build(build_fake.Options(folder, num_train=8, num_validation=1, num_classes=4))
        (path,) = records.list_files(folder, "train-")
        return Path(path).read_bytes(), next(iter(records.read_records(path)))


def _damaged_records(content: bytes, skip: bool):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy = base.copy(folder)
        (path,) = copy.data.glob("train-*")
        path.write_bytes(content)
        (copy.data / "dataset_info.json").unlink()
        outcome = run(
            "mnasnet_main",
            copy.flags(model_dir=folder / "new", num_eval_images=8, skip_bad_images=skip),
            folder,
        )
        yield finished_or_refused(outcome, "train-")

    return attempt


# State files.

_STATE_FILES = (
    "model/checkpoint", "model/evaluations.json", "model/archive/best.json", "model/params.yaml",
    "model/labels.txt", "model/export/export_report.json", "data/dataset_info.json",
    "data/labels.txt",
)  # fmt: skip
_STATE_CONTENTS = {
    "empty": b"", "null": b"null", "a list": b"[]", "a number": b"3", "a text": b'"text"',
    "a mapping": b"{}", "binary": bytes(range(256)), "lists of lists": b"[[1], [2]]",
    "a mapping of nulls": b'{"global_step": null, "files": null}',
    "a list of nulls": b"[null, {}]",
}  # fmt: skip
_MODES = ("train_and_eval", "eval", "export_only")


def state_cases() -> list[Case]:
    """Damaged state files: each mode goes on or refuses in one sentence, and loses nothing."""
    changes: dict[str, Callable[[bytes], bytes]] = {
        **{name: (lambda _, new=new: new) for name, new in _STATE_CONTENTS.items()},
        "cut in half": lambda content: content[: len(content) // 2],
        "garbled": lambda content: content.replace(b'"', b"\0").replace(b":", b"\xff"),
        "numbers as texts": lambda content: content.replace(b": ", b": x"),
    }
    return [
        Case(f"{file}: {name}, mode={mode}", _damaged_state(file, change, mode))
        for file in _STATE_FILES
        for name, change in changes.items()
        for mode in _MODES
    ]


def _damaged_state(file: str, change: Callable[[bytes], bytes], mode: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy = base.copy(folder)
        path = copy.folder / file
        path.write_bytes(change(path.read_bytes()))
        outcome = run(
            "mnasnet_main",
            copy.flags(mode=mode, train_steps=6, export_dir=copy.model / "export"),
            folder,
        )
        kept = campaign_kills.complete_steps(copy.model)
        lost = None if kept and max(kept) >= 4 else f"complete checkpoints left: {kept}"
        yield finished_or_refused(outcome) or lost

    return attempt


# The file system.


def file_system_cases() -> list[Case]:
    """Folders and files that are missing, of another kind, not writable, or on a full disk."""
    places = [
        Case(f"--{flag} is {kind}", _wrong_place(flag, kind))
        for flag in ("data_dir", "model_dir", "export_dir", "init_checkpoint", "config_file",
                     "model_spec", "export_checkpoint")
        for kind in _PLACES
    ]  # fmt: skip
    full = [
        Case(f"{name} on a disk with {size} bytes left", _full_disk(name, size))
        for name in _WRITERS
        for size in (0, 100, 2_000, 50_000)
    ]
    return places + full


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _dangling(folder: Path) -> Path:
    (folder / "dangling").symlink_to(folder / "nowhere")
    return folder / "dangling"


def _file(folder: Path, content: bytes = b"") -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


def _folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


def _socket(folder: Path) -> Path:
    # Not a device of the machine's: a program that runs as root could replace it.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder / "socket"


_PLACES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "missing",
    "below a file": lambda folder: _file(folder) / "below",
    "an empty file": _file,
    "a binary file": lambda folder: _file(folder, bytes(range(256)) * 8),
    "an empty folder": _folder,
    "a link to itself": _loop,
    "a dangling link": _dangling,
    "a socket": _socket,
    "read-only": lambda folder: Path("/proc/campaign"),
}


def _wrong_place(flag: str, kind: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        place = _PLACES[kind](folder)
        given = {"model_dir": folder / "model", "mode": "train_and_eval"}
        if flag == "export_checkpoint":
            given = {"model_dir": base.copy(folder).model, "mode": "export_only"}
            given["export_dir"] = folder / "export"
        outcome = run("mnasnet_main", base.flags(**{**given, flag: place}), folder)
        yield finished_or_refused(outcome)

    return attempt


_WRITERS: dict[str, tuple[str, Callable[[Base, Path], list]]] = {
    "training": ("mnasnet_main", lambda base, new: base.flags(model_dir=new)),
    "export": ("mnasnet_main", lambda base, new: base.flags(mode="export_only", export_dir=new)),
    "building": ("utils.data", lambda base, new: ["fake", f"--output_dir={new}", "--num_train=8"]),
    "weights": (
        "utils.export_weights",
        lambda base, new: [f"--model_dir={base.model}", f"--output={new}.safetensors"],
    ),
    "import": (
        "utils.import_weights",
        lambda base, new: [f"--weights={base.weights}", f"--model_dir={new}"],
    ),
}


def _full_disk(name: str, size: int):
    def attempt(base: Base, folder: Path) -> Verdicts:
        module, arguments = _WRITERS[name]
        copy = base.copy(folder)
        limits = {resource.RLIMIT_FSIZE: size}
        argv = arguments(copy, folder / "new")
        outcome = run(module, argv, folder, limits)
        yield finished_or_refused(outcome)
        if outcome.status:  # with room again the same command gets to its end
            yield finished(run(module, argv, folder))

    return attempt


# Command lines.

# {} is the path that is not as it should be.
_COMMANDS: dict[str, list[list[str]]] = {
    "utils.checkpoint_tool": [["list", "{}"], ["compare", "{}", "{model}"]],
    "utils.classify": [
        ["--model={}", "{picture}"], ["--model={tflite}", "{}"],
        ["--model={tflite}", "--labels={}", "{picture}"],
    ],
    "utils.data": [
        ["inspect", "--data_dir={}"], ["fake", "--output_dir={}", "--num_train=2"],
        ["folder", "--input_dir={}", "--output_dir={new}"],
        ["folder", "--input_dir={pictures}", "--output_dir={}"],
        ["imagenet", "--input_dir={}", "--output_dir={new}", "--validation_labels={}"],
        ["inspect", "--data_dir={data}", "--json={}"],
        ["inspect", "--data_dir={data}", "--contact_sheet={}"],
    ],
    "utils.evaluate": [
        ["--model={}", "--data_dir={data}"], ["--model={tflite}", "--data_dir={}"],
    ],
    "utils.export_table": [["{}"]],
    "utils.export_weights": [
        ["--model_dir={}", "--output={new}"], ["--model_dir={model}", "--output={}"],
    ],
    "utils.import_weights": [
        ["--weights={}", "--model_dir={new}"], ["--weights={weights}", "--model_dir={}"],
        ["--weights={weights}", "--model_dir={new}", "--labels={}"],
        ["--weights={weights}", "--model_dir={new}", "--model_spec={}"],
        ["--weights={model}", "--model_dir={new}", "--mapping={}", "--model_name=mnasnet-a1"],
    ],
    "utils.complexity": [["--model_spec={}"]],
}  # fmt: skip
_PROGRAMS = (
    *_COMMANDS, "mnasnet_main", "utils.pretrained", "g3doc.write_numbers", "utils.tpu_check",
    "utils.benchmarks.startup", "utils.benchmarks.build",
    "utils.benchmarks.bigtable", "utils.benchmarks.input", "utils.benchmarks.tflite",
)  # fmt: skip


def command_cases() -> list[Case]:
    """Every program with unknown flags, outputs that take nothing, and paths of the wrong kind."""
    wrong = [
        Case(f"{module} {' '.join(argv)}", _wrong_arguments(module, argv))
        for module in _PROGRAMS
        for argv in (["--no_such_flag"], ["--no_such_flag=1", "x"])
    ]
    outputs = [
        Case(f"{module} --help > {out}", _help_into(module, out))
        for module in _PROGRAMS
        for out in (campaign_process.UNREAD, campaign_process.FULL)
    ]
    paths = [
        Case(f"{module} {' '.join(argv)}, {kind}", _wrong_path(module, argv, kind))
        for module, commands in _COMMANDS.items()
        for argv in commands
        for kind in _PLACES
    ]
    return wrong + outputs + paths


def _wrong_arguments(module: str, argv: list[str]):
    def attempt(base: Base, folder: Path) -> Verdicts:
        yield refused(run(module, argv, folder))

    return attempt


def _help_into(module: str, out: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        outcome = run(module, ["--help"], folder, out=out)
        if out == campaign_process.FULL:
            yield refused(outcome)
        elif outcome.status == 141 and not outcome.err:
            yield None
        else:
            yield misbehaviour(outcome) or f"status {outcome.status} instead of 141"

    return attempt


def _wrong_path(module: str, argv: list[str], kind: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        copy = base.copy(folder)
        values = {
            "model": copy.model, "data": copy.data, "new": folder / "new",
            "weights": copy.weights, "pictures": copy.pictures,
            "tflite": copy.model / "export" / "tiny.tflite",
            "picture": copy.pictures / "class-0" / "0.jpg",
        }  # fmt: skip
        place = _PLACES[kind](folder)
        given = [argument.format(place, place, **values) for argument in argv]
        outcome = run(module, given, folder)
        replaced = kind == "a socket" and not place.is_socket()
        yield finished_or_refused(outcome) or ("the socket was replaced" if replaced else None)

    return attempt


# The command.

SECTIONS: dict[str, Callable[[], list[Case]]] = {
    "settings": settings_cases,
    "weights": weights_cases,
    "records": records_cases,
    "kills": lambda: [Case(*case) for case in campaign_kills.cases()],
    "state": state_cases,
    "file_system": file_system_cases,
    "commands": command_cases,
}


def sample(cases: Sequence[Case], count: int) -> list[Case]:
    """A few cases, spread over all."""
    count = min(count, len(cases))
    return [cases[(2 * n + 1) * len(cases) // (2 * count)] for n in range(count)]


def carry_out(cases: Sequence[Case], base: Base, report=lambda failure: None):
    """Runs cases in folders of their own, which are removed; returns (attempts, failures)."""
    attempts, failures = 0, []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            for problem in case.run(base, Path(folder)):
                attempts += 1
                if problem:
                    failures.append(Failure(case.name, problem))
                    report(failures[-1])
    return attempts, failures


def main(argv: list[str]) -> int:
    """Runs sections, all by default; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="tests.campaign", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--sample", type=int, help="so many cases of each section (default: all)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    tf.logging.set_verbosity(tf.logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory(prefix="campaign-base-") as folder:
        base = campaign_files.make_base(Path(folder) / "base")
        for name in arguments.sections or SECTIONS:
            cases = SECTIONS[name]()
            cases = sample(cases, arguments.sample) if arguments.sample else cases
            attempts, failures = carry_out(cases, base, lambda f: print(*f, sep=": ", flush=True))
            rows.append((name, attempts, len(failures)))
            print("{:12} {:5} attempts, {} failures".format(*rows[-1]), flush=True)
    print(f"\n{'section':12} {'attempts':>8} {'failures':>8}")
    for row in [*rows, ("all", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        print("{:12} {:8} {:8}".format(*row))
    return int(any(row[2] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
