"""What intervals around scores are worth on images whose MOS are known."""

import math
from typing import Any

import numpy as np

FEWEST_FOR_SRCC = 3
COLUMNS = ('images', 'coverage', 'mean_width', 'srcc_width_error', 'unlike', 'coverage_of_others')


def interval_statistics(scores: np.ndarray, low: np.ndarray, high: np.ndarray, unlike: np.ndarray,
                        mos: np.ndarray) -> dict[str, Any]:
    """Return how many MOS lie within, how wide intervals are, and whether the wide ones are where scores are off.

    Args:
        scores: (n,).
        low: (n,) lower ends.
        high: (n,) upper ends.
        unlike: (n,) which images are unlike those of the calibration.
        mos: (n,) in the unit of the scores.

    Returns:
        `COLUMNS`: 'coverage' and 'unlike' are shares, 'mean_width' is in the unit of the scores, 'srcc_width_error' is that of
        width and absolute error, 'coverage_of_others' leaves the unlike images out.

    Example:
        >>> ones = np.ones(4)
        >>> found = interval_statistics(3 * ones, 2 * ones, 4 * ones, ones < 0, np.array([1.0, 2.5, 3, 4]))
        >>> found['coverage'], found['mean_width'], found['unlike']
        (0.75, 2.0, 0.0)
    """
    from scipy.stats import spearmanr
    inside, width, error = (low <= mos) & (mos <= high), high - low, np.abs(scores - mos)
    differ = len(mos) >= FEWEST_FOR_SRCC and np.ptp(width) > 0 and np.ptp(error) > 0
    others = ~unlike.astype(bool)
    return {'images': len(mos), 'coverage': float(inside.mean()), 'mean_width': float(width.mean()),
            'srcc_width_error': float(spearmanr(width, error)[0]) if differ else math.nan, 'unlike': float(unlike.mean()),
            'coverage_of_others': float(inside[others].mean()) if others.any() else math.nan}
