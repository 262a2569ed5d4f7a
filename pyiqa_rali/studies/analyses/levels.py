"""Whether metrics rank the levels of a distortion as they are: photographs with one distortion at several levels."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.figures.analyses import draw_levels
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.scoring.metrics import make_metric
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.analyses.inputs import OptionFile, sections_of
from pyiqa_rali.studies.protocol import level_order

METRICS = measures_of('plcc', 'srcc')
AT_ONCE = 8


def analyse_levels(opt: OptionFile, sections: Sequence[str], metrics: Sequence[str], out: str | os.PathLike,
                   device: str | None = None) -> AnalysisResult:
    """Score pictures of data set sections that have `levels`, and compare the scores with labels and levels.

    Args:
        opt: option file, or its values.
        sections: of type SyntheticNRDataset, with `levels`: each photograph with each type of distortion at each level.
        metrics: names of pyiqa's no-reference metrics, or exports of RALI.
        out: folder for table.csv (one row for each section and metric), types.csv (and each type), results.json, levels.png.
        device: such as 'cpu'; None means a GPU if available.

    Raises:
        OptionError: a section has no levels, a metric is given twice or is not there, or the folder holds something else.
        DataError: photographs that cannot be used.
    """
    if len(set(metrics)) < len(metrics):
        raise OptionError(f'--metrics: {", ".join(metrics)}: one is given twice.')
    _, chosen = sections_of(opt, sections)
    tables = {name: _table(name, section) for name, section in chosen.items()}
    folder = AnalysisFolder(out, 'levels', {'sections': chosen, 'metrics': list(metrics)})
    made = {name: _metric(name, device) for name in metrics}
    folder.check_weights({name: weights_digest(metric.net) for name, metric in made.items()})
    rows: list[dict[str, Any]] = []
    types: list[dict[str, Any]] = []
    for section, table in tables.items():
        kept = folder.rows(f'scores_{section}')
        _score(table, made, kept, section)
        found = [kept.done[index] for index in range(len(table))]
        names = [row['image'] for row in found]
        mos = np.array([row['mos'] for row in found])
        for metric in metrics:
            scores = np.array([row['scores'][metric] for row in found])
            rows.append({'section': section, 'metric': metric, **measured(names, mos, scores)})
            types += [{'section': section, 'metric': metric, 'type': kind,
                       **measured([names[index] for index in where], mos[where], scores[where])}
                      for kind, where in _by_type(names).items()]
    draw_levels(types, folder.picture('levels'))
    return folder.finish({'table': rows, 'types': types}, {'table': rows}, folder.picture('levels'))


def measured(names: Sequence[str], mos: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return how many pictures there are, PLCC and SRCC with the labels, and the share of pairs of levels in order.

    Args:
        names: 'photograph|type|level#index' of each picture.
        mos: (n,) labels, higher better.
        scores: (n,) higher better.
    """
    return {'pictures': len(names), **correlations(scores, mos, METRICS, 'levels'),
            'level_order': level_order(list(names), scores)}


def _by_type(names: Sequence[str]) -> dict[str, np.ndarray]:
    kinds = np.array([name.rsplit('|', 2)[1] for name in names])
    return {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}


def _table(name: str, section: Mapping[str, Any]) -> QualityTable:
    table = build_table(name, {'name': name, 'phase': 'test', **section}, 0)
    if not isinstance(table.base, SyntheticNRDataset) or table.base.draws_anew:
        raise OptionError(f'datasets: {name}: has no levels. Give a section of type SyntheticNRDataset with levels, such as '
                          'those of options/evaluate_levels.yml.')
    return table


def _metric(name: str, device: str | None) -> Any:
    return make_metric('rali', name, device) if os.path.exists(name) else make_metric(name, None, device)


def _score(table: QualityTable, metrics: Mapping[str, Any], kept: KeyedRows, section: str) -> None:
    """Score the pictures that are not in the rows yet."""
    left = [index for index in range(len(table)) if index not in kept.done]
    with progress_bar(total=len(table), initial=len(table) - len(left), desc=section, unit='picture') as bar:
        for start in range(0, len(left), AT_ONCE):
            chunk = left[start:start + AT_ONCE]
            items = table.base.__getitems__(chunk)
            kept.add([{'key': index, 'image': item['img_path'], 'mos': float(item['mos_label']),
                       'scores': {name: (-1 if metric.lower_better else 1) * float(metric(item['img'].unsqueeze(0)))
                                  for name, metric in metrics.items()}}
                      for index, item in zip(chunk, items, strict=True)])
            bar.update(len(chunk))
