"""Reads published accuracies with their costs: those published, and the latencies measured here."""

from __future__ import annotations

import csv
import json
import pathlib
from typing import Any

DATA = pathlib.Path(__file__).parent / "data"
A1, MOBILENET_V2 = "MnasNet-A1", "MobileNetV2"
PUBLISHED = {A1: "mnasnet_a1_published.csv", MOBILENET_V2: "mobilenet_v2_published.csv"}
MEASURED = DATA / "latency_measured.json"
KINDS = ("float32", "int8")

Row = dict[str, float]


def texts(model: str) -> list[dict[str, str]]:
    """Returns the published rows of a model, as they were printed."""
    with (DATA / PUBLISHED[model]).open() as f:
        return list(csv.DictReader(f))


def published(model: str) -> list[Row]:
    """Returns the published rows of a model, as numbers."""
    return [{key: float(value) for key, value in row.items()} for row in texts(model)]


def measurement() -> dict[str, Any]:
    """Returns what `measure_latency` wrote: machine, date, rounds and `median_ms` of all rows."""
    return json.loads(MEASURED.read_text())


def with_latencies(model: str) -> list[Row]:
    """Returns the published rows of a model with the milliseconds measured here, by KINDS."""
    found = {
        (row["depth_multiplier"], row["image_size"]): {kind: row[kind] for kind in KINDS}
        for row in measurement()["median_ms"]
        if row["model"] == model
    }
    return [
        {**row, **found[row["depth_multiplier"], row["image_size"]]} for row in published(model)
    ]


def frontier(rows: list[Row], cost: str) -> list[Row]:
    """Returns the rows that are more accurate than every cheaper row, from cheap to costly."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["top1"])):
        if not best or row["top1"] > best[-1]["top1"]:
            best.append(row)
    return best
