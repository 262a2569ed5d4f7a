"""The table of an ablation: mean and spread over repeats, beside the paper's values, as CSV and Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.tables import markdown_table, write_csv
from pyiqa_rali.data.sections import sections_for
from pyiqa_rali.studies.ablation.plan import Variant

PAPER = 'paper, not measured here: PLCC over 7 sets'


@dataclass
class TableRow:
    """One variant.

    Attributes:
        name: of the variant.
        group: 'ablation', or the sweep's name.
        value: the swept option's value.
        results: of each repeat, 'section/metric' to value.
        paper: the paper's average PLCC, where there is one.
        means: of each metric over sections, one number per repeat; filled in by `fill`.
        changes: the same, minus the reference's at the same repeat.
    """

    name: str
    group: str
    value: Any
    results: list[dict[str, float]]
    paper: float | None = None
    means: dict[str, np.ndarray] = field(default_factory=dict)
    changes: dict[str, np.ndarray] = field(default_factory=dict)


def fill(rows: Sequence[TableRow], sections: Sequence[str] | None, metrics: Sequence[str]) -> list[str]:
    """Average every row over sections and compare it, repeat by repeat, with the first row; return the sections.

    Raises:
        OptionError: a section or metric is not among the results.
    """
    sections = list(sections) if sections else _test_sections(rows[0].results[0])
    for row in rows:
        row.means = {metric: np.array([np.mean([_value(result, section, metric) for section in sections])
                                       for result in row.results]) for metric in metrics}
    for row in rows:
        row.changes = {metric: row.means[metric] - rows[0].means[metric] for metric in metrics}
    return sections


def _test_sections(result: dict[str, float]) -> list[str]:
    names = list(dict.fromkeys(name.split('/')[0] for name in result if '/' in name))
    return sections_for(names, 'test') or names


def _value(result: dict[str, float], section: str, metric: str) -> float:
    name = f'{section}/{metric}'
    if name not in result:
        known = [each for each in result if '/' in each]
        raise OptionError(f'sections, metrics: "{name}" is not among the results ({", ".join(known)}).'
                          f'{did_you_mean(name, known)}')
    return result[name]


def spread(values: np.ndarray) -> float:
    """Return the standard deviation of a sample; NaN for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def write_cells(path: Path, places: Sequence[tuple[Variant, int, str]], table: Sequence[TableRow]) -> None:
    """Write one line for each variant and repeat, with all correlations of its training.

    Args:
        path: the CSV file.
        places: (variant, repeat, cell's key) of each line.
        table: the rows with their results.
    """
    results = {row.name: row.results for row in table}
    columns = list(table[0].results[0])
    write_csv(path, ['variant', 'group', 'value', 'repeat', 'key', *columns], (
        [variant.name, variant.group, variant.value, repeat, key,
         *(results[variant.name][repeat][column] for column in columns)] for variant, repeat, key in places))


def write_table(path: Path, rows: Sequence[TableRow]) -> None:
    """Write one line per variant."""
    metrics = list(rows[0].means)
    columns = [f'{metric}_{what}' for metric in metrics for what in ('mean', 'sd', 'change_mean', 'change_sd')]
    lines = []
    for row in rows:
        statistics = [number for metric in metrics for values in (row.means[metric], row.changes[metric])
                      for number in (float(values.mean()), spread(values))]
        lines.append([row.name, row.group, row.value, len(row.results), *statistics, row.paper])
    write_csv(path, ['variant', 'group', 'value', 'repeats', *columns, 'paper_plcc'], lines)


def markdown(rows: Sequence[TableRow], sections: Sequence[str]) -> str:
    """Return the tables as Markdown: one for the variants, one for each sweep."""
    parts = [f'Mean ± standard deviation over {len(rows[0].results)} repeats (seed and split) on {", ".join(sections)}. '
             f'"change" is against "{rows[0].name}" of the same repeat. The last column is the paper\'s, from other data and '
             'another encoder: it was not measured here.']
    for group in dict.fromkeys(row.group for row in rows):
        parts.append(f'## {group}')
        members = [row for row in rows if row.group == group]
        metrics = list(rows[0].means)
        with_paper = any(row.paper is not None for row in members)
        head = ['variant', *(metric.upper() for metric in metrics), *(f'change of {metric.upper()}' for metric in metrics),
                *([PAPER] if with_paper else [])]
        lines = []
        for row in members:
            cells = [row.name, *(_with_spread(row.means[metric]) for metric in metrics),
                     *('' if row is rows[0] else _with_spread(row.changes[metric], '+') for metric in metrics)]
            lines.append([*cells, *([_paper(row)] if with_paper else [])])
        parts.append(markdown_table(head, lines))
    return '\n\n'.join(parts) + '\n'


def _with_spread(values: np.ndarray, sign: str = '') -> str:
    deviation = spread(values)
    tail = '' if math.isnan(deviation) and len(values) < 2 else f' ± {_short(deviation)}'
    return _short(float(values.mean()), sign) + tail


def _short(value: float, sign: str = '') -> str:
    """Return a correlation as papers write it.

    Example:
        >>> _short(0.7984), _short(-0.05, '+')
        ('.798', '-.050')
    """
    text = f'{value:{sign}.3f}'
    return text.replace('0.', '.', 1) if abs(value) < 1 else text


def _paper(row: TableRow) -> str:
    return '' if row.paper is None else _short(row.paper)
