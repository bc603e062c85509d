"""Reads YAML without surprises: every mistake becomes one sentence that names its source.

PyYAML raises more than its own errors (ValueError for `!!int x`, KeyError for `!!bool x`,
RecursionError for two thousand brackets). It takes the last of two equal names without a word, and
it lets a few lines of aliases stand for more values than fit in memory.
"""

from __future__ import annotations

from typing import Any

import yaml

from utils.base import files
from utils.base.errors import UserError, excerpt

_MOST_CHARACTERS = 4_000_000  # of a text with its aliases written out
_MOST_BITS = 1000  # of a whole number; a larger one cannot be compared with floats
_MERGE = "tag:yaml.org,2002:merge"


def load(text: str, source: str) -> Any:
    """Returns the content of a YAML (or JSON) text; dates stay text.

    Args:
      text: one document.
      source: how the user gave it, for the error: a file or a flag.

    Raises:
      UserError: the text is not valid, is nested too deeply, gives a name twice or has aliases that
        stand for too much.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        raise UserError(f"{source} is not valid YAML: {_explain(e)}.") from e
    except RecursionError:
        raise UserError(f"{source} is not valid YAML: it is nested too deeply.") from None


class _Loader(yaml.SafeLoader):
    """Loads plain values as PyYAML does, but raises a YAMLError for every mistake."""

    # A folder may be called 2026-01-01, and 2026-99-99 is not even a date.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None and _count_characters(node, {}) > _MOST_CHARACTERS:
            raise yaml.YAMLError(f"it stands for more than {_MOST_CHARACTERS} characters")
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise _error(key, f"{excerpt(key.value)} is given twice; remove one of them")
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node, deep=False):
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as e:  # constructors raise errors of many kinds
            kind = node.tag.rpartition(":")[2]
            raise _error(node, f"{excerpt(str(node.value))!r} cannot be read as {kind}") from e
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise _error(node, f"{excerpt(node.value)} has too many digits")
        return value


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _count_characters(node: yaml.Node, counts: dict[int, int]) -> int:
    """Returns how many characters a node stands for, with its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if id(node) in counts:
        if not counts[id(node)]:
            raise _error(node, "it contains itself")
        return counts[id(node)]
    counts[id(node)] = 0  # for an alias inside the node, which then contains itself
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    counts[id(node)] = 1 + sum(_count_characters(part, counts) for part in parts)
    return counts[id(node)]


def _explain(error: yaml.YAMLError) -> str:
    """Returns the line, the column and what is wrong, without the text around it."""
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def read_mapping(path: str) -> dict[str, Any]:
    """Returns the mapping in a YAML (or JSON) file; {} for an empty file.

    Raises:
      UserError: the file cannot be read, is not valid or holds something else.
    """
    content = load(files.read_text(path), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping (name: value lines).")
    return content
