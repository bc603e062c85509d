"""Section `commands`: every command line with unknown flags, wrong paths and broken outputs."""

from __future__ import annotations

from pathlib import Path

from campaign.base import Base
from campaign.cases import Case, Verdicts
from campaign.places import PLACES
from campaign.processes import (
    FULL,
    UNREAD,
    finished_or_refused,
    misbehaviour,
    refused,
    run,
)

_BROKEN_PIPE_STATUS = 141  # 128 + SIGPIPE
# Module -> argument lists; {} stands for the path that is wrong.
_COMMANDS: dict[str, list[list[str]]] = {
    "utils.checkpoint_tool": [["list", "{}"], ["compare", "{}", "{model}"]],
    "utils.classify": [
        ["--model={}", "{picture}"], ["--model={tflite}", "{}"],
        ["--model={tflite}", "--labels={}", "{picture}"],
    ],
    "utils.data": [
        ["inspect", "--data_dir={}"], ["fake", "--output_dir={}", "--num_train=2"],
        ["folder", "--input_dir={}", "--output_dir={new}"],
        ["fake", "--output_dir={}", "--num_train=2", "--task=0/2"],
        ["folder", "--input_dir={pictures}", "--output_dir={}"],
        ["imagenet", "--input_dir={}", "--output_dir={new}", "--validation_labels={}"],
        ["inspect", "--data_dir={data}", "--json={}"],
        ["inspect", "--data_dir={data}", "--contact_sheet={}"],
    ],
    "utils.evaluate": [
        ["--model={}", "--data_dir={data}"], ["--model={tflite}", "--data_dir={}"],
    ],
    "utils.check_exports": [["{}", "--pictures", "{picture}"]],
    "utils.demo_page": [
        ["--model={}", "--output_dir={new}"],
        ["--model={tflite}", "--output_dir={new}", "--labels={}"],
        ["--model={tflite}", "--output_dir={new}", "{}"],
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
    *_COMMANDS, "mnasnet_main", "utils.pretrained", "utils.tpu_check",
    "utils.benchmarks.speed", "utils.benchmarks.growth", "utils.benchmarks.scaling",
    "utils.benchmarks.build",
    "utils.benchmarks.bigtable", "utils.benchmarks.input", "utils.benchmarks.tflite",
)  # fmt: skip


def cases() -> list[Case]:
    """Lists every program with unknown flags, outputs that take nothing, and wrong paths."""
    wrong = [
        Case(f"{module} {' '.join(argv)}", _wrong_arguments(module, argv))
        for module in _PROGRAMS
        for argv in (["--no_such_flag"], ["--no_such_flag=1", "x"])
    ]
    outputs = [
        Case(f"{module} --help > {out}", _help_into(module, out))
        for module in _PROGRAMS
        for out in (UNREAD, FULL)
    ]
    paths = [
        Case(f"{module} {' '.join(argv)}, {kind}", _wrong_path(module, argv, kind))
        for module, commands in _COMMANDS.items()
        for argv in commands
        for kind in PLACES
    ]
    return wrong + outputs + paths


def _wrong_arguments(module: str, argv: list[str]):
    def attempt(base: Base, folder: Path) -> Verdicts:
        yield refused(run(module, argv, folder))

    return attempt


def _help_into(module: str, out: str):
    def attempt(base: Base, folder: Path) -> Verdicts:
        outcome = run(module, ["--help"], folder, out=out)
        if out == FULL:
            yield refused(outcome)
        elif outcome.status == _BROKEN_PIPE_STATUS and not outcome.err:
            yield None
        else:
            yield misbehaviour(outcome) or (
                f"status {outcome.status} instead of {_BROKEN_PIPE_STATUS}"
            )

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
        place = PLACES[kind](folder)
        given = [argument.format(place, place, **values) for argument in argv]
        outcome = run(module, given, folder)
        replaced = kind == "a socket" and not place.is_socket()
        yield finished_or_refused(outcome) or ("the socket was replaced" if replaced else None)

    return attempt
