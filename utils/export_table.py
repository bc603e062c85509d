"""One table of several exports: python -m utils.export_table EXPORT_DIR ...

Accuracy, agreement, size and latency of every file, from the reports that measured them, in
Markdown. With --max_loss it fails where an int8 file lost more of the float file's top-1.
"""

from __future__ import annotations

from typing import Any

from utils.base import program
from utils.base.errors import UserError
from utils.exporting import export_report

NAMES = {
    "SavedModel": "SavedModel",
    "float32": "float32",
    "dynamic": "dynamic range",
    "float16": "float16",
    "int8": "int8",
}
HEADER = (
    "| model | file | MB | top-1 % | top-5 % | agreement % | logits | ms |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
)


def read(export_dir: str) -> dict[str, Any]:
    """The report of an export; UserError where there is none."""
    report = export_report.read(export_dir)
    if report is None:
        raise UserError(f"{export_dir} holds no {export_report.FILE_NAME}: export a model there.")
    return report


def rows(report: dict[str, Any]) -> list[str]:
    """The lines of one export in the table, float first."""
    model = report["identity"]["model_name"]
    by_kind = {row["kind"]: row for row in report["files"].values()}
    return [_row(model, name, by_kind[kind]) for kind, name in NAMES.items() if kind in by_kind]


def _row(model: str, name: str, row: dict[str, Any]) -> str:
    shares = [
        "-" if row[key] is None else f"{100 * row[key]:.2f}"
        for key in ("top_1_accuracy", "top_5_accuracy", "agreement")
    ]
    cells = [
        model, name, f"{row['bytes'] / 1e6:.2f}", *shares,
        f"{row['largest_logit_difference']:.1g}", f"{row['latency_ms']:.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def int8_loss(report: dict[str, Any]) -> float | None:
    """Points of top-1 that int8 lost against float32; None where one of them was not measured."""
    found = {row["kind"]: row.get("top_1_accuracy") for row in report["files"].values()}
    if found.get("float32") is None or found.get("int8") is None:
        return None
    return 100 * (found["float32"] - found["int8"])


def main(argv: list[str]) -> None:
    """Prints the table, and checks int8 against float."""
    parser = program.ArgumentParser(
        prog="export_table", description=(__doc__ or "").split(":")[0] + "."
    )
    parser.add_argument("export_dirs", nargs="+", metavar="EXPORT_DIR")
    parser.add_argument("--max_loss", type=float, help="points of top-1 that int8 may lose")
    arguments = parser.parse_args(argv[1:])
    reports = {folder: read(folder) for folder in arguments.export_dirs}
    print("\n".join([*HEADER, *(line for report in reports.values() for line in rows(report))]))
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
                f"{folder}: int8 lost {loss:.2f} points of top-1, more than "
                f"{arguments.max_loss:g}: calibrate with images like those of the evaluation."
            )


def console() -> None:
    """The command `python -m utils.export_table`."""
    program.run(main)


if __name__ == "__main__":
    console()
