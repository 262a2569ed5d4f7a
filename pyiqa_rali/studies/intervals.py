"""Intervals of a checkpoint on data sets with human scores: coverage, width, and what the warning says."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.tables import markdown_table, write_csv
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.training_images import overlap
from pyiqa_rali.evaluation.options import EvaluateOptions, evaluate_options
from pyiqa_rali.evaluation.run import open_table, tested_section
from pyiqa_rali.measures.intervals import COLUMNS, interval_statistics
from pyiqa_rali.model.interval import COVERAGE, NO_INTERVAL
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.calibrate import features_of_table


def evaluate_intervals(checkpoint: str | os.PathLike, options: EvaluateOptions | Mapping[str, Any],
                       coverage: float = COVERAGE) -> list[dict[str, Any]]:
    """Return the statistics of a checkpoint's intervals on each data set.

    Features that the same weights have computed before are taken from the cache of features below `experiments_root`.

    Args:
        checkpoint: file or folder of an export, or 'rali-lite'.
        options: of an evaluation: its data sets are used, and its metrics are not.
        coverage: of the intervals.

    Returns:
        For each data set 'dataset', `COLUMNS`, and 'trained_on': how many of its images the weights were trained on, None where
        that is unknown.

    Raises:
        CheckpointError: there is no interval, or the checkpoint cannot be read.
        OptionError, DataError: a data set cannot be used.
    """
    read = options if isinstance(options, EvaluateOptions) else evaluate_options(options)
    net = RALI(pretrained_model_path=locate_checkpoint(str(checkpoint)))
    if net.interval is None:
        raise CheckpointError(f'{checkpoint}: {NO_INTERVAL}')
    net.interval.quantile(coverage)
    scale = MosScale(net.metadata['mos_range'], net.lower_better)
    rows = []
    for name, given in read.datasets.items():
        section = tested_section(name, given)
        table = open_table(section, read.manual_seed)
        features = features_of_table(net, table, str(Path(read.path.experiments_root) / 'feature_cache'),
                                     section.options.num_worker_per_gpu or 0)
        trained_on = overlap(net.training_images, table.source_files()).trained_on
        with torch.no_grad():
            found = net.intervals_of(features.image_features, net.scorer(features.image_features), coverage)
        statistics = interval_statistics(*found.arrays(), features.mos_on(section.scale, scale))
        rows.append({'dataset': name, **statistics, 'trained_on': None if trained_on is None else len(trained_on)})
    return rows


def write_intervals(rows: list[dict[str, Any]], out: str | os.PathLike) -> None:
    """Write the rows of `evaluate_intervals` as CSV.

    Raises:
        OptionError: the file is no CSV.
    """
    if Path(out).suffix.lower() != '.csv':
        raise OptionError(f'--out: {out} must end in .csv.')
    write_csv(out, ('dataset', *COLUMNS, 'trained_on'), rows)


def as_markdown(rows: list[dict[str, Any]], coverage: float = COVERAGE) -> str:
    """Return the rows of `evaluate_intervals` as a table."""
    return markdown_table(
        ['data set', 'images', f'MOS within intervals of {100 * coverage:g} %', 'mean width', 'SRCC of width and error',
         'called unlike', 'MOS within, of the others', 'trained on'],
        [[row['dataset'], row['images'], f'{row["coverage"]:.1%}', f'{row["mean_width"]:.2f}', f'{row["srcc_width_error"]:.3f}',
          f'{row["unlike"]:.1%}', f'{row["coverage_of_others"]:.1%}',
          'unknown' if row['trained_on'] is None else row['trained_on']] for row in rows])
