"""Evaluation of metrics on data sets with human scores: per-image scores, agreement, comparison, tables and pictures."""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, some
from pyiqa_rali.core.files import without_nan, write_json, write_text, write_yaml
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import OptionSource, plain, values_of
from pyiqa_rali.core.processes import choose_device
from pyiqa_rali.core.runs import read_claim, refuse_foreign
from pyiqa_rali.core.versions import versions
from pyiqa_rali.data.sections import DatasetOptions, DatasetSection, dataset_section
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.data.training_images import overlap, refuse_overlap
from pyiqa_rali.evaluation import result_tables as tables
from pyiqa_rali.evaluation.metrics import describe_metric, make_metric, metric_section
from pyiqa_rali.evaluation.options import KIND, EvaluateOptions, evaluate_options
from pyiqa_rali.evaluation.paper import beside_paper, paper_values, published_name
from pyiqa_rali.evaluation.score_cache import ScoreCache
from pyiqa_rali.evaluation.scoring import ScoredImage, score_table
from pyiqa_rali.figures.scored import agreement_scatter, comparison_bars
from pyiqa_rali.figures.style import save_png
from pyiqa_rali.measures.agreement import MEASURES, agreement, bootstrap_indices, fit_to_mos, oriented
from pyiqa_rali.measures.significance import Comparison, compare_metrics

FEWEST_SCORES = 3
OUTPUTS = ('results.csv', 'results.json', 'results.md', 'pyiqa_row.csv', 'significance.csv', 'paper.csv', 'counts.csv',
           'missing.csv', 'overlap.csv', 'scores', 'figures')


@dataclass(frozen=True)
class EvaluationResults:
    """What an evaluation found, and where it is saved.

    Attributes:
        folder: tables, scores of every image and pictures.
        agreement: one row for each data set and metric, with the columns of results.csv.
        significance: one row for each data set, measure and pair of metrics, with the columns of significance.csv.
        paper: measured values beside the paper's, with the columns of paper.csv.
        scores: by data set and metric, the score of every image, or why it has none.
    """

    folder: Path
    agreement: list[dict[str, Any]]
    significance: list[dict[str, Any]]
    paper: list[dict[str, Any]]
    scores: dict[str, dict[str, list[ScoredImage]]]


def evaluate(options: EvaluateOptions | OptionSource, overrides: Sequence[str] = ()) -> EvaluationResults:
    """Evaluate metrics on data sets.

    Args:
        options: of the evaluation: an option file, or an object.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, CheckpointError: an option cannot be used, or a metric cannot be created.
        DataError: a data set cannot be used; with `missing: fail`, images have no score; with `overlap: fail`, a metric was
            trained on test images.
    """
    run = Evaluation(evaluate_options(values_of(options, overrides)))
    run.score()
    run.write_scores()
    run.refuse_missing()
    run.measure()
    run.write_results()
    found = run.results
    return EvaluationResults(run.root, found['results'], found['significance'], found['paper'], run.scored)


