"""Makes the page of a report: one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

# In the order in which they run; they share one scope.
_SCRIPTS = ("elements.js", "charts.js", "classes.js", "matrix.js", "gallery.js", "report.js")


def make(content: Mapping[str, Any], thumbnails: Mapping[int, bytes]) -> str:
    """Returns the text of the page.

    Args:
      content: as `content.gather` returns it, with the entries of all pictures that are shown.
      thumbnails: WebP files by the numbers of their pictures.
    """
    data = dict(content)
    data["thumbnails"] = {
        number: base64.b64encode(encoded).decode() for number, encoded in thumbnails.items()
    }
    scripts = "\n".join(_read(name) for name in _SCRIPTS)
    parts = {"STYLE": _read("style.css"), "SCRIPT": scripts, "DATA": _embedded(data)}
    text = _read("report.html")
    for name, part in parts.items():
        text = text.replace(f"/*{name}*/", part, 1)
    return text


def _read(name: str) -> str:
    return (importlib.resources.files(__package__) / "report_site" / name).read_text("utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """Returns JSON in which no name of a class or a file can end the script that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
