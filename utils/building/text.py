"""Writes the report on a data set for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.building import duplicates, summary

_LISTED = 20  # problems, and classes, that are printed; the JSON file has all
_PLACES = 4  # of a group of equal pictures
_NAME_LENGTH = 30
_SPREAD = "{min}..{max} ({median})"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of the printed report of a `summary.summary`."""
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
            group for group in found["groups"]
            if (group["kind"], group["across_splits"]) == (kind, across)
        ]  # fmt: skip
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
    images = summary.spread(counts)
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
