"""The rule of a cascade, fitted on validation images: the map from slow to fast scores, and how unsure the fast metric is."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.model.cascade_rule import Rule, interpolated
from pyiqa_rali.scoring.cascade import tells_width

WIDTHS_KEPT = 101
BINS = 20  # of the map from slow to fast scores, and of the widths of a metric without intervals


@dataclass(frozen=True)
class Judged:
    """What both metrics say of the images of one data set, in its order.

    Attributes:
        images: n paths.
        mos: (n,) on the scale of the data set.
        fast: (n,) scores.
        widths: (n,) of the intervals around them; NaN for a metric that does not tell.
        slow: (n,) scores of the slow metric on its own scale; NaN where it has none.
    """

    images: list[str]
    mos: np.ndarray
    fast: np.ndarray
    widths: np.ndarray
    slow: np.ndarray


def fit_rule(judged: Judged, fast: Any, towards: float, fitted_on: dict[str, Any]) -> Rule:
    """Return the map from slow to fast scores and the widths of validation images.

    A slow score goes where the fast metric's score means the same MOS: with f(s) and g(s) the isotonic regressions of MOS on
    slow and on fast scores, the map is the inverse of g after f.

    Args:
        judged: validation images.
        fast: net of the fast metric.
        towards: 1 where high fast scores mean high MOS, -1 otherwise.
        fitted_on: what the rule says of itself.

    Raises:
        DataError: one of the metrics has too few different scores.
    """
    from scipy.stats import spearmanr
    there = np.isfinite(judged.slow) & np.isfinite(judged.fast)
    slow, scores, mos = judged.slow[there], judged.fast[there], judged.mos[there]
    meaning = isotonic(scores, mos, towards)
    knots, expected = isotonic(slow, mos, 1.0 if spearmanr(slow, mos)[0] >= 0 else -1.0)
    if min(len(knots), len(meaning[0])) < 2:
        raise DataError(f'fast, slow: one of these has too few different scores on {len(mos)} validation images for a map '
                        'between them. Give more images, or another metric.')
    profile = ([], []) if tells_width(fast) else _profile(scores, mos, meaning)
    widths = judged.widths if tells_width(fast) else np.interp(judged.fast, *profile)
    fast_scores = np.unique(_at_shares(judged.fast))
    rule = Rule(knots.tolist(), same_meaning(expected, meaning).tolist(), _at_shares(widths).tolist(), [], fast_scores.tolist(),
                list(profile[0]), list(profile[1]), fitted_on, meaning[0].tolist(), meaning[1].tolist())
    ranks = rule.in_ranks(torch.from_numpy(judged.fast), torch.from_numpy(widths)).numpy()
    return replace(rule, rank_widths=_at_shares(ranks).tolist())


def _at_shares(values: np.ndarray) -> np.ndarray:
    return np.quantile(values[np.isfinite(values)], np.linspace(0, 1, WIDTHS_KEPT))


def same_meaning(mos: np.ndarray, meaning: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the fast scores (n,) that mean these MOS (n,).

    Args:
        mos: of pictures.
        meaning: knots of the fast scores, and the MOS that they mean.
    """
    scores, means = meaning
    rising = slice(None) if means[0] < means[-1] else slice(None, None, -1)
    return interpolated(torch.from_numpy(mos), means[rising].tolist(), scores[rising].tolist()).numpy()


def isotonic(inputs: np.ndarray, outputs: np.ndarray, direction: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return knots of a strictly monotone piecewise linear regression: rising inputs (k,) and outputs (k,).

    Inputs are put into bins of equally many images. scikit-learn's isotonic regression of their means pools neighbouring bins
    that break the order; each pool is one knot.

    Args:
        inputs: (n,).
        outputs: (n,).
        direction: 1 for a rising map, -1 for a falling one.
    """
    from sklearn.isotonic import IsotonicRegression
    parts = np.array_split(np.argsort(inputs, kind='stable'), min(BINS, len(inputs)))
    images = np.array([len(part) for part in parts])
    places, means = (np.array([values[part].mean() for part in parts]) for values in (inputs, outputs))
    regression = IsotonicRegression(increasing=direction > 0).fit(places, means, sample_weight=images)
    fitted = direction * regression.predict(places)
    pool = np.r_[0, np.cumsum(np.diff(fitted) > 1e-9 * np.ptp(fitted))]
    shares = np.bincount(pool, images)
    return np.bincount(pool, images * places) / shares, np.bincount(pool, images * means) / shares


def _profile(scores: np.ndarray, mos: np.ndarray, meaning: tuple[np.ndarray, np.ndarray]) -> tuple[list[float], list[float]]:
    """Return rising scores, and how far MOS, put on the scale of the scores, are from them on average."""
    errors = np.abs(same_meaning(mos, meaning) - scores)
    parts = [part for part in np.array_split(np.argsort(scores, kind='stable'), min(BINS, len(scores))) if len(part)]
    knots = {float(scores[part].mean()): float(errors[part].mean()) for part in parts}
    return list(knots), list(knots.values())


def widths_by(rule: Rule, judged: Judged) -> np.ndarray:
    """Return (n,) how unsure the fast metric is: its own widths, or those that the rule has learned."""
    return np.interp(judged.fast, rule.profile_scores, rule.profile_widths) if rule.profile_scores else judged.widths
