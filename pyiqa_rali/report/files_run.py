"""Folders of tables and pictures in a report: what ablations, analyses and benchmarks leave."""

import csv
from pathlib import Path

from pyiqa_rali.errors import DataError
from pyiqa_rali.report.blocks import Block, Commands, Figure, Section, Table, Text

MOST_ROWS = 60


def files_section(title: str, folder: Path, command: str, tables: list[Path], pictures: list[Path]) -> Section:
    """Return a section that shows tables and pictures as they are.

    Args:
        title: of the section.
        folder: the run's.
        command: that makes them again; empty when it is not known.
        tables: CSV files, in order.
        pictures: PNG files, in order.

    Raises:
        DataError: there is nothing to show.
    """
    blocks: list[Block] = [Commands([command])] if command else []
    for path in tables:
        blocks += _table(path, folder)
    blocks += [Figure(_name(path, folder), png=path.read_bytes(), command=command) for path in pictures]
    if not tables and not pictures:
        raise DataError(f'{folder}: holds no table (CSV) and no picture (PNG) that a report can show.')
    return Section(title, blocks)


def _table(path: Path, folder: Path) -> list[Block]:
    with open(path, encoding='utf-8', newline='') as stream:
        rows = list(csv.reader(stream))
    if not rows:
        return [Text(f'{_name(path, folder)} is empty.')]
    width = len(rows[0])
    body = [tuple((row + [''] * width)[:width]) for row in rows[1:]]
    shown = [Table(_name(path, folder), rows[0], [tuple(map(_short, row)) for row in body[:MOST_ROWS]])]
    left = len(body) - MOST_ROWS
    return [*shown, Text(f'{left} further rows stand in {path}.')] if left > 0 else shown


def _short(cell: str) -> str:
    """Return a cell with no more than four significant decimals.

    Example:
        >>> _short('0.123456789'), _short('12'), _short('abc')
        ('0.1235', '12', 'abc')
    """
    try:
        value = float(cell)
    except ValueError:
        return cell
    return cell if len(cell) <= 6 else f'{value:.4g}' if abs(value) < 1 else f'{value:.6g}'


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))
