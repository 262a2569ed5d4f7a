"""A benchmark's rows compared with those of the release's path: ratios, shares, the table for the screen, and the CSV."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pyiqa_rali.studies.benchmark.cells import KEYS, row_key
from pyiqa_rali.studies.benchmark.subjects import LEFT_OUT, OFFLINE, RALI, RELEASE

RELEASE_LABEL = f'{RELEASE} fp32'
COLUMNS = (*KEYS, 'repeats', 'median_ms', 'min_ms', 'max_ms', 'ms_per_image', 'images_per_s', 'time_ratio', 'cpu_ms',
           'cpu_ratio', 'peak_mb', 'peak_gpu_mb', 'memory_ratio', 'load_s', 'start_s', 'start_ratio', 'start_cpu_s',
           'start_cpu_ratio', 'parameters', 'gflops', 'peak_share', 'tower_share', 'workers', 'model_share', 'images',
           'largest_difference', 'difference_share', 'srcc', 'computed_by', 'processor', 'error')
Row = dict[str, Any]


def with_ratios(rows: list[Row]) -> list[Row]:
    """Return the rows with what follows from several: ratios to the release's path, shares, differences of scores."""
    found = {row_key(row): row for row in rows}
    return [{**row, **_compared(row, found)} for row in rows]


def _compared(row: Row, found: dict[tuple, Row]) -> Row:
    release = found.get(row_key({**row, 'subject': RELEASE_LABEL}), {})
    more: Row = {}
    if 'error' in row:
        return more
    if row['section'] == 'speed':
        _add_ratio(more, 'time_ratio', row, release, 'median_ms')
        _add_ratio(more, 'cpu_ratio', row, release, 'cpu_ms')
        if row['input'] in ('tensor', 'resident'):  # throughput: inverse to time
            _add_ratio(more, 'tower_share', found.get(row_key({**row, 'input': 'tower'}), {}), row, 'median_ms')
    if row['section'] in ('speed', 'start'):
        _add_ratio(more, 'start_ratio', row, release, 'start_s')
        _add_ratio(more, 'start_cpu_ratio', row, release, 'start_cpu_s')
        _add_ratio(more, 'memory_ratio', row, release, 'peak_mb' if row['device'] == 'cpu' else 'peak_gpu_mb')
    if row['section'] == 'pipeline' and row['input'] != 'model':
        _add_ratio(more, 'model_share', row, found.get(row_key({**row, 'input': 'model'}), {}), 'images_per_s')
    if row['section'] == 'reasoner' and row['input'] != 'reasoner':
        reasoner = next((each for each in found.values() if each['section'] == 'reasoner' and each['input'] == 'reasoner'), {})
        _add_ratio(more, 'time_ratio', row, reasoner, 'median_ms')
        _add_ratio(more, 'memory_ratio', row, reasoner, 'peak_mb' if row['device'] == 'cpu' else 'peak_gpu_mb')
    if row['section'] == 'scores' and row['subject'].split()[0] == RALI and 'scores' in release and release is not row:
        more.update(compare_scores(row['scores'], release['scores'], release['score_range']))
    return more


def _add_ratio(more: Row, name: str, row: Row, other: Row, column: str) -> None:
    if row.get(column) and other.get(column):
        more[name] = row[column] / other[column]


def compare_scores(scores: list[float], reference: list[float], score_range: float) -> Row:
    """Return the largest difference of two lists of scores, its share of the width of their range, and, from 3 on, SRCC."""
    from scipy.stats import spearmanr
    difference = float(np.abs(np.array(scores) - np.array(reference)).max())
    found = {'largest_difference': difference, 'difference_share': difference / score_range}
    if len(scores) > 2:
        found['srcc'] = float(spearmanr(scores, reference).statistic)
    return found


def _number(form: str, scale: float = 1.0) -> Callable[[Any], str]:
    return lambda value: '-' if value is None else format(value * scale, form)


def _text(value: Any) -> str:
    return '-' if value is None else str(value)


def _size(row: Row) -> str:
    return f'{row["width"]} x {row["height"]}'


