"""The tables of an evaluation: CSV for programs, Markdown for people."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyiqa_rali.core.tables import markdown_table, write_csv
from pyiqa_rali.data.training_images import overlap_told
from pyiqa_rali.evaluation.paper import FITS
from pyiqa_rali.evaluation.scoring import ScoredImage
from pyiqa_rali.measures.agreement import MEASURES
from pyiqa_rali.scoring.score_table import REASONS

RESULT_COLUMNS = ('dataset', 'metric', 'images', 'scored', 'missing', 'fit',
                  *(f'{measure}{end}' for measure in MEASURES for end in ('', '_low', '_high')))
SIGNIFICANCE_COLUMNS = ('dataset', 'metric_a', 'metric_b', 'images', 'srcc_a', 'srcc_b', 'srcc_difference', 'srcc_low',
                        'srcc_high', 'srcc_p', 'srcc_p_holm', 'srcc_better', 'plcc_a', 'plcc_b', 'plcc_difference', 'plcc_t',
                        'plcc_p', 'plcc_p_holm', 'plcc_better')
PAPER_COLUMNS = ('metric', 'dataset', 'measure', 'ours', 'paper', 'difference', 'method', 'source', 'fit')
COUNT_COLUMNS = ('dataset', 'metric', 'images', 'scored', *REASONS)
MISSING_COLUMNS = ('dataset', 'metric', 'image', 'reason', 'message')
OVERLAP_COLUMNS = ('dataset', 'metric', 'images', 'trained_on', 'alike', 'first', 'unrecorded')
TITLES = {'plcc': 'PLCC', 'plcc_fitted': 'PLCC after fit', 'srcc': 'SRCC', 'krcc': 'KRCC', 'rmse': 'RMSE after fit'}

Scored = dict[str, dict[str, list[ScoredImage]]]  # by data set, then metric


def write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as CSV, numbers with six decimals, an empty cell for NaN."""
    write_csv(path, columns, ([_cell(row[column]) for column in columns] for row in rows))


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return '; '.join(map(str, value))
    if isinstance(value, float):
        return value if math.isnan(value) else f'{value:.6f}' if abs(value) >= 1e-4 or value == 0 else f'{value:.3e}'
    return value


def counts(scored: Scored) -> list[dict[str, Any]]:
    """Return how many images of each data set have a score by each metric, and why the others have none."""
    return [{'dataset': dataset, 'metric': metric, 'images': len(images),
             'scored': sum(each.score is not None for each in images),
             **{reason: sum(each.reason == reason for each in images) for reason in REASONS}}
            for dataset, metrics in scored.items() for metric, images in metrics.items()]


def missing(scored: Scored) -> list[dict[str, Any]]:
    """Return every image without a score, and why."""
    return [{'dataset': dataset, 'metric': metric, 'image': each.image, 'reason': each.reason, 'message': each.error}
            for dataset, metrics in scored.items() for metric, images in metrics.items() for each in images
            if each.score is None]


def write_scores(folder: Path, scored: Scored) -> None:
    """Write one table per data set: image, MOS, and a column for each metric; an empty cell is no score."""
    for dataset, metrics in scored.items():
        write_csv(folder / f'{dataset}.csv', ['image', 'mos', *metrics], (
            [images[0].image, repr(images[0].mos), *(None if each.score is None else f'{each.score:.7g}' for each in images)]
            for images in zip(*metrics.values(), strict=True)))


def write_pyiqa_row(path: Path, results: list[dict[str, Any]], datasets: list[str], metrics: list[str]) -> None:
    """Write PLCC/SRCC/KRCC as pyiqa's tables of results have them: one line per metric, one column per data set.

    Cells keep their sign, which pyiqa's script drops: a metric with the wrong direction remains recognisable.
    """
    found = {(row['dataset'], row['metric']): '/'.join(f'{row[measure]:.4f}' for measure in ('plcc', 'srcc', 'krcc'))
             for row in results}
    write_csv(path, ['Metric name', *(f'{dataset}(PLCC/SRCC/KRCC)' for dataset in datasets)],
              ([metric, *(found[dataset, metric] for dataset in datasets)] for metric in metrics))


