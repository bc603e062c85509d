"""Says what is in a data set and what is wrong with it: `mnasnet-data inspect`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.data import contact_sheet, inspection_text, shards, shared_arguments
from utils.reading import dataset_info, examples, records, scan

import tensorflow.compat.v1 as tf  # isort: skip

_DESCRIPTION = """\
Reads every record and decodes every picture of a data set. Prints images a split and class, sizes,
bytes, the records that cannot be used with file and offset, and what differs from
dataset_info.json. Draws a contact sheet on request."""
# The number of classes if it is unknown: GREATEST_LABEL itself stands for all labels beyond it.
_ANY_LABEL = examples.GREATEST_LABEL - 1


@dataclasses.dataclass(frozen=True)
class Split:
    """What the files of a split hold.

    Attributes:
      name: train or validation.
      scans: of the files, in order.
      sizes: of the files in bytes, in the same order.
    """

    name: str
    scans: Sequence[scan.FileScan]
    sizes: Sequence[int]

    @property
    def facts(self) -> np.ndarray:
        """Label, height, width and bytes of each picture: int32 [readable records, 4]."""
        return np.concatenate([found.facts for found in self.scans])

    @property
    def num_records(self) -> int:
        """The number of records, good and bad."""
        return sum(found.num_records for found in self.scans)


def scan_splits(data_dir: str, num_classes: int | None) -> list[Split]:
    """Scans both splits; leaves out a split that has no files.

    Args:
      data_dir: folder or bucket.
      num_classes: labels beyond it are problems; None accepts any label from 1 up.

    Raises:
      UserError: there are no files at all, or one cannot be read.
    """
    splits = []
    for name, prefix in shards.PREFIXES.items():
        if tf.io.gfile.glob(os.path.join(data_dir, f"{prefix}*")):
            paths = records.list_files(data_dir, prefix)
            sizes = [state.size for state in records.states(paths)]
            scans = scan.scan(paths, num_classes or _ANY_LABEL, f"scan {name}")
            splits.append(Split(name, scans, sizes))
    if not splits:
        records.list_files(data_dir, records.TRAIN_PREFIX)  # raises the error
    return splits


def class_counts(split: Split, num_classes: int | None) -> dict[int, int]:
    """Counts the images of each label; with `num_classes` known, also of labels without images."""
    labels, counts = np.unique(split.facts[:, 0], return_counts=True)
    found = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    # Without that number, one wrong label could ask for a table of billions.
    expected = range(1, num_classes + 1) if num_classes else [n for n in found if n > 0]
    others = sorted(set(found) - set(expected))
    return {label: found.get(label, 0) for label in (*expected, *others)}


def differences(splits: Sequence[Split], info: dataset_info.DatasetInfo | None) -> list[str]:
    """Returns sentences on what is not as dataset_info.json says."""
    if info is None:
        return []
    told = {shards.TRAIN: info.num_train_images, shards.VALIDATION: info.num_eval_images}
    found = {split.name: split.num_records for split in splits}
    sentences = [
        f"{name} has {found.get(name, 0)} records, not {count}."
        for name, count in told.items()
        if found.get(name, 0) != count
    ]
    return sentences + _file_differences(splits, info)


def _file_differences(splits: Sequence[Split], info: dataset_info.DatasetInfo) -> list[str]:
    """Returns sentences on files that are not as dataset_info.json says."""
    scans = {
        os.path.basename(found.path): (found, size)
        for split in splits
        for found, size in zip(split.scans, split.sizes, strict=True)
    }
    sentences = [f"{name} is missing." for name in sorted(set(info.shards) - set(scans))]
    for name, (file, size) in scans.items():
        if info.shards and name not in info.shards:
            sentences.append(f"{name} is not listed.")
        elif info.shards and info.shards[name] != file.num_records:
            sentences.append(f"{name} has {file.num_records} records, not {info.shards[name]}.")
        if info.shard_bytes.get(name, size) != size:
            sentences.append(f"{name} has {size} bytes, not {info.shard_bytes[name]}.")
    return sentences


def summary(
    data_dir: str, splits: Sequence[Split], info: dataset_info.DatasetInfo | None, num_classes
) -> dict[str, Any]:
    """Returns all that is known, for the JSON file."""
    names = dict(enumerate(info.label_names if info else (), 1))
    return {
        "data_dir": data_dir,
        "name": info.name if info else None,
        "builder": info.builder if info else None,
        "num_label_classes": num_classes,
        "splits": {split.name: _split_summary(split, num_classes, names) for split in splits},
        "problems": [
            {"file": os.path.basename(p.path), "record": p.record, "offset": p.offset,
             "reason": p.reason}
            for split in splits for found in split.scans for p in found.problems
        ],
        "differences": differences(splits, info),
    }  # fmt: skip


def _split_summary(split: Split, num_classes, names: Mapping[int, str]) -> dict[str, Any]:
    """Returns all that is known of a split."""
    facts = split.facts
    return {
        "files": len(split.scans),
        "records": split.num_records,
        "readable": len(facts),
        "bytes": sum(split.sizes),
        "height": inspection_text.spread(facts[:, 1]),
        "width": inspection_text.spread(facts[:, 2]),
        "picture_bytes": inspection_text.spread(facts[:, 3]),
        "classes": [
            {"label": label, "name": names.get(label), "images": count}
            for label, count in class_counts(split, num_classes).items()
        ],
    }


def sample(split: Split, count: int) -> list[tuple[bytes, int]]:
    """Returns (encoded picture, label) of readable records spread evenly over a split."""
    segments = [segment for found in split.scans for segment in found.segments]
    ends = np.cumsum([segment.count for segment in segments], dtype=int)
    total = int(ends[-1]) if segments else 0
    chosen = np.linspace(0, total - 1, min(count, total)).astype(int)
    numbers = np.searchsorted(ends, chosen, side="right")
    return [
        _read(segments[n], int(i - ends[n]) + segments[n].count)
        for n, i in zip(numbers, chosen, strict=True)
    ]


def _read(segment: records.Segment, number: int) -> tuple[bytes, int]:
    """A record of a segment, found by hopping from length to length."""
    offset = segment.offset
    with tf.io.gfile.GFile(segment.path, "rb") as file:
        while True:
            file.seek(offset)
            length = int.from_bytes(
                file.read(records.HEADER_BYTES)[: records.LENGTH_BYTES], "little"
            )
            if number == 0:
                return records.unpack(file.read(length), segment.path, number)
            offset += length + records.FRAME_BYTES
            number -= 1


def run(
    data_dir: str,
    contact_sheet_path: str | None = None,
    json_path: str | None = None,
    num_classes: int | None = None,
) -> int:
    """Prints what is in a data set.

    Args:
      data_dir: folder or bucket.
      contact_sheet_path: of a PNG to draw; None for none.
      json_path: of a file for all that is found; None for none.
      num_classes: None for what dataset_info.json says.

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
    info = dataset_info.load(data_dir)
    num_classes = num_classes or (info.num_label_classes if info else None)
    splits = scan_splits(data_dir, num_classes)
    found = summary(data_dir, splits, info, num_classes)
    print("\n".join(inspection_text.lines(found)))
    if json_path:
        files.write_json(json_path, found)
    if contact_sheet_path:
        _draw_sheet(contact_sheet_path, splits[0], info)
    return 1 if found["problems"] or found["differences"] else 0


