"""Folders of tables and pictures in a report: those of ablations, analyses and benchmarks."""

import csv
import json
from pathlib import Path

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.report.blocks import Block, Commands, Figure, Section, Table, Text

MOST_ROWS = 60
ROWS_OF_LONG_TABLES = 8


def files_section(title: str, folder: Path, command: str, tables: list[Path], pictures: list[Path]) -> Section:
    """Return a section that shows tables and pictures as they are.

    Args:
        title: of the section.
        folder: the run's.
        command: reproduces them; empty when it is not known.
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


def ablation_section(folder: Path, anchor: str) -> Section:
    """Return the section of an ablation: its table and pictures, without those of each training.

    Args:
        folder: what `ablate` wrote.
        anchor: not used: there are no pictures of images.
    """
    return files_section(f'Ablation: {folder.name}', folder, f'python -m pyiqa_rali ablate -opt {folder / "options.yml"}',
                         sorted(folder.glob('table.csv')), sorted((folder / 'figures').glob('*.png')))


def cascade_section(folder: Path, anchor: str) -> Section:
    """Return the section of a cascade: accuracy for each share that is handed on.

    Args:
        folder: what `cascade` wrote.
        anchor: not used: there are no pictures of images.
    """
    return files_section(f'Cascade: {folder.name}', folder, f'python -m pyiqa_rali cascade -opt {folder / "options.yml"}',
                         sorted(folder.glob('results.csv')), sorted((folder / 'figures').glob('*.png')))


def analysis_section(folder: Path, anchor: str) -> Section:
    """Return the section of an analysis: what it was asked, its tables and pictures.

    Args:
        folder: what `analyse` wrote.
        anchor: not used: there are no pictures of images.
    """
    asked = json.loads((folder / 'options.json').read_text(encoding='utf-8'))
    kind = asked.pop('kind')
    section = files_section(f'Analysis of {kind}: {folder.name}', folder, '', sorted(folder.glob('*.csv')),
                            sorted(folder.glob('*.png')))
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in asked.items()]
    section.blocks.insert(0, Table(f'What python -m pyiqa_rali analyse {kind} was asked', ('option', 'value'), rows))
    return section


def _table(path: Path, folder: Path) -> list[Block]:
    with open(path, encoding='utf-8', newline='') as stream:
        rows = list(csv.reader(stream))
    if not rows:
        return [Text(f'{_name(path, folder)} is empty.')]
    width = len(rows[0])
    body = [tuple((row + [''] * width)[:width]) for row in rows[1:]]
    count = len(body) if len(body) <= MOST_ROWS else ROWS_OF_LONG_TABLES
    shown: list[Block] = [Table(_name(path, folder), rows[0], [tuple(map(_short, row)) for row in body[:count]])]
    return [*shown, Text(f'{len(body) - count} further rows are in {path}.')] if len(body) > count else shown


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
