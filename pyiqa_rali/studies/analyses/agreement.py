"""Whether models aligned with the texts of different teachers score the same images alike."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from pyiqa_rali.measures.correlations import correlations, measures_of

METRICS = measures_of('plcc', 'srcc')
MOS = 'MOS'


def consistency(scores: Mapping[str, np.ndarray], mos: np.ndarray, dataset: str) -> list[dict[str, float | str]]:
    """Return a row for each pair of models, and for each model with MOS.

    Args:
        scores: (n,) of each model, higher better.
        mos: (n,), higher better.
        dataset: its name.

    Returns:
        Rows with 'first', 'second', PLCC and SRCC, NaN where a model scores all images the same; for two models also how
        much their PLCC and SRCC with MOS differ, which the paper gives as within 0.01.
    """
    with_mos = {name: correlations(values, mos, METRICS, dataset) for name, values in scores.items()}
    rows = [{'dataset': dataset, 'images': len(mos), 'first': name, 'second': MOS, **with_mos[name], 'plcc_difference': '',
             'srcc_difference': ''} for name in scores]
    for one, two in combinations(scores, 2):
        constant = np.ptp(scores[two]) == 0  # a constant has no correlation, and none is made up
        between = dict.fromkeys(METRICS, float('nan')) if constant else correlations(scores[one], scores[two], METRICS, dataset)
        rows.append({'dataset': dataset, 'images': len(mos), 'first': one, 'second': two, **between,
                     **{f'{metric}_difference': abs(with_mos[one][metric] - with_mos[two][metric]) for metric in METRICS}})
    return rows
