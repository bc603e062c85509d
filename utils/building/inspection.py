"""Says what is in a data set and what is wrong with it: `mnasnet-data inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf
from utils.building import shared_arguments
from utils.config import loading, settings
from utils.reading import dataset_info

with importing_later():
    from utils.building import contact_sheet, duplicates, splits, summary, text

_DESCRIPTION = """\
Reads every record and decodes every picture of a data set. Prints images a split and class, sizes,
bytes, the records that cannot be used with file and offset, and what differs from
dataset_info.json. Names pictures that are there twice, also where they were only compressed anew
or resized. Draws a contact sheet on request."""


def run(
    data_dir: str,
    contact_sheet_path: str | None = None,
    json_path: str | None = None,
    num_classes: int | None = None,
    with_duplicates: bool = True,
    records_read: Mapping[str, Any] | None = None,
) -> int:
    """Prints what is in a data set.

    Args:
      data_dir: folder or bucket.
      contact_sheet_path: of a PNG to draw; None for none.
      json_path: of a file for all that is found; None for none.
      num_classes: None for what dataset_info.json says.
      with_duplicates: whether to compare the pictures with each other.
      records_read: settings in `settings.RECORDS` that are not the usual ones.

    Returns:
      The exit status: 1 if something is wrong with the data set.

    Raises:
      UserError: there are no files, one cannot be read, or an output cannot be written.
    """
    if not tf.io.gfile.isdir(data_dir):
        raise UserError(f"--data_dir={data_dir} is not a folder: check the path.")
    for path, flag in ((json_path, "json"), (contact_sheet_path, "contact_sheet")):
        if path:
            files.check_writable(path, flag)
    data = {**dict.fromkeys(settings.RECORDS), **(records_read or {}), "data_dir": data_dir}
    info = dataset_info.of_run(data)
    names = dict(enumerate(info.label_names if info else (), 1))
    num_classes = num_classes or (info.num_label_classes if info else None)
    scanned = splits.scan_splits(data, num_classes)
    found = summary.summary(data_dir, scanned, info, num_classes)
    if with_duplicates:
        found["duplicates"] = duplicates.find(scanned, names)
    print("\n".join(text.lines(found)))
    if json_path:
        files.write_json(json_path, found)
    if contact_sheet_path:
        _draw_sheet(contact_sheet_path, scanned[0], names)
    return 0 if summary.is_good(found) else 1


def _draw_sheet(path: str, split: splits.Split, names: Mapping[int, str]) -> None:
    """Draws the contact sheet of a split."""
    pairs = splits.sample(split, contact_sheet.COLUMNS * contact_sheet.ROWS)
    contact_sheet.write(path, [(image, _caption(label, names)) for image, label in pairs])
    print(f"{path}: {len(pairs)} pictures of {split.name}.")


def _caption(label: int, names: Mapping[int, str]) -> str:
    """Returns a picture's label with the name of the class, if it is known."""
    return f"{label}: {names[label]}" if label in names else str(label)


def add_command(commands) -> None:
    """Adds `inspect` to the commands."""
    what = "say what is in a data set and what is wrong with it"
    parser = commands.add_parser("inspect", help=what, description=_DESCRIPTION)
    parser.add_argument("--data_dir", required=True, help="folder or bucket of TFRecords")
    parser.add_argument("--contact_sheet", help="PNG file for some pictures with their labels")
    parser.add_argument("--json", help="file for the whole report, with every class and problem")
    parser.add_argument(
        "--num_label_classes",
        type=shared_arguments.count,
        help="number of classes (default: what dataset_info.json says)",
    )
    parser.add_argument(
        "--no_duplicates", action="store_true", help="do not look for pictures that are there twice"
    )
    loading.add_arguments(parser, settings.RECORDS)
    parser.set_defaults(
        run=lambda arguments: run(
            arguments.data_dir, arguments.contact_sheet, arguments.json,
            arguments.num_label_classes, not arguments.no_duplicates,
            {name: getattr(arguments, name) for name in settings.RECORDS},
        )
    )  # fmt: skip
