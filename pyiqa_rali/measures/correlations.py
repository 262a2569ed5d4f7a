"""Correlations between scores and MOS, by pyiqa's own functions."""

from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError


def measures_of(*names: str) -> dict[str, dict[str, Any]]:
    """Return pyiqa's section of each measure, such as {'srcc': {'type': 'calculate_srcc'}} for 'srcc'."""
    return {name: {'type': f'calculate_{name}'} for name in names}


def correlations(scores: np.ndarray, mos: np.ndarray, metrics: dict[str, dict[str, Any]], name: str) -> dict[str, float]:
    """Return each metric's value for n scores and n MOS; NaN when all scores are the same.

    Args:
        scores: (n,).
        mos: (n,), in any unit.
        metrics: pyiqa's sections, such as {'srcc': {'type': 'calculate_srcc'}}.
        name: the data set, for messages.

    Raises:
        DataError: fewer than three images, a score that is not a number, or MOS that are all the same.
        OptionError: pyiqa has no such metric.
    """
    from pyiqa.metrics import calculate_metric
    scores, mos = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(mos, dtype=np.float64).ravel()
    _check(scores, mos, name)
    if np.ptp(scores) == 0:
        return dict.fromkeys(metrics, float('nan'))  # a constant has no correlation, and none is invented
    try:
        return {metric: float(calculate_metric((scores, mos), options)) for metric, options in metrics.items()}
    except (KeyError, TypeError) as error:
        raise OptionError(f'val: metrics: pyiqa cannot compute them: {error}. Use types such as calculate_srcc.') from error


def _check(scores: np.ndarray, mos: np.ndarray, name: str) -> None:
    if len(scores) != len(mos) or len(scores) < 3:
        raise DataError(f'{name}: {len(scores)} scores and {len(mos)} MOS; a correlation needs equally many, at least 3.')
    for what, values in (('scores', scores), ('MOS', mos)):
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise DataError(f'{name}: {wrong} of {len(values)} {what} are not finite numbers.')
    if np.ptp(mos) == 0:
        raise DataError(f'{name}: all MOS are {mos[0]:g}; correlations with a constant do not exist.')
