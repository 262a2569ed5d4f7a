"""Options of `evaluate`: which metrics on which data sets, and how they are compared."""

from dataclasses import dataclass, field
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean, some
from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.measures.significance import fewest_resamples

KIND = 'EVALUATE'
MISSING = ('fail', 'count')
OWN_METRIC_KEYS = ('name', 'paper_name')
OWN_DATASET_KEYS = ('paper_name',)
RESERVED_LABELS = ('image', 'mos')  # columns of the tables of scores


@dataclass
class StatisticsOptions:
    """How agreement is measured and compared.

    Attributes:
        bootstrap: resamples over images, for intervals and for the test between metrics.
        confidence: share of the resamples inside an interval.
        alpha: a difference between two metrics is significant when its corrected p-value is below.
        missing: what images without a score do: 'fail' ends the run without results, 'count' measures the others and says how
            many there are.
    """

    bootstrap: int = 2000
    confidence: float = 0.95
    alpha: float = 0.05
    missing: str = 'fail'


@dataclass
class EvaluatePaths:
    """Folders.

    Attributes:
        experiments_root: the results are written to the folder `name` in it.
        score_cache: scores that were computed once, for all runs.
    """

    experiments_root: str = './experiments'
    score_cache: str = './experiments/score_cache'


@dataclass
class EvaluateOptions:
    """One evaluation, checked.

    Attributes:
        name: of the results' folder.
        manual_seed: of the resamples, and of data sets with random augmentations.
        datasets: option sections as in training, by the name that the results use.
        metrics: by label, `name` (pyiqa's; default: the label), `paper_name` and keywords of `pyiqa.create_metric`.
        num_gpu: 'auto', 0 or 1.
        statistics: how agreement is measured.
        path: folders.
    """

    name: str
    manual_seed: int
    datasets: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    num_gpu: int | str = 'auto'
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)
    path: EvaluatePaths = field(default_factory=EvaluatePaths)
    model_type: str = KIND


def evaluate_options(values: dict[str, Any]) -> EvaluateOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    kind = values.get('model_type', KIND)
    if kind != KIND:
        raise OptionError(f'model_type: "{kind}" is not {KIND}: this is no option file of evaluate. Training: python -m '
                          'pyiqa_rali.train -opt FILE')
    sections = {'statistics': StatisticsOptions, 'path': EvaluatePaths}
    typed = {name: from_known_keys(sections[name], value or {}, name) if name in sections else value
             for name, value in values.items()}
    options = from_known_keys(EvaluateOptions, typed, 'options')
    for section in ('datasets', 'metrics'):
        _check_sections(section, getattr(options, section))
    for key, value in options.datasets.items():
        if value.get('type') == 'SyntheticNRDataset':
            raise OptionError(f'datasets: {key}: SyntheticNRDataset draws pictures that stand in no file. Make files with '
                              'make-dataset, and give their table.')
    for label in RESERVED_LABELS:
        if label in options.metrics:
            raise OptionError(f'metrics: "{label}" is the name of a column of the tables. Choose another label, and give name.')
    files = [f'{dataset}_{label}' for dataset in options.datasets for label in options.metrics]
    repeated = some(name for name in set(files) if files.count(name) > 1)
    if repeated:
        raise OptionError(f'metrics: {repeated} would name two pictures. Choose other labels.')
    _check_statistics(options)
    return options


def _check_sections(section: str, values: dict[str, Any]) -> None:
    if not values:
        raise OptionError(f'{section}: must hold one at least.')
    for key, value in values.items():
        if value is None:
            values[key] = value = {}
        if not isinstance(value, dict):
            raise OptionError(f'{section}: {key}: {value!r} must be a section with keys, or empty.')
        if not str(key) or '/' in str(key) or str(key).startswith('.'):
            raise OptionError(f'{section}: "{key}" names files: it must not be empty, begin with a dot or hold a slash.')


def _check_statistics(options: EvaluateOptions) -> None:
    statistics = options.statistics
    if statistics.missing not in MISSING:
        raise OptionError(f'statistics: missing: "{statistics.missing}" is not one of {", ".join(MISSING)}.'
                          f'{did_you_mean(statistics.missing, MISSING)}')
    for name in ('confidence', 'alpha'):
        if not 0 < getattr(statistics, name) < 1:
            raise OptionError(f'statistics: {name}: {getattr(statistics, name)} must be between 0 and 1.')
    least = max(100, fewest_resamples(len(options.metrics), statistics.alpha))
    if statistics.bootstrap < least:
        raise OptionError(f'statistics: bootstrap: {statistics.bootstrap} resamples are too few for {len(options.metrics)} '
                          f'metrics at alpha {statistics.alpha:g}: no difference could be significant. Give {least} at least.')
