"""Tables: CSV for programs, Markdown for people."""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pyiqa_rali.core.files import atomic_open


def csv_line(cells: Iterable[Any], end: str = '\n') -> str:
    """Return cells as one row of a CSV; None becomes an empty cell.

    Example:
        >>> csv_line(['a, b', 0.5, None])
        '"a, b",0.5,\\n'
    """
    stream = io.StringIO(newline='')
    csv.writer(stream).writerow(cells)
    # csv quotes the characters of its own line end only: with the default, \r\n, a lone \r in a file's name is quoted too
    return stream.getvalue()[:-2] + end


def write_csv(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> None:
    """Write a table as CSV, atomically.

    Args:
        path: the file; names of images that are not valid UTF-8 are written byte for byte.
        columns: the header.
        rows: cells in the order of the columns, or by column, where further keys are ignored. A cell is empty for None, NaN and
            columns that a row lacks.
    """
    with atomic_open(path, 'wb') as stream:
        stream.write(csv_line(columns).encode())
        for row in rows:
            cells = [row.get(column) for column in columns] if isinstance(row, Mapping) else row
            line = csv_line('' if is_missing(cell) else cell for cell in cells)
            stream.write(line.encode('utf-8', 'surrogateescape'))


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value: None, or NaN."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], cell: Callable[[Any], str] | None = None) -> str:
    """Return a table as Markdown, without a line end after it.

    Args:
        header: names of the columns.
        rows: cells in the order of the columns.
        cell: turns a cell into Markdown; None takes `markdown_cell`.

    Example:
        >>> print(markdown_table(['metric', 'PLCC'], [['a|b', 0.5]]))
        | metric | PLCC |
        | --- | --- |
        | a\\|b | 0.5 |
    """
    text = cell or markdown_cell
    lines = [[text(each) for each in header], ['---'] * len(header), *([text(each) for each in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def markdown_cell(value: Any) -> str:
    """Return a value as a cell: on one line, with the character that ends a cell escaped."""
    return ' '.join(str(value).splitlines()).replace('|', '\\|')
