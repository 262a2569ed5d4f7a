"""A folder of `evaluate` in a report: tables of correlations, comparisons, and the pictures behind the points."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.evaluation.paper import FITS
from pyiqa_rali.report.aspects import MetricAspects
from pyiqa_rali.report.blocks import Block, Case, Commands, Section, Table, Text, number
from pyiqa_rali.report.scored import ScoredSet, case, overlap_block, scored_section

MEASURES = ('plcc', 'srcc', 'krcc', 'plcc_fitted', 'rmse')


def evaluation_section(folder: Path, anchor: str) -> Section:
    """Return the section of one evaluation.

    Args:
        folder: what `evaluate` wrote.
        anchor: the beginning of the names of its pictures within the page.

    Raises:
        DataError: it did not finish, or contains test images that were trained on, which its options do not allow.
    """
    path = folder / 'results.json'
    if not path.exists():
        raise DataError(f'{folder}: has no results.json: the evaluation did not finish. See missing.csv in it, and '
                        'run it again.')
    results = json.loads(path.read_text(encoding='utf-8'))
    command = f'python -m pyiqa_rali evaluate -opt {folder / "options.yml"}'
    blocks: list[Block] = [Commands([command]), _results(results, command)]
    blocks += [table for table in (_significance(results, command), _paper(results, command)) if table is not None]
    options = yaml.safe_load((folder / 'options.yml').read_text(encoding='utf-8')) or {}
    blocks.append(overlap_block(results.get('overlap'), options, 'statistics', folder))
    missing = sum(row['missing'] for row in results['results'])
    if missing:
        blocks.append(Text(f'{missing} scores are missing; missing.csv in the folder names each image and the reason.'))
    section = Section(f'Evaluation: {folder.name}', blocks)
    aspects = {label: MetricAspects(label, options.get('metrics') or {}, told) for label, told in results['metrics'].items()}
    blocks += [Text(each.remark) for each in aspects.values() if each.remark]
    for dataset, facts in results['datasets'].items():
        section.sections += _scatters(folder, anchor, dataset, facts, results['metrics'], aspects, command)
    return section


def _results(results: dict[str, Any], command: str) -> Table:
    rows = [(row['dataset'], row['metric'], str(row['scored']), *(_with_interval(row, measure) for measure in MEASURES))
            for row in results['results']]
    caption = (f'Agreement with MOS; in brackets the {results["confidence"]:.0%} confidence interval by bootstrap over images. '
               'PLCC is without a fitted curve; "fitted" and RMSE are after a logistic curve with four parameters.')
    return Table(caption, ('data set', 'metric', 'images', 'PLCC', 'SRCC', 'KRCC', 'PLCC fitted', 'RMSE'), rows, command)


def _with_interval(row: dict[str, Any], measure: str) -> str:
    value, low, high = (row.get(name) for name in (measure, f'{measure}_low', f'{measure}_high'))
    return number(value) if low is None or high is None else f'{number(value)} [{number(low)}, {number(high)}]'


def _significance(results: dict[str, Any], command: str) -> Table | None:
    rows = [(row['dataset'], row['metric_a'], row['metric_b'], number(row['srcc_difference']), number(row['srcc_p_holm'], 4),
             row['srcc_better'] or 'neither', number(row['plcc_difference']), number(row['plcc_p_holm'], 4),
             row['plcc_better'] or 'neither') for row in results.get('significance') or ()]
    headers = ('data set', 'metric a', 'metric b', 'SRCC a - b', 'p', 'better', 'PLCC a - b', 'p', 'better')
    return Table("Which of two metrics is better; p corrected for the number of pairs by Holm's method", headers, rows,
                 command) if rows else None


def _paper(results: dict[str, Any], command: str) -> Table | None:
    rows = [(row['metric'], row['dataset'], row['measure'].upper(), number(row['ours']), number(row['paper']),
             number(row['difference']), FITS.get(row.get('fit', ''), ''), row['source']) for row in results.get('paper') or ()]
    headers = ('metric', 'data set', 'measure', 'here', 'published', 'difference', 'published PLCC', 'source')
    return Table('Beside published values', headers, rows, command) if rows else None


def _scatters(folder: Path, anchor: str, dataset: str, facts: dict[str, Any], metrics: dict[str, Any],
              aspects: Mapping[str, MetricAspects], command: str) -> list[Section]:
    with open(folder / 'scores' / f'{dataset}.csv', encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    sections = []
    for number_of, (label, metric) in enumerate(metrics.items()):
        scored = [row for row in rows if row.get(label)]
        images = [row['image'] for row in scored]
        found = ScoredSet(f'{dataset}: {label}', f'{anchor}-{number_of}-{_slug(dataset)}', images,
                          np.array([float(row['mos']) for row in scored]), np.array([float(row[label]) for row in scored]),
                          same_scale=False, opposite=bool(metric['lower_better']) != bool(facts['lower_better']),
                          missing=len(rows) - len(scored), command=command)
        sections.append(scored_section(found, _case_of(images), aspects[label].of(images)))
    return sections


def _case_of(images: list[str]) -> Callable[[str, str, int, list[str]], Case]:
    return lambda name, kind, position, lines: case(name, kind, images[position], lines)


def _slug(name: str) -> str:
    return ''.join(character if character.isalnum() else '-' for character in name)
