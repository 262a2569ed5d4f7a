"""Intervals in the report of a training run: what they are worth on its validation sets."""

from collections.abc import Sequence

import torch

from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.measures.intervals import interval_statistics
from pyiqa_rali.model.interval import COVERAGE
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.report.blocks import Commands, Section, Table, Text, number
from pyiqa_rali.training.rali.features import load_features
from pyiqa_rali.training.rali.options import TrainOptions
from pyiqa_rali.training.rali.run_folder import RunFolder


def intervals_section(run: RunFolder, options: TrainOptions, sections: Sequence[str], command: str) -> Section | None:
    """Return a table of the intervals on each validation set; None for a run without intervals.

    Args:
        run: its files.
        options: of the run.
        sections: names of the validation sets.
        command: makes it again.
    """
    if options.interval is None or not run.export.exists():
        return None
    net = RALI(pretrained_model_path=run.export)
    if net.interval is None:
        return None
    scale, rows = MosScale(net.metadata['mos_range'], net.lower_better), []
    for name in sections:
        if not run.features(name).exists():
            continue
        section, features = dataset_section(name, options.datasets[name]), load_features(run.features(name))
        with torch.no_grad():
            found = net.intervals_of(features.image_features, net.scorer(features.image_features))
        values = interval_statistics(*found.arrays(), features.mos_on(section.scale, scale))
        learned = str(section.options.name) in net.interval.values.get('calibrated_on', ())
        rows.append((f'{name}{" (calibrated on it)" if learned else ""}', str(values['images']), f'{values["coverage"]:.1%}',
                     number(values['mean_width']), number(values['srcc_width_error']), f'{values["unlike"]:.1%}'))
    said = Text('Coverage is promised for images like those of the calibration. On these themselves it is a little too good: '
                'the signal has seen their errors.')
    table = Table(f'Intervals of {100 * COVERAGE:g} %', ('validation set', 'images', 'MOS within', 'mean width',
                                                         'SRCC of width and error', 'called unlike'), rows)
    return Section('Intervals', [table, said, Commands([command])])
