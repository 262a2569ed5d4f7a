"""Whether one metric agrees better with the MOS than another on the same images."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy import ndarray
from scipy import stats

from pyiqa_rali.measures.agreement import bootstrap_indices, percentile_interval, resampled

FEWEST_IMAGES = 4  # Williams' test has n - 3 degrees of freedom
SAME = 1e-12  # smaller differences between correlations are rounding


@dataclass(frozen=True)
class Comparison:
    """How metrics are compared.

    Attributes:
        bootstrap: resamples.
        confidence: share of them inside the interval of the difference.
        alpha: a difference is significant when its corrected p-value is below this.
        seed: of the resamples.
    """

    bootstrap: int
    confidence: float
    alpha: float
    seed: int


def fewest_resamples(metrics: int, alpha: float) -> int:
    """Return how many resamples a difference needs to be called significant after Holm's correction over all pairs."""
    return math.floor(2 * math.comb(metrics, 2) / alpha + 1e-9)


def compare_metrics(scores: dict[str, ndarray], mos: ndarray, options: Comparison, name: str) -> list[dict[str, Any]]:
    """Test every pair of metrics on the images that both have scores for.

    SRCC: paired percentile bootstrap of the difference over images, two-sided. PLCC (without fit): Williams' t-test for two
    correlations that share a variable (Steiger 1980, equation 7), two-sided. Holm's correction runs over the data set's
    pairs, for each of the two by itself.

    Args:
        scores: (n,) by metric, higher better, NaN where there is none.
        mos: (n,), higher better.
        options: how.
        name: the data set; part of the seed.

    Returns:
        One row per pair, NaN where a value is undefined.
    """
    memory: dict[tuple[str, bytes], ndarray] = {}
    rows = [_compare(pair, scores, mos, options, name, memory) for pair in combinations(scores, 2)]
    for measure in ('srcc', 'plcc'):
        for row, corrected in zip(rows, holm([row[f'{measure}_p'] for row in rows]), strict=True):
            row[f'{measure}_p_holm'] = corrected
            better = row['metric_a'] if row[f'{measure}_difference'] > 0 else row['metric_b']
            row[f'{measure}_better'] = better if corrected < options.alpha else ''
    return rows


def _compare(pair: tuple[str, str], scores: dict[str, ndarray], mos: ndarray, options: Comparison, name: str,
             memory: dict) -> dict[str, Any]:
    first, second = pair
    both = np.isfinite(scores[first]) & np.isfinite(scores[second])
    row: dict[str, Any] = {'dataset': name, 'metric_a': first, 'metric_b': second, 'images': int(both.sum()),
                           **dict.fromkeys(('srcc_a', 'srcc_b', 'srcc_difference', 'srcc_low', 'srcc_high', 'srcc_p', 'plcc_a',
                                            'plcc_b', 'plcc_difference', 'plcc_t', 'plcc_p'), math.nan)}
    if row['images'] < FEWEST_IMAGES or any(np.ptp(values[both]) == 0 for values in (scores[first], scores[second], mos)):
        return row
    # paired: both metrics get the same resamples, so that whatever makes a resample hard for both cancels in the difference
    resamples = [_resampled_srcc(metric, scores, mos, both, options, name, memory) for metric in pair]
    srcc = [float(stats.spearmanr(scores[metric][both], mos[both]).statistic) for metric in pair]
    differences = resamples[0] - resamples[1]
    low, high = percentile_interval(differences, options.confidence)
    row.update(srcc_a=srcc[0], srcc_b=srcc[1], srcc_difference=srcc[0] - srcc[1], srcc_low=low, srcc_high=high,
               srcc_p=bootstrap_p(differences))
    plcc = [float(stats.pearsonr(scores[metric][both], mos[both]).statistic) for metric in pair]
    between = float(stats.pearsonr(scores[first][both], scores[second][both]).statistic)
    t, p = williams_test(plcc[0], plcc[1], between, row['images'])
    row.update(plcc_a=plcc[0], plcc_b=plcc[1], plcc_difference=plcc[0] - plcc[1], plcc_t=t, plcc_p=p)
    return row


def _resampled_srcc(metric: str, scores: dict[str, ndarray], mos: ndarray, both: ndarray, options: Comparison, name: str,
                    memory: dict) -> ndarray:
    """Return SRCC of each resample; the same images get the same resamples, and are not resampled twice."""
    key = (metric, both.tobytes())
    if key not in memory:
        indices = bootstrap_indices(int(both.sum()), options.bootstrap, options.seed, name)
        memory[key] = resampled('srcc', scores[metric][both], mos[both], indices)
    return memory[key]


def bootstrap_p(differences: ndarray) -> float:
    """Return the two-sided p-value of a difference of zero: twice the smaller share of resamples on one side of it.

    The observed sample counts as one more resample, so that no p-value is zero.
    """
    finite = differences[np.isfinite(differences)]
    fewer = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (1 + fewer) / (1 + len(finite))))


def williams_test(first: float, second: float, between: float, images: int) -> tuple[float, float]:
    """Return t and two-sided p for the difference of two correlations with the same MOS (Steiger 1980, equation 7).

    Numerator and denominator are divided by 1 + between, so that the limit is right for a metric and its own negation: there
    the difference is twice the correlation, and t is that of the correlation itself.

    Args:
        first: correlation of metric a with the MOS.
        second: correlation of metric b with the MOS.
        between: correlation of the two metrics.
        images: n; the test has n - 3 degrees of freedom.
    """
    if 1 - between < SAME:  # one metric is an increasing linear function of the other
        return 0.0, 1.0
    half, mean = (first - second) / 2, (first + second) / 2
    shared = mean ** 2 / (1 + between) if 1 + between > SAME else 0.0
    determinant = max(0.0, (1 - between) * (1 - 2 * shared) - 2 * half ** 2)
    scale = 2 * (images - 1) / (images - 3) * determinant + shared * (1 - between) ** 3
    t = 2 * half * math.sqrt((images - 1) / max(scale, SAME))
    return t, float(2 * stats.t.sf(abs(t), images - 3))


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method; NaN stays, and does not count."""
    order = sorted((p, position) for position, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, position) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[position] = largest
    return corrected
