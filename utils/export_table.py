"""Prints one table of several exports.

mnasnet-export-table EXPORT_DIR ...

The table, in Markdown, has accuracy, agreement, size and latency of every file from the reports of
the exports. With --max_loss the command fails if an int8 file lost more top-1 against float32.
"""

from __future__ import annotations

from typing import Any

from utils.base import program
from utils.base.errors import UserError
from utils.exporting import measure

NAMES = {
    "SavedModel": "SavedModel",
    "float32": "float32",
    "dynamic": "dynamic range",
    "float16": "float16",
    "int8": "int8",
}
HEADER = ("model", "file", *measure.MEASURED)


def read(export_dir: str) -> dict[str, Any]:
    """Returns the report of an export; UserError if there is none."""
    report = measure.read_report(export_dir)
    if report is None:
        raise UserError(f"{export_dir} holds no {measure.REPORT_FILE}: export a model there.")
    return report


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Returns the rows of one export in the table, float files first."""
    model = report["identity"]["model_name"]
    by_kind = {row["kind"]: row for row in report["files"].values()}
    return [
        [model, name, *measure.measured(by_kind[kind])]
        for kind, name in NAMES.items()
        if kind in by_kind
    ]


def int8_loss(report: dict[str, Any]) -> float | None:
    """Returns the points of top-1 that int8 lost against float32; None if one was not measured."""
    found = {row["kind"]: row.get("top_1_accuracy") for row in report["files"].values()}
    if found.get("float32") is None or found.get("int8") is None:
        return None
    return 100 * (found["float32"] - found["int8"])


def main(argv: list[str]) -> None:
    """Prints the table, and checks int8 against float32."""
    parser = program.ArgumentParser(
        prog="mnasnet-export-table", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("export_dirs", nargs="+", metavar="EXPORT_DIR")
    parser.add_argument("--max_loss", type=float, help="largest loss of top-1 by int8, in points")
    arguments = parser.parse_args(argv[1:])
    reports = {folder: read(folder) for folder in arguments.export_dirs}
    print(program.markdown(HEADER, [row for r in reports.values() for row in rows(r)], left=2))
    if arguments.max_loss is None:
        return
    for folder, report in reports.items():
        loss = int8_loss(report)
        if loss is None:
            raise UserError(
                f"{folder} was not measured as float32 and int8 on labelled images: export it with "
                "--quantize=int8 and --data_dir."
            )
        if loss > arguments.max_loss:
            raise UserError(
                f"{folder}: int8 lost {loss:.2f} points of top-1, more than --max_loss="
                f"{arguments.max_loss:g}: calibrate with images like those of the evaluation."
            )


def console() -> None:
    """Runs the console command `mnasnet-export-table`."""
    program.run(main)


if __name__ == "__main__":
    console()