def _draw_sheet(path: str, split: Split, info: dataset_info.DatasetInfo | None) -> None:
    """Draws the contact sheet of a split."""
    names = dict(enumerate(info.label_names if info else (), 1))
    pairs = sample(split, contact_sheet.COLUMNS * contact_sheet.ROWS)
    contact_sheet.write(path, [(image, _caption(label, names)) for image, label in pairs])
    print(f"{path}: {len(pairs)} pictures of {split.name}.")


def _caption(label: int, names: Mapping[int, str]) -> str:
    """Returns a picture's label with the name of the class, if it is known."""
    return f"{label}: {names[label]}" if label in names else str(label)


def add_command(commands) -> None:
    """Adds `inspect` to the commands."""
    text = "say what is in a data set and what is wrong with it"
    parser = commands.add_parser("inspect", help=text, description=_DESCRIPTION)
    parser.add_argument("--data_dir", required=True, help="folder or bucket of TFRecords")
    parser.add_argument("--contact_sheet", help="PNG file for some pictures with their labels")
    parser.add_argument("--json", help="file for the whole report, with every class and problem")
    parser.add_argument(
        "--num_label_classes",
        type=shared_arguments.count,
        help="number of classes (default: what dataset_info.json says)",
    )
    parser.set_defaults(
        run=lambda arguments: run(
            arguments.data_dir, arguments.contact_sheet, arguments.json, arguments.num_label_classes
        )
    )