# title of the section, whether a row belongs there, and its columns: heading, name (or function of the row), format
SECTIONS: tuple[tuple[str, Callable[[Row], bool], tuple], ...] = (
    ('From the start of the process to the first score of a file', lambda row: row['section'] == 'start', (
        ('threads', 'threads', str), ('seconds', 'start_s', _number('.2f')), ('ratio', 'start_ratio', _number('.2f')),
        ('CPU s', 'start_cpu_s', _number('.2f')), ('ratio', 'start_cpu_ratio', _number('.2f')),
        ('of it loading', 'load_s', _number('.2f')), ('peak MB', 'peak_mb', _number('.0f')),
        ('GPU MB', 'peak_gpu_mb', _number('.0f')), ('ratio', 'memory_ratio', _number('.2f')),
        ('parameters', 'parameters', _number('.1f', 1e-6)))),
    ('Time (without the tower alone)', lambda row: row['section'] == 'speed' and row['input'] != 'tower', (
        ('threads', 'threads', str), ('computed by', 'computed_by', _text), ('input', 'input', str), ('size', _size, str),
        ('batch', 'batch', str),
        ('ms an image', 'ms_per_image', _number('.1f')), ('ms a call', 'median_ms', _number('.1f')),
        ('least', 'min_ms', _number('.1f')), ('most', 'max_ms', _number('.1f')), ('calls', 'repeats', _number('d', 1)),
        ('ratio', 'time_ratio', _number('.3f')), ('CPU ms', 'cpu_ms', _number('.0f')), ('ratio', 'cpu_ratio', _number('.3f')),
        ('peak MB', 'peak_mb', _number('.0f')), ('GPU MB', 'peak_gpu_mb', _number('.0f')),
        ('ratio', 'memory_ratio', _number('.2f')),
        ('of the tower', 'tower_share', _number('.0%')))),
    ('The bare vision tower, its inputs resident', lambda row: row['section'] == 'speed' and row['input'] == 'tower', (
        ('threads', 'threads', str), ('size', _size, str), ('batch', 'batch', str), ('ms a call', 'median_ms', _number('.1f')),
        ('images/s', 'images_per_s', _number('.2f')), ('GFLOP', 'gflops', _number('.1f')),
        ('of a matrix product', 'peak_share', _number('.0%')))),
    ('Scores beside those of the release', lambda row: row['section'] == 'scores', (
        ('images', 'images', str), ('largest difference', 'largest_difference', _number('.2g')),
        ('of the range', 'difference_share', _number('.1e')), ('SRCC', 'srcc', _number('.5f')))),
    ('Scoring a folder of JPEG files', lambda row: row['section'] == 'pipeline', (
        ('size', _size, str), ('what', 'input', str), ('images', 'images', str), ('images/s', 'images_per_s', _number('.1f')),
        ('of the model', 'model_share', _number('.0%')))),
    ('Beside a language model that writes', lambda row: row['section'] == 'reasoner', (
        ('what', 'input', str), ('batch', 'batch', str), ('s a call', 'median_ms', _number('.2f', 1e-3)),
        ('ratio', 'time_ratio', _number('.4f')), ('peak MB', 'peak_mb', _number('.0f')),
        ('GPU MB', 'peak_gpu_mb', _number('.0f')), ('ratio', 'memory_ratio', _number('.3f')),
        ('parameters', 'parameters', _number('.1f', 1e-6)))))


def table_text(rows: list[Row]) -> str:
    """Return all rows as tables for the screen; columns without a value are left out, and rows that failed say why."""
    parts = []
    for title, belongs, columns in SECTIONS:
        chosen = [row for row in rows if belongs(row)]
        if chosen:
            parts.append(f'{title}\n{_section(chosen, columns)}')
    return '\n\n'.join(parts)


def _section(rows: list[Row], columns: tuple) -> str:
    def value(row: Row, name: Any) -> Any:
        return name(row) if callable(name) else row.get(name)

    kept = [column for column in columns if any(value(row, column[1]) is not None for row in rows)]
    lines = [['', *(heading for heading, _, _ in kept)]]
    for row in rows:
        lines.append([row['subject'], *('' if 'error' in row and value(row, name) is None else _cell(form, value(row, name))
                                        for _, name, form in kept)])
    texts = aligned(lines).split('\n')
    return '\n'.join([texts[0], *(text.rstrip() + (f'  {row["error"]}' if 'error' in row else '')
                                  for text, row in zip(texts[1:], rows, strict=True))])


def _cell(form: Callable[[Any], str], value: Any) -> str:
    return '-' if value is None else form(value)


def is_busy(row: Row) -> bool:
    """Whether one thread on the CPU had to wait for other programs, which shows as wall-clock time well above CPU time."""
    return row.get('threads') == 1 and row['device'] == 'cpu' and row.get('cpu_ms', 1e9) * 1.5 < row.get('median_ms', 0)


def aligned(lines: list[list[str]]) -> str:
    """Return lines of cells as text, the first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return '\n'.join('  '.join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                            zip(line[1:], widths[1:], strict=True))]) for line in lines)


def footnotes(encoder: str, rows: list[Row]) -> str:
    """Return what a reader of the tables must know.

    Args:
        encoder: of the random weights.
        rows: all rows.
    """
    without_figure, busy = sum('error' in row for row in rows), sum(is_busy(row) for row in rows)
    left_out = '; '.join(f'{reason}: {", ".join(names)}' for reason, names in LEFT_OUT.items())
    lines = [f"ratio: to the release's own path in the same place of the grid; under 1 is faster, or smaller. {RALI} and "
             f'{RELEASE} are {encoder} with random weights, read from files. Where they are measured, {", ".join(OFFLINE)} of '
             'pyiqa have random weights too; these take the same time as any others.',
             'peak MB: the largest resident memory of the process, loading included; each subject has a process of its own for '
             'each number of threads. Starts are timed with the files in the cache of the system, and after what is done once '
             'on a machine: the race of the libraries of products, and the export for onnxruntime.',
             'computed by: what was taken on this machine, whatever was asked for: bf16 gives way to fp32 where that is '
             'faster, and products in fp32 are those of the faster library.',
             f'Left out of the learned metrics of pyiqa, because they {left_out}.']
    if busy:
        lines.append(f'In {busy} cells OTHER PROGRAMS TOOK THE CPU (the calls had under two thirds of it): compare CPU ms '
                     'there, or measure again on an idle machine.')
    if without_figure:
        lines.append(f'{without_figure} cells have NO RESULT: the reason is in their rows.')
    return '\n'.join(lines)
