"""Says what is in a data set and what is wrong with it: `mnasnet-data inspect`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf
from utils.building import duplicates, shared_arguments
from utils.building.splits import ScannedSplit, class_counts
from utils.config import loading, settings
from utils.reading import dataset_info, pictures, records

COLUMNS, ROWS = 8, 6
# In pixels: side of a tile, space around it, height of its caption.
SIDE, GAP, CAPTION = 160, 14, 22
_FONT_SIZE = 13
_BACKGROUND, _FRAME, _INK = "#ffffff", "#f1f3f5", "#212529"


def write_sheet(path: str, tiles: Sequence[tuple[bytes, str]]) -> None:
    """Writes the sheet of encoded pictures and captions; UserError if that cannot be written."""
    pictures.require_pillow()
    encoded = io.BytesIO()
    draw_sheet(tiles).save(encoded, "PNG")
    files.write_bytes(path, encoded.getvalue())


def draw_sheet(tiles: Sequence[tuple[bytes, str]]) -> Any:
    """Returns Pillow's picture of the sheet, with `COLUMNS` encoded pictures and captions a row."""
    from PIL import Image

    rows = -(-len(tiles) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    for number, (image_bytes, caption) in enumerate(tiles):
        left = GAP + number % COLUMNS * (SIDE + GAP)
        top = GAP + number // COLUMNS * (SIDE + CAPTION + GAP)
        sheet.paste(_sheet_tile(image_bytes), (left, top))
        # A picture of its own, so that a long caption ends where the tile ends.
        sheet.paste(_sheet_text(caption, CAPTION, _BACKGROUND), (left, top + SIDE))
    return sheet


def _sheet_tile(image_bytes: bytes) -> Any:
    """Returns a square with the picture in its middle, or with words if it cannot be shown."""
    from PIL import Image

    small = pictures.thumbnail(image_bytes, SIDE, enlarge=True)
    if small is None:
        return _sheet_text("not shown", SIDE, _FRAME)
    tile = Image.new("RGB", (SIDE, SIDE), _FRAME)
    tile.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return tile


def _sheet_text(text: str, height: int, background: str) -> Any:
    """Returns a picture as wide as a tile with as much of a text as fits on one line."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (SIDE, height), background)
    place = (0, height / 2)
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(strip).text(place, " ".join(text.split()), _INK, font, anchor="lm")
    return strip


def differences(splits: Sequence[ScannedSplit], info: dataset_info.DatasetInfo | None) -> list[str]:
    """Returns sentences on what is not as dataset_info.json says."""
    if info is None:
        return []
    train, validation = records.SPLIT_PREFIXES
    told = {train: info.num_train_images, validation: info.num_eval_images}
    found = {split.name: split.num_records for split in splits}
    sentences = [
        f"{name} has {found.get(name, 0)} records, not {count}."
        for name, count in told.items()
        if found.get(name, 0) != count
    ]
    return sentences + _file_differences(splits, info)


def _file_differences(splits: Sequence[ScannedSplit], info: dataset_info.DatasetInfo) -> list[str]:
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
    data_dir: str,
    splits: Sequence[ScannedSplit],
    info: dataset_info.DatasetInfo | None,
    num_classes,
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
            {
                "file": os.path.basename(p.path),
                "record": p.record,
                "offset": p.offset,
                "reason": p.reason,
            }
            for split in splits
            for found in split.scans
            for p in found.problems
        ],
        "differences": differences(splits, info),
    }


def _split_summary(split: ScannedSplit, num_classes, names: Mapping[int, str]) -> dict[str, Any]:
    """Returns all that is known of a split."""
    facts = split.facts
    return {
        "files": len(split.scans),
        "records": split.num_records,
        "readable": len(facts),
        "bytes": sum(split.sizes),
        "height": spread(facts[:, 1]),
        "width": spread(facts[:, 2]),
        "picture_bytes": spread(facts[:, 3]),
        "classes": [
            {"label": label, "name": names.get(label), "images": count}
            for label, count in class_counts(split, num_classes).items()
        ],
    }


def spread(values: np.ndarray) -> dict[str, int]:
    """Returns the extremes and the median of numbers, zeros if there are none."""
    if len(values) == 0:
        return {"min": 0, "median": 0, "max": 0}
    return {
        "min": int(values.min()),
        "median": round(float(np.median(values))),
        "max": int(values.max()),
    }


def is_good(found: Mapping[str, Any]) -> bool:
    """Whether nothing is wrong with the data set of a `summary`, nor with its `duplicates`."""
    groups = found.get("duplicates", {}).get("groups", ())
    return not (found["problems"] or found["differences"] or any(map(duplicates.is_wrong, groups)))


_LISTED = 20  # problems, and classes, that are printed; the JSON file has all
_PLACES = 4  # of a group of equal pictures
_NAME_LENGTH = 30
_SPREAD = "{min}..{max} ({median})"


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:
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
    if "duplicates" in found:
        yield from _duplicate_lines(found["duplicates"])
    if not found["problems"] and not found["differences"]:
        labelled = "within range" if found["num_label_classes"] else "1 or more"
        agree = "; all agrees with dataset_info.json" if found["name"] else ""
        yield f"Every record is readable and labelled {labelled}{agree}."


_DUPLICATES = {
    (duplicates.SAME, True): "The same picture in both splits",
    (duplicates.NEAR, True): "Nearly the same picture in both splits",
    (duplicates.SAME, False): "The same picture twice in a split",
    (duplicates.NEAR, False): "Nearly the same picture twice in a split",
}


def _duplicate_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lists of pictures that are there more than once."""
    for (kind, across), title in _DUPLICATES.items():
        groups = [
            group
            for group in found["groups"]
            if (group["kind"], group["across_splits"]) == (kind, across)
        ]
        yield from _listing(title, list(map(_group, groups)))
    if not found["near_checked"]:
        yield "Nearly the same pictures were not looked for: pip install ImageHash."
        yield ""


def _group(group: Mapping[str, Any]) -> str:
    """Returns a line on pictures that are the same."""
    places = [
        f"{entry['file']}, record {entry['record']} ({_short(entry['name'] or entry['label'])})"
        for entry in group["records"][:_PLACES]
    ]
    more = len(group["records"]) - _PLACES
    if more > 0:
        places.append(f"{more} more")
    classes = " - in two classes" if group["across_classes"] else ""
    return "; ".join(places) + classes


def _count_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table of files, images and bytes."""
    yield f"  {'split':<12}{'files':>6}{'images':>9}{'unusable':>10}{'bytes':>10}"
    for name, split in splits.items():
        unusable = split["records"] - split["readable"]
        yield (
            f"  {name:<12}{split['files']:>6}{split['readable']:>9}{unusable:>10}"
            f"{_size_in_words(split['bytes']):>10}"
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


def _size_in_words(count: int) -> str:
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
    images = spread(counts)
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


def _short(name: str | int) -> str:
    """Returns a name, or a label without one, as it fits on a line of several."""
    name = str(name)
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


with importing_later():
    from utils.building import duplicates, splits

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
    found = summary(data_dir, scanned, info, num_classes)
    if with_duplicates:
        found["duplicates"] = duplicates.find(scanned, names)
    print("\n".join(report_lines(found)))
    if json_path:
        files.write_json(json_path, found)
    if contact_sheet_path:
        _draw_sheet(contact_sheet_path, scanned[0], names)
    return 0 if is_good(found) else 1


def _draw_sheet(path: str, split: splits.ScannedSplit, names: Mapping[int, str]) -> None:
    """Draws the contact sheet of a split."""
    pairs = splits.sample(split, COLUMNS * ROWS)
    write_sheet(path, [(image, _caption(label, names)) for image, label in pairs])
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
            arguments.data_dir,
            arguments.contact_sheet,
            arguments.json,
            arguments.num_label_classes,
            not arguments.no_duplicates,
            {name: getattr(arguments, name) for name in settings.RECORDS},
        )
    )
