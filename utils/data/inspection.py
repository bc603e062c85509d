"""Says what is in a data set and what is wrong with it: `mnasnet-data inspect`."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.data import contact_sheet, shards, shared_arguments
from utils.reading import dataset_info, examples, framing, records, scan
from utils.reading.segments import Segment

import tensorflow.compat.v1 as tf  # isort: skip

_DESCRIPTION = """\
Reads every record and decodes every picture of a data set. Prints images a split and class, sizes,
bytes, the records that cannot be used with file and offset, and what differs from
dataset_info.json. Draws a contact sheet on request."""
_LISTED = 20  # problems, and classes, that are printed; the JSON file has all
_NAME_LENGTH = 30
_SPREAD = "{min}..{max} ({median})"
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
        "height": _spread(facts[:, 1]),
        "width": _spread(facts[:, 2]),
        "picture_bytes": _spread(facts[:, 3]),
        "classes": [
            {"label": label, "name": names.get(label), "images": count}
            for label, count in class_counts(split, num_classes).items()
        ],
    }


def _spread(values: np.ndarray) -> dict[str, int]:
    """Returns the extremes and the median of numbers, zeros if there are none."""
    if len(values) == 0:
        return {"min": 0, "median": 0, "max": 0}
    return {
        "min": int(values.min()),
        "median": round(float(np.median(values))),
        "max": int(values.max()),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of the printed report of a `summary`."""
    title = f"{found['data_dir']}: {found['name'] or 'without dataset_info.json'}"
    yield title + (f" (made by {found['builder']})" if found["builder"] else "")
    yield ""
    yield from _count_lines(found["splits"])
    yield ""
    yield from _size_lines(found["splits"])
    yield ""
    yield from _class_lines(found["splits"])
    yield ""
    yield from _listing("Problems", [_problem(problem) for problem in found["problems"]])
    yield from _listing("Not as dataset_info.json says", found["differences"])
    if not found["problems"] and not found["differences"]:
        labelled = "within range" if found["num_label_classes"] else "1 or more"
        agree = "; all agrees with dataset_info.json" if found["name"] else ""
        yield f"Every record is readable and labelled {labelled}{agree}."


def _count_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table of files, images and bytes."""
    yield f"  {'split':<12}{'files':>6}{'images':>9}{'unusable':>10}{'bytes':>10}"
    for name, split in splits.items():
        unusable = split["records"] - split["readable"]
        yield (
            f"  {name:<12}{split['files']:>6}{split['readable']:>9}{unusable:>10}"
            f"{_bytes(split['bytes']):>10}"
        )


def _size_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table of the pictures' sizes."""
    yield f"  {'least..greatest (median)':<26}{'width':<18}{'height':<18}KB a picture"
    for name, split in splits.items():
        width, height, size = (split[key] for key in ("width", "height", "picture_bytes"))
        kilobytes = {key: f"{value / 1000:.1f}" for key, value in size.items()}
        texts = [_SPREAD.format(**spread) for spread in (width, height, kilobytes)]
        yield f"  {name:<26}{texts[0]:<18}{texts[1]:<18}{texts[2]}"


def _problem(problem: Mapping[str, Any]) -> str:
    """Returns a line on a record that cannot be used."""
    offset = "" if problem["offset"] is None else f", byte {problem['offset']}"
    return f"{problem['file']}, record {problem['record']}{offset}: {problem['reason']}"


def _bytes(count: int) -> str:
    """Returns a number of bytes in the largest unit that leaves at least 1."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _class_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table of few classes, or the extremes of many."""
    if max(len(split["classes"]) for split in splits.values()) > _LISTED:
        for name, split in splits.items():
            yield from _extreme_lines(name, split["classes"])
        return
    table: dict[int, dict[str, Any]] = {}
    for name, split in splits.items():
        for entry in split["classes"]:
            table.setdefault(entry["label"], {"name": entry["name"]})[name] = entry["images"]
    yield f"  {'label':>5}  " + "".join(f"{name:>11}" for name in splits) + "  name"
    for label, row in table.items():
        counts = "".join(f"{row.get(name, 0):>11}" for name in splits)
        yield f"  {label:>5}  {counts}  {row['name'] or ''}".rstrip()


def _extreme_lines(name: str, classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the classes of a split with the fewest and the most images."""
    counts = np.array([entry["images"] for entry in classes])
    images = _spread(counts)
    yield (
        f"  {name}: {len(classes)} classes with {images['min']} to {images['max']} images, median "
        f"{images['median']}; {int((counts == 0).sum())} without images"
    )
    if images["min"] == images["max"]:
        return
    order = np.argsort(counts, kind="stable")
    for what, chosen in (("fewest", order[:3]), ("most", order[::-1][:3])):
        texts = (
            f"{_short(classes[i]['name'] or 'class')} (label {classes[i]['label']}): {counts[i]}"
            for i in chosen
        )
        yield f"    {what}: {'; '.join(texts)}"


def _short(name: str) -> str:
    """Returns a name as it fits on a line of extremes."""
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1].rstrip(" ,") + "…"


def _listing(title: str, sentences: Sequence[str]) -> Iterator[str]:
    """Yields the first sentences of a list under a title, and how many more there are."""
    if not sentences:
        return
    yield f"{title} ({len(sentences)}):"
    for sentence in sentences[:_LISTED]:
        yield f"  {sentence}"
    if len(sentences) > _LISTED:
        yield f"  ... and {len(sentences) - _LISTED} more, which --json=FILE lists"
    yield ""


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


def _read(segment: Segment, number: int) -> tuple[bytes, int]:
    """Returns (encoded picture, label) of a record of a segment, given its number in it."""
    frames = framing.frames(segment.path, segment.offset)
    frame = next(itertools.islice(frames, number, None))
    return records.unpack(framing.content(segment.path, frame), segment.path, number)


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
    print("\n".join(lines(found)))
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