class Evaluation:
    """One evaluation: everything is checked when it is created, before the first picture is scored."""

    def __init__(self, options: EvaluateOptions):
        self.options = options
        self.root = Path(options.path.experiments_root) / options.name
        self.device = choose_device(options.num_gpu)
        self.metrics = [metric_section(label, values) for label, values in options.metrics.items()]
        self.sections = {name: tested_section(name, given) for name, given in options.datasets.items()}
        self.paper_names = self._paper_names()
        self.data = {name: open_table(section, options.manual_seed) for name, section in self.sections.items()}
        prepare_folder(self.root, options)
        self.scored: tables.Scored = {name: {} for name in self.data}
        self.described: dict[str, dict[str, Any]] = {}
        self.overlaps: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}

    def score(self) -> None:
        """Score every data set with every metric, one metric after the other."""
        for section in self.metrics:
            metric = make_metric(section, self.device)
            self._check_overlaps(section.label, metric)
            described = describe_metric(section, metric)
            self.described[section.label] = {**described, 'lower_better': bool(metric.lower_better),
                                             'score_range': str(metric.score_range)}
            cache = ScoreCache(self.options.path.score_cache, described)
            for name, table in self.data.items():
                self.scored[name][section.label] = score_table(metric, table, self.sections[name].values, cache, section.label)

    def _check_overlaps(self, label: str, metric: Any) -> None:
        """Record which test images a metric was trained on, and raise DataError unless they are only to be counted."""
        record = getattr(metric.net, 'training_images', None)  # pyiqa's own metrics keep none
        for name, table in self.data.items():
            found = overlap(record, table.source_files())
            refuse_overlap(found, f'{label} on {name}', 'statistics: overlap', self.options.statistics.overlap)
            self.overlaps.append({'dataset': name, 'metric': label, **found.plain()})

    def write_scores(self) -> None:
        """Write what is valid whatever happens to the results: scores, counts, and every image without a score."""
        tables.write_scores(self.root / 'scores', self.scored)
        tables.write_rows(self.root / 'counts.csv', tables.COUNT_COLUMNS, tables.counts(self.scored))
        tables.write_rows(self.root / 'missing.csv', tables.MISSING_COLUMNS, tables.missing(self.scored))
        tables.write_rows(self.root / 'overlap.csv', tables.OVERLAP_COLUMNS, self.overlaps)

    def refuse_missing(self) -> None:
        """Raise DataError for images without a score, unless they are only to be counted."""
        without = tables.missing(self.scored)
        if without and self.options.statistics.missing == 'fail':
            pairs = {(row['dataset'], row['metric']): 0 for row in without}
            for row in without:
                pairs[row['dataset'], row['metric']] += 1
            told = some(f'{count} of {dataset} by {metric}' for (dataset, metric), count in pairs.items())
            first = without[0]
            raise DataError(f'images have no score: {told}; the first is {first["image"]} ({first["reason"]}: '
                            f'{first["message"]}). All of them are listed in {self.root / "missing.csv"}; no results were '
                            'written. Fix or remove these images and run again (scores that are known are not computed '
                            'again), or set statistics: missing: count to measure the others.')

    def measure(self) -> None:
        """Measure agreement, compare metrics and set the paper's values beside."""
        statistics = self.options.statistics
        rows, significance = [], []
        for name in progress_bar(self.data, desc='agreement and tests', unit='data set'):
            mos, scores = self._oriented(name)
            rows += [self._row(name, label, mos, scores[label]) for label in scores]
            significance += compare_metrics(scores, mos, Comparison(statistics.bootstrap, statistics.confidence,
                                                                    statistics.alpha, self.options.manual_seed), name)
        self.results = {
            'name': self.options.name, 'confidence': statistics.confidence, 'alpha': statistics.alpha,
            'bootstrap': statistics.bootstrap, 'missing_policy': statistics.missing,
            'datasets': {name: {'mos_range': list(table.scale.mos_range), 'lower_better': table.scale.lower_better,
                                'images': len(table)} for name, table in self.data.items()},
            'metrics': self.described, 'results': rows, 'significance': significance,
            'overlap': self.overlaps, 'paper': beside_paper(rows, *self.paper_names), 'figures': []}

    def write_results(self) -> None:
        """Write tables and pictures."""
        found, labels = self.results, [section.label for section in self.metrics]
        tables.write_rows(self.root / 'results.csv', tables.RESULT_COLUMNS, found['results'])
        tables.write_rows(self.root / 'significance.csv', tables.SIGNIFICANCE_COLUMNS, found['significance'])
        tables.write_rows(self.root / 'paper.csv', tables.PAPER_COLUMNS, found['paper'])
        tables.write_pyiqa_row(self.root / 'pyiqa_row.csv', found['results'], list(self.data), labels)
        self._draw()
        write_text(self.root / 'results.md', tables.markdown(found))
        write_json(self.root / 'results.json', without_nan(found))

    def _row(self, name: str, label: str, mos: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        there = np.isfinite(scores)
        scored = int(there.sum())
        row: dict[str, Any] = {'dataset': name, 'metric': label, 'images': len(mos), 'scored': scored,
               'missing': int((~there).sum())}
        if scored < FEWEST_SCORES or np.ptp(mos[there]) == 0:
            return {**row, 'fit': f'{scored} scored images with MOS that differ are too few',
                    **dict.fromkeys((f'{measure}{end}' for measure in MEASURES for end in ('', '_low', '_high')), math.nan)}
        indices = bootstrap_indices(scored, self.options.statistics.bootstrap, self.options.manual_seed, name)
        found = agreement(scores[there], mos[there], indices, self.options.statistics.confidence, f'{label} on {name}')
        for measure in MEASURES:
            row[measure] = found.values[measure]
            row[f'{measure}_low'], row[f'{measure}_high'] = found.intervals[measure]
        return {**row, 'fit': found.fit}

    def _oriented(self, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return MOS (n,) and scores (n,) by metric of a data set, all higher better, NaN for a missing score."""
        images = self.scored[name]
        mos = np.array([each.mos for each in next(iter(images.values()))])
        scores = {label: np.array([np.nan if each.score is None else each.score for each in found])
                  for label, found in images.items()}
        return (oriented(mos, self.data[name].scale.lower_better),
                {label: oriented(values, self.described[label]['lower_better']) for label, values in scores.items()})

    def _paper_names(self) -> tuple[dict[str, str | None], dict[str, str | None]]:
        methods, datasets = (list(dict.fromkeys(names)) for names in zip(*paper_values(), strict=True))
        return ({each.label: published_name(each.paper_name, [each.label, each.name], methods, f'metrics: {each.label}')
                 for each in self.metrics},
                {name: published_name(section.values.get('paper_name'), [name, str(section.options.name)], datasets,
                                      f'datasets: {name}') for name, section in self.sections.items()})

    def _draw(self) -> None:
        figures = self.root / 'figures'
        for row in self.results['results']:
            path = figures / f'scatter_{row["dataset"]}_{row["metric"]}.png'
            if self._draw_scatter(row, path):
                self.results['figures'].append(str(path.relative_to(self.root)))
        for measure in ('plcc', 'srcc'):
            path = figures / f'comparison_{measure}.png'
            save_png(comparison_bars(self.results['results'], measure, tables.TITLES[measure]), path)
            self.results['figures'].append(str(path.relative_to(self.root)))

    def _draw_scatter(self, row: dict[str, Any], path: Path) -> bool:
        images = [each for each in self.scored[row['dataset']][row['metric']] if each.score is not None]
        if len(images) < FEWEST_SCORES:
            return False
        scale, metric = self.data[row['dataset']].scale, self.described[row['metric']]
        scores, mos = (np.array(values) for values in zip(*((each.score, each.mos) for each in images), strict=True))
        fitted, _ = fit_to_mos(oriented(scores, metric['lower_better']), oriented(mos, scale.lower_better))
        save_png(agreement_scatter(
            scores, mos, None if fitted is None else oriented(fitted, scale.lower_better),
            f'{row["metric"]} on {row["dataset"]}', (metric['lower_better'], scale.lower_better),
            {tables.TITLES[name]: (row[name], row[f'{name}_low'], row[f'{name}_high']) for name in MEASURES}), path)
        return True


def tested_section(name: str, options: DatasetOptions) -> DatasetSection:
    """Return a data set section: the test images unless `phase` says otherwise, called as the section unless it has a name."""
    given = options.given()
    return dataset_section(name, {**({} if 'pyiqa_name' in given else {'name': name}), 'phase': 'test', **given})


def open_table(section: DatasetSection, seed: int) -> QualityTable:
    """Build a data set; one whose pictures are all missing is rejected before anything is scored.

    Raises:
        OptionError, DataError: it cannot be used.
    """
    table = build_table(section.section, section.options, seed)
    images = table.image_names()
    if not any(os.path.exists(image) for image in images):
        raise DataError(f'datasets: {section.section}: none of its {len(images)} images is there; the first would be '
                        f'{images[0]}. Correct dataroot_target.')
    return table


def prepare_folder(root: Path, options: EvaluateOptions) -> None:
    """Make the folder, remove the results of an earlier evaluation, and write options and versions.

    Raises:
        OptionError: it contains something other than an evaluation.
    """
    before = read_claim(root / 'options.yml') or {}
    if before.get('model_type') != KIND:
        refuse_foreign(root, 'name', 'evaluation', 'Choose another name.')
    for name in OUTPUTS:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_yaml(root / 'options.yml', plain(options))
    write_json(root / 'versions.json', versions())
