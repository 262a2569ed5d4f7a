"""Agreement of scores with MOS: correlations and errors, each with a bootstrap interval over images."""

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy import stats

from pyiqa_rali.measures.correlations import correlations, measures_of

MEASURES = ('plcc', 'plcc_fitted', 'srcc', 'krcc', 'rmse')
PLAIN = measures_of('plcc', 'srcc', 'krcc')
FIT = 'logistic_4params'
FEWEST_IMAGES = 5  # one more than the fit has parameters
NUMBERS_AT_ONCE = 2_000_000  # bounds the memory of resampling


@dataclass(frozen=True)
class Agreement:
    """How far the scores of one metric agree with the MOS of one data set.

    Attributes:
        values: by measure; NaN where it is undefined.
        intervals: lower and upper end by measure.
        fit: 'ok', or why the logistic fit failed; then plcc_fitted and rmse are NaN.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    fit: str


def oriented(values: ndarray, lower_better: bool) -> ndarray:
    """Return values (n,) negated where needed, so that higher is better."""
    return -np.asarray(values, dtype=np.float64) if lower_better else np.asarray(values, dtype=np.float64)


def bootstrap_indices(images: int, count: int, seed: int, name: str) -> ndarray:
    """Return `count` resamples (count, images) of image positions, seeded by the run and the data set's name."""
    # The data set's name is part of the seed, the metric is not: all metrics of a data set get the same resamples, so that
    # differences between them can be compared resample by resample. CRC-32, as Python's own hash differs in each process.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return rng.integers(images, size=(count, images), dtype=np.int32)


def agreement(scores: ndarray, mos: ndarray, indices: ndarray, confidence: float, name: str) -> Agreement:
    """Measure the agreement of scores and MOS, both higher better.

    PLCC, SRCC and KRCC are pyiqa's, of the values as they are. `plcc_fitted` is PLCC, and `rmse` the root mean squared error on
    the MOS scale, after pyiqa's four-parameter logistic fit of the scores to the MOS. Intervals are percentiles over the
    resamples; the fit is made once, on all images, so that its own uncertainty is not included.

    Args:
        scores: (n,), finite.
        mos: (n,), in the data set's unit, negated where lower is better.
        indices: (resamples, n) positions.
        confidence: share of the resamples inside an interval.
        name: the data set, for messages.

    Raises:
        DataError: fewer than three images, or MOS that are all the same.
    """
    from pyiqa.metrics import calculate_metric
    values = correlations(scores, mos, PLAIN, name)
    fitted, fit = fit_to_mos(scores, mos)
    if fitted is None:
        values.update(plcc_fitted=np.nan, rmse=np.nan)
    else:
        values.update({measure: float(calculate_metric((fitted, mos), {'type': f'calculate_{kind}'}))
                       for measure, kind in (('plcc_fitted', 'plcc'), ('rmse', 'rmse'))})
    of_measure = dict.fromkeys(MEASURES, scores)
    if fitted is not None:
        of_measure.update(plcc_fitted=fitted, rmse=fitted)
    intervals = {measure: (np.nan, np.nan) if np.isnan(values[measure]) else
                 percentile_interval(resampled(measure, of_measure[measure], mos, indices), confidence) for measure in MEASURES}
    return Agreement({measure: values[measure] for measure in MEASURES}, intervals, fit)


def fit_to_mos(scores: ndarray, mos: ndarray) -> tuple[ndarray | None, str]:
    """Return the scores (n,) mapped to the MOS scale by pyiqa's logistic fit, and 'ok'; or None and why it failed."""
    from pyiqa.metrics.correlation_coefficient import fit_curve
    if np.ptp(scores) == 0:
        return None, 'all scores are the same'
    if len(scores) < FEWEST_IMAGES:
        return None, f'{len(scores)} images are fewer than {FEWEST_IMAGES}'
    try:
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            fitted = fit_curve(scores, mos, FIT)
    except (RuntimeError, TypeError, ValueError) as error:  # scipy's way of saying that it did not converge
        return None, str(error).splitlines()[0]
    if not np.isfinite(fitted).all() or np.ptp(fitted) == 0:
        return None, 'the fitted curve is flat or not finite'
    return fitted, 'ok'


def resampled(measure: str, scores: ndarray, mos: ndarray, indices: ndarray) -> ndarray:
    """Return a measure (resamples,) of each resample of (scores, MOS); NaN where a resample is constant."""
    compute = {'plcc': _pearson, 'plcc_fitted': _pearson, 'srcc': _spearman, 'krcc': _kendall, 'rmse': _rmse}[measure]
    return _in_chunks(compute, scores, mos, indices)


def percentile_interval(values: ndarray, confidence: float) -> tuple[float, float]:
    """Return the central interval of the resamples' values; constant resamples, which have no value, are left out."""
    if np.isnan(values).all():
        return np.nan, np.nan
    # the plain percentile method: it needs no standard error, and its ends stay within the range of a correlation
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _in_chunks(compute: Callable[[ndarray, ndarray], ndarray], scores: ndarray, mos: ndarray, indices: ndarray) -> ndarray:
    # resamples are independent rows: chunks of them bound the memory and change no result
    chunks = np.array_split(indices, max(1, -(-indices.size // NUMBERS_AT_ONCE)))
    return np.concatenate([compute(scores[rows], mos[rows]) for rows in chunks])


def _pearson(scores: ndarray, mos: ndarray) -> ndarray:
    """Return the correlation of each row of two (m, n) arrays."""
    scores, mos = scores - scores.mean(axis=1, keepdims=True), mos - mos.mean(axis=1, keepdims=True)
    with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
        return (scores * mos).sum(axis=1) / np.sqrt((scores ** 2).sum(axis=1) * (mos ** 2).sum(axis=1))


def _spearman(scores: ndarray, mos: ndarray) -> ndarray:
    # ranked anew within each resample: images drawn twice are ties, which the ranks of the whole set would not show
    return _pearson(stats.rankdata(scores, axis=1), stats.rankdata(mos, axis=1))


def _kendall(scores: ndarray, mos: ndarray) -> ndarray:
    return np.array([stats.kendalltau(*pair).statistic for pair in zip(scores, mos, strict=True)])


def _rmse(fitted: ndarray, mos: ndarray) -> ndarray:
    return np.sqrt(np.mean((fitted - mos) ** 2, axis=1))
