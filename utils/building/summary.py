"""Sums up what a data set holds, and what is not as its description says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.building import duplicates
from utils.building.splits import Split, class_counts
from utils.reading import dataset_info, records


def differences(splits: Sequence[Split], info: dataset_info.DatasetInfo | None) -> list[str]:
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
