"""When to ask a slow metric: a rule fitted on validation images, and accuracy against cost on test images.

Beside the width of the interval, pictures are handed on at random, and by an oracle that knows how much each gains.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import write_json, write_text, write_yaml
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import Count, Seed, from_known_keys, plain
from pyiqa_rali.core.processes import choose_device
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.image_files import UnreadableImage, read_rgb
from pyiqa_rali.data.sections import DatasetOptions, dataset_section
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.data.training_images import overlap, refuse_overlap
from pyiqa_rali.evaluation.metrics import describe_metric, make_metric, metric_section
from pyiqa_rali.evaluation.run import open_table, tested_section
from pyiqa_rali.evaluation.score_cache import ScoreCache, image_key
from pyiqa_rali.scoring.cascade import COVERAGE, NAME, scores_and_widths, tells_width
from pyiqa_rali.studies.cascade_curves import CHOICES, COLUMNS, SUMMARY_SHARE, curves, markdown_of, summary_of
from pyiqa_rali.studies.cascade_fit import Judged, fit_rule, widths_by
from pyiqa_rali.studies.cascade_fit import isotonic as isotonic
from pyiqa_rali.studies.cascade_fit import same_meaning as same_meaning

KIND = 'CASCADE'
PEOPLE = 'people'  # as the slow judge: their scores, the best that there can be
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class CascadePaths:
    """Folders.

    Attributes:
        experiments_root: the results are written to the folder `name` in it.
        score_cache: scores and widths that have been computed, shared by all runs.
    """

    experiments_root: str = './experiments'
    score_cache: str = './experiments/score_cache'


@dataclass
class CascadeOptions:
    """One study of a cascade.

    Attributes:
        name: of the results' folder.
        manual_seed: of the random choices.
        datasets: `val`, which the rule is fitted on, and `test`, which accuracy is measured on; sections as in training.
        fast: the metric that scores every picture: `name` and keywords of `pyiqa.create_metric`.
        slow: the same of the metric that pictures are handed on to; or `name: people`, their scores.
        share: of the images that the metric file hands on.
        by: what the metric file hands them on by: the 'width' of the interval, or its width in 'ranks' (see `Cascade`).
        shares: that accuracy is measured for.
        random_draws: over which the accuracy of handing on at random is averaged.
        timed: so many validation images are scored one by one to measure seconds an image.
        coverage: of the intervals whose width counts.
        overlap: what to do about images that a metric was trained on, where its checkpoint keeps a record of them: 'fail', or
            'count' and go on.
        num_gpu: 'auto', 0 or 1.
        path: folders.
    """

    name: str
    manual_seed: Seed
    datasets: dict[str, DatasetOptions]
    fast: dict[str, Any]
    slow: dict[str, Any]
    share: Annotated[float, Ge(0), Le(1)] = SUMMARY_SHARE
    by: Literal['width', 'ranks'] = 'width'
    shares: Annotated[list[Annotated[float, Ge(0), Le(1)]], MinLen(1)] = field(default_factory=lambda: list(SHARES))
    random_draws: Count = 20
    timed: Count = 8
    coverage: Annotated[float, Gt(0), Lt(1)] = COVERAGE
    overlap: Literal['fail', 'count'] = 'fail'
    num_gpu: Literal['auto', 0, 1] = 'auto'
    path: CascadePaths = field(default_factory=CascadePaths)
    model_type: Literal['CASCADE'] = 'CASCADE'


def cascade_options(values: Mapping[str, Any]) -> CascadeOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown or missing, or has a value that cannot be used.
    """
    options = from_known_keys(CascadeOptions, values)
    if set(options.datasets) != {'val', 'test'}:
        raise OptionError(f'datasets: {", ".join(options.datasets)} must be val and test: the rule is fitted on one and '
                          'measured on the other.')
    for role in ('fast', 'slow'):
        name = getattr(options, role).get('name')
        if name is None or name == NAME or (role == 'fast' and name == PEOPLE):
            raise OptionError(f'{role}: name: {name} must be a no-reference metric of pyiqa'
                              f'{f", or {PEOPLE}" if role == "slow" else ""}, and not {NAME}.')
    return options


