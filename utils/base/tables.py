"""Writes tables of text: in Markdown for pages, with aligned columns for a terminal.

The first columns name what a row is about and are aligned left; the numbers after them are aligned
right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table in Markdown, without a line feed at its end.

    Args:
      header: titles of the columns.
      rows: the cells of each row.
      left: number of columns that are aligned left.
    """
    return "\n".join([markdown_head(header, left), *map(markdown_row, rows)])


def markdown_head(header: Sequence[str], left: int = 1) -> str:
    """Returns the two lines above the rows, for a caller that prints each row when it is known."""
    return f"{markdown_row(header)}\n|{'---|' * left}{'---:|' * (len(header) - left)}"


def markdown_row(cells: Iterable[str]) -> str:
    """Returns one line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def plain(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table whose columns are as wide as their widest cell, two spaces apart.

    Args:
      header: titles of the columns.
      rows: the cells of each row, as many as the header has.
      left: number of columns that are aligned left.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