def markdown(results: dict[str, Any]) -> str:
    """Return the report on an evaluation.

    Args:
        results: what `results.json` holds.
    """
    rows, metrics, datasets = results['results'], list(results['metrics']), list(results['datasets'])
    parts = [f'# {results["name"]}', _legend(results)]
    by_pair = {(row['metric'], row['dataset']): row for row in rows}
    for measure in MEASURES:
        parts += [f'## {TITLES[measure]}', _measure_table(by_pair, measure, metrics, datasets)]
    parts += ['## Counts', _count_text(rows)]
    parts += ['## Test images that were trained on', _overlap_text(results['overlap'])]
    parts += ['## Who is better', _significance_text(results)]
    if results['paper']:
        parts += ['## Beside the paper', markdown_table(
            ['metric', 'data set', 'measure', 'ours', 'paper', 'difference', 'published PLCC', 'source'],
            [[row['metric'], row['dataset'], TITLES[row['measure']], _number(row['ours']), _number(row['paper']),
              _number(row['difference'], '+.3f'), FITS.get(row['fit'], ''), f'{row["method"]}: {row["source"]}']
             for row in results['paper']])]
    return '\n\n'.join(parts) + '\n'


def _count_text(rows: list[dict[str, Any]]) -> str:
    failed = sum(row['fit'] != 'ok' for row in rows)
    told = (f'Images without a score: {sum(row["missing"] for row in rows)} (listed in missing.csv). Logistic fits that '
            f'failed: {failed} of {len(rows)}.')
    return told + '\n\n' + markdown_table(['data set', 'metric', 'images', 'without a score', 'logistic fit'],
                                  [[row['dataset'], row['metric'], row['images'], row['missing'], row['fit']] for row in rows])


def _overlap_text(rows: list[dict[str, Any]]) -> str:
    told = ('Images whose bytes, or name and look, are those of an image that the metric was trained on. '
            'Only checkpoints of this package keep a record of their training images.')
    return told + '\n\n' + markdown_table(['data set', 'metric', 'trained on'],
                                         [[row['dataset'], row['metric'], overlap_told(row)] for row in rows])


def _legend(results: dict[str, Any]) -> str:
    turned = [name for name, metric in results['metrics'].items() if metric['lower_better']]
    turned_sets = [name for name, dataset in results['datasets'].items() if dataset['lower_better']]
    return (f'In brackets: {results["confidence"]:.0%} percentile bootstrap intervals over images, {results["bootstrap"]} '
            'resamples. Scores and MOS where lower is better are negated first (metrics: '
            f'{", ".join(turned) or "none"}; data sets: {", ".join(turned_sets) or "none"}), so that a negative correlation '
            'means that a metric prefers the worse pictures. PLCC is without fit; "after fit" means after the four-parameter '
            'logistic fit of scores to MOS. RMSE is in the unit of each MOS.')


def _measure_table(by_pair: dict[tuple[str, str], dict[str, Any]], measure: str, metrics: list[str],
                   datasets: list[str]) -> str:
    averaged = measure != 'rmse' and len(datasets) > 1
    lines = []
    for metric in metrics:
        found = [by_pair[metric, dataset] for dataset in datasets]
        cells = [_with_interval(row, measure) for row in found]
        values = [row[measure] for row in found]
        mean = math.nan if any(_is_nan(value) for value in values) else sum(values) / len(values)
        lines.append([metric, *cells, *([_number(mean)] if averaged else [])])
    return markdown_table(['metric', *datasets, *(['mean'] if averaged else [])], lines)


def _with_interval(row: dict[str, Any], measure: str) -> str:
    value = _number(row[measure])
    return value if value == 'none' else f'{value} [{_number(row[f"{measure}_low"])}, {_number(row[f"{measure}_high"])}]'


def _significance_text(results: dict[str, Any]) -> str:
    rows = results['significance']
    if not rows:
        return 'One metric alone has none to be compared with.'
    intro = ('Pairs on the images that both have scores for. SRCC: paired bootstrap; PLCC without fit: the test of Williams. '
             'p-values are corrected by the method of Holm over the pairs of a data set; a metric is named when p < '
             f'{results["alpha"]:g}.')
    return intro + '\n\n' + markdown_table(
        ['data set', 'a', 'b', 'SRCC a - b', 'p', 'better by SRCC', 'PLCC a - b', 'p', 'better by PLCC'],
        [[row['dataset'], row['metric_a'], row['metric_b'],
          ' '.join([_number(row['srcc_difference'], '+.3f'),
                    f'[{_number(row["srcc_low"], "+.3f")}, {_number(row["srcc_high"], "+.3f")}]']),
          _number(row['srcc_p_holm'], '.2g'), row['srcc_better'] or '-', _number(row['plcc_difference'], '+.3f'),
          _number(row['plcc_p_holm'], '.2g'), row['plcc_better'] or '-'] for row in rows])


def _number(value: float | None, form: str = '.3f') -> str:
    return 'none' if _is_nan(value) else f'{value:{form}}'


def _is_nan(value: float | None) -> bool:
    return value is None or math.isnan(value)
