"""Options of `evaluate`: which metrics on which data sets, and how they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, MinLen

from pyiqa_rali.core.errors import OptionError, some
from pyiqa_rali.core.options import Count, Seed, from_known_keys
from pyiqa_rali.data.sections import DatasetOptions, refuse_keys
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.measures.significance import fewest_resamples

KIND = 'EVALUATE'
OWN_METRIC_KEYS = ('name', 'paper_name')
RESERVED_LABELS = ('image', 'mos')  # columns of the tables of scores


@dataclass
class StatisticsOptions:
    """How agreement is measured and compared.

    Attributes:
        bootstrap: resamples over images, for intervals and for the test between metrics.
        confidence: share of the resamples inside an interval.
        alpha: a difference between two metrics is significant when its corrected p-value is below this.
        missing: what to do about images without a score: 'fail' ends the run without results, 'count' measures the others and
            reports how many there are.
        overlap: what to do about test images that a metric was trained on, where its checkpoint keeps a record of them: 'fail'
            ends the run before the metric scores, 'count' continues and reports how many there are.
    """

    bootstrap: Count = 2000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.05
    missing: Literal['fail', 'count'] = 'fail'
    overlap: Literal['fail', 'count'] = 'fail'


@dataclass
class EvaluatePaths:
    """Folders.

    Attributes:
        experiments_root: the results are written to the folder `name` in it.
        score_cache: scores that have been computed, shared by all runs.
    """

    experiments_root: str = './experiments'
    score_cache: str = './experiments/score_cache'


@dataclass
class EvaluateOptions:
    """One evaluation.

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
    manual_seed: Seed
    datasets: Annotated[dict[str, DatasetOptions], MinLen(1)]
    metrics: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    num_gpu: Literal['auto', 0, 1] = 'auto'
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)
    path: EvaluatePaths = field(default_factory=EvaluatePaths)
    model_type: Literal['EVALUATE'] = 'EVALUATE'


def evaluate_options(values: Mapping[str, Any]) -> EvaluateOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    kind = values.get('model_type', KIND)
    if kind != KIND:
        raise OptionError(f'model_type: "{kind}" is not {KIND}: this is not an option file of evaluate. Training: python -m '
                          'pyiqa_rali.train -opt FILE')
    options = from_known_keys(EvaluateOptions, values)
    for section in ('datasets', 'metrics'):
        _check_names(section, getattr(options, section))
    for key, value in options.datasets.items():
        if isinstance(value, SyntheticOptions):
            raise OptionError(f'datasets: {key}: SyntheticNRDataset draws pictures that are in no file. Make files with '
                              'make-dataset, and give their table.')
    refuse_keys(options.datasets, ('class_column', 'share', 'supervision', 'aspects', 'prompt_column'),
                'has no effect in an evaluation')
    for label in RESERVED_LABELS:
        if label in options.metrics:
            raise OptionError(f'metrics: "{label}" is the name of a column of the tables. Choose another label, and give name.')
    files = [f'{dataset}_{label}' for dataset in options.datasets for label in options.metrics]
    repeated = some(name for name in set(files) if files.count(name) > 1)
    if repeated:
        raise OptionError(f'metrics: {repeated} would name two pictures. Choose other labels.')
    _check_resamples(options)
    return options


def _check_names(section: str, values: dict[str, Any]) -> None:
    for key in values:
        if not key or '/' in key or key.startswith('.'):
            raise OptionError(f'{section}: "{key}" names files: it must not be empty, begin with a dot or hold a slash.')


def _check_resamples(options: EvaluateOptions) -> None:
    statistics = options.statistics
    least = max(100, fewest_resamples(len(options.metrics), statistics.alpha))
    if statistics.bootstrap < least:
        raise OptionError(f'statistics: bootstrap: {statistics.bootstrap} resamples are too few for {len(options.metrics)} '
                          f'metrics at alpha {statistics.alpha:g}: no difference could be significant. Give at least {least}.')
