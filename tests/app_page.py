"""Reads the snippets of g3doc/app.md."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parent.parent / "g3doc/app.md"


def snippets(language):
    """Returns the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