@dataclass(frozen=True)
class CascadeResults:
    """What a study has found.

    Attributes:
        root: its folder.
        rows: with `COLUMNS`: accuracy for each share and choice.
        summary: what is gained at `SUMMARY_SHARE`, as numbers.
        markdown: the same as a table.
    """

    root: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    markdown: str


def run_cascade(options: CascadeOptions) -> CascadeResults:
    """Score both data sets with both metrics, fit the rule, write the metric's option file, and measure.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    root = Path(options.path.experiments_root) / options.name
    device = choose_device(options.num_gpu)
    sections = {name: tested_section(name, given) if name == 'test' else dataset_section(name, given)
                for name, given in options.datasets.items()}
    tables = {name: open_table(section, options.manual_seed) for name, section in sections.items()}
    if sections['val'].scale.mos_range != sections['test'].scale.mos_range:
        raise OptionError('datasets: val and test must have one mos_range: the rule is fitted on one and measured on the '
                          'other.')
    _refuse_shared(tables)
    parts = {role: metric_section(role, getattr(options, role)) for role in ('fast', 'slow')
             if getattr(options, role)['name'] != PEOPLE}
    fast = make_metric(parts['fast'], device)
    slow = make_metric(parts['slow'], device) if 'slow' in parts else None
    trained_on = _trained_on(tables, {'fast': fast, 'slow': slow}, options.overlap)
    write_yaml(root / 'options.yml', plain(options))
    described = {role: describe_metric(part, {'fast': fast, 'slow': slow}[role]) for role, part in parts.items()}
    judged = {name: judge(table, fast, slow, described, options) for name, table in tables.items()}
    seconds = _seconds(tables['val'], fast, slow, device, options.timed)
    towards = 1.0 if bool(fast.lower_better) == tables['val'].scale.lower_better else -1.0
    rule = fit_rule(judged['val'], fast.net, towards, {'images': len(judged['val'].mos), 'data': tables['val'].name,
                                                       'fast': options.fast, 'slow': options.slow,
                                                       'coverage': options.coverage})
    rule.save(root / 'rule.json')
    if slow is not None:
        _write_metric(root, options, bool(fast.lower_better))
    rows = curves(judged['test'], rule, options, seconds, towards)
    write_csv(root / 'results.csv', COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    write_csv(root / 'scores.csv', ['image', 'mos', 'fast', 'width', 'slow'],
              zip(judged['test'].images, *(map(repr, values.tolist()) for values in (
                  judged['test'].mos, judged['test'].fast, widths_by(rule, judged['test']), judged['test'].slow)), strict=True))
    summary = {**summary_of(rows), 'seconds': seconds, 'images': len(judged['test'].mos),
               'without_slow_score': int(np.isnan(judged['test'].slow).sum()), 'trained_on': trained_on}
    write_json(root / 'results.json', {'summary': summary, 'rows': rows})
    from pyiqa_rali.figures.cascade import draw_cascade
    draw_cascade(rows, CHOICES, root / 'figures' / 'accuracy_against_cost.png', f'{options.fast["name"]} and '
                 f'{options.slow["name"]}: {len(judged["test"].mos)} images of {tables["test"].name}')
    text = markdown_of(rows, summary)
    write_text(root / 'results.md', text)
    return CascadeResults(root, rows, summary, text)


def judge(table: QualityTable, fast: Any, slow: Any | None, described: Mapping[str, Any], options: CascadeOptions) -> Judged:
    """Return what both metrics say of a data set; what they have said before is taken from the cache.

    Args:
        table: the data set.
        fast: the fast metric.
        slow: the slow one; None takes the MOS in its place.
        described: what the scores of each depend on.
        options: of the study.
    """
    pairs = table.images_and_mos()
    mos = np.array([value for _, value in pairs])

    def of_fast(images: torch.Tensor) -> list[float]:
        return [float(each[0]) for each in scores_and_widths(fast.net, images, None, options.coverage)]

    def of_slow(images: torch.Tensor) -> list[float]:
        return [float(cast(Any, slow).net(images))]

    told = tells_width(fast.net)
    what = [{**described['fast'], 'coverage': options.coverage, 'value': value} for value in ('score', 'width')]
    found = _cached(table, of_fast, what, options, 'fast')
    widths = np.array(found[1]) if told else np.full(len(mos), np.nan)
    slow_scores = mos if slow is None else np.array(_cached(table, of_slow, [described['slow']], options, 'slow')[0])
    return Judged([path for path, _ in pairs], mos, np.array(found[0]), widths, slow_scores.astype(float))


def _cached(table: QualityTable, ask: Any, described: list[dict[str, Any]], options: CascadeOptions,
            role: str) -> list[list[float]]:
    """Return one list for each description: what is said of each image, NaN where nothing is.

    Raises:
        DataError: an image cannot be read.
    """
    caches = [ScoreCache(options.path.score_cache, each) for each in described]
    device, found = choose_device(options.num_gpu), []
    for path in progress_bar(table.image_names(), desc=f'{role} on {table.name}', unit='image'):
        key = image_key([path], {'upright': table.reading.upright})
        values = [cache.get(key) for cache in caches]
        if any(value is None for value in values):
            try:
                pixels = read_rgb(path, table.reading)
            except UnreadableImage as error:
                raise DataError(f'{path}: {error.reason}. Fix the image or leave it out of the table.') from error
            with torch.no_grad():
                values = ask(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(device) / 255)
            for cache, value in zip(caches, values, strict=True):
                if key is not None and math.isfinite(value):
                    cache.add(key, value, path)
        found.append([math.nan if value is None else float(value) for value in values])
    return [list(column) for column in zip(*found, strict=True)]


def _seconds(table: QualityTable, fast: Any, slow: Any | None, device: torch.device, count: int) -> dict[str, float]:
    """Return the median seconds that one picture takes, the first one not counted; NaN for people."""
    paths = table.image_names()[:count + 1]
    pictures = [torch.from_numpy(read_rgb(path, table.reading)).permute(2, 0, 1).unsqueeze(0).to(device) / 255
                for path in paths]
    found = {}
    for role, metric in (('fast', fast), ('slow', slow)):
        taken = []
        for picture in pictures if metric is not None else []:
            start = time.perf_counter()
            with torch.no_grad():
                float(cast(Any, metric).net(picture))
            taken.append(time.perf_counter() - start)
        found[role] = float(np.median(taken[1:])) if len(taken) > 1 else math.nan
    return found


def _refuse_shared(tables: Mapping[str, QualityTable]) -> None:
    """Raise DataError when the rule would be measured on images that it was fitted on."""
    files = {name: {str(Path(path).resolve()) for path in table.image_names()} for name, table in tables.items()}
    shared = sorted(files['val'] & files['test'])
    if shared:
        raise DataError(f'datasets: {len(shared)} of {len(files["test"])} images of test are those of val too: '
                        f'{some(shared, 3)}. What a rule is worth shows on other images than those that it was fitted on: give '
                        'each its own, such as by split_index or phase.')


def _trained_on(tables: Mapping[str, QualityTable], metrics: Mapping[str, Any], choice: str) -> list[dict[str, Any]]:
    """Return how many images of each data set each metric was trained on, where its checkpoint knows.

    Raises:
        DataError: there are some, and the choice is 'fail'.
    """
    rows = []
    for role, metric in metrics.items():
        record = getattr(getattr(metric, 'net', None), 'training_images', None)
        for name, table in tables.items() if record is not None else ():
            found = overlap(record, table.source_files())
            refuse_overlap(found, f'{role} on {table.name} ({name})', 'overlap', choice)
            rows.append({'dataset': name, 'metric': role, **found.plain()})
    return rows


def _write_metric(root: Path, options: CascadeOptions, lower_better: bool) -> None:
    """Write the cascade as a metric in pyiqa's format, for `--metric_opt` of its scripts and for `evaluate`."""
    parts = {role: {key: value for key, value in getattr(options, role).items() if key not in ('name', 'paper_name')}
             for role in ('fast', 'slow')}
    write_yaml(root / 'metric.yml', {f'{NAME}-{options.name}': {
        'metric_opts': {'type': 'Cascade', 'fast': options.fast['name'], 'slow': options.slow['name'],
                        'fast_options': parts['fast'], 'slow_options': parts['slow'], 'rule': str(root / 'rule.json'),
                        'share': options.share, 'by': options.by, 'coverage': options.coverage},
        'metric_mode': 'NR', 'lower_better': lower_better}})
