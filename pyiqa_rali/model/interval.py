"""Intervals around scores by split conformal prediction, and a warning for pictures unlike those that were seen.

The half width at a picture x is q sigma(x). The *width signal* sigma(x) > 0 says how far off scores like this one usually are;
it is learned from the errors at validation images, the *references*, which the checkpoint keeps. q makes the promise good: it
is an order statistic of |MOS - score| / sigma over these images, each judged by a signal that was learned without it. For
pictures exchangeable with them, an interval holds the MOS with about the wanted probability, whatever the signal is worth
(Papadopoulos et al. 2002; Lei et al., arXiv 1604.04173; by folds: Vovk 2015).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint_interval import AGAIN, INTERVAL_KEY
from pyiqa_rali.model.of_one_scorer import OfOneScorer

COVERAGE = 0.9  # unless another is asked for
NO_INTERVAL = ('no interval: the checkpoint was not calibrated. Calibrate it on images that people scored: python -m '
               'pyiqa_rali calibrate CHECKPOINT -opt FILE --out NEW')
SIGNALS = ('kernel', 'scatter', 'errors', 'distance', 'spread')
# of the kernel, chosen on BIQ2021's validation part: SRCC with the error .390 to .410 for 1 to 6 and 0.2 to 0.8
SHARPNESS, SCORE_SHARE = 3.0, 0.8
LEAST_LOG = 1e-6  # of the range: what has no logarithm counts as this


@dataclass(frozen=True)
class ScoreIntervals:
    """Scores with their intervals, each (N, 1).

    Attributes:
        scores: as `forward` returns them, in the unit of the MOS.
        low: lower ends, within the MOS range.
        high: upper ends, within the MOS range.
        distance: from what was seen; 1 is where the warning begins.
        unlike: whether it is above 1: which share of MOS the intervals hold is then unknown.
        coverage: share of the images like those of the calibration whose MOS lies within.
    """

    scores: Tensor
    low: Tensor
    high: Tensor
    distance: Tensor
    unlike: Tensor
    coverage: float

    @property
    def width(self) -> Tensor:
        """How wide the intervals are, (N, 1)."""
        return self.high - self.low

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return scores, low, high and unlike as arrays (N,)."""
        scores, low, high, unlike = (each.flatten().cpu().numpy() for each in (self.scores, self.low, self.high, self.unlike))
        return scores, low, high, unlike


def coverage_of(percent: float) -> float:
    """Return the coverage of intervals as a share, for the option of commands in per cent.

    Raises:
        OptionError: it is not between 1 and 100: less is a share that was taken for per cent.
    """
    if not 1 <= percent < 100:
        meant = f' {percent:g} is less than one in a hundred: give {100 * percent:g}.' if 0 < percent < 1 else ''
        raise OptionError(f'--interval: {percent:g} must be at least 1 and below 100: the share of images, in per cent, whose '
                          f'MOS lies within.{meant}')
    return percent / 100


class IntervalHead(OfOneScorer):
    """Width signal, its calibration, and the distance at which the warning begins.

    Args:
        values: the section `interval` of the metadata.
        pca_dim: width D of the compressed features.
        num_basis: number K of basis vectors.
        mos_range: of the scores.

    Attributes:
        reference_features: (M, D) compressed features of the references, of unit length up to the precision of float16; of a
            scorer with `own_temperature`, whose weights depend on it, of their own length.
        reference_mos: (M,) their MOS, as a share of the range.
        reference_errors: (M,) log(|MOS - score| / range + `offset`).
        kernel_weights: (M,) of the kernel regression of these errors.
        coordinate_mean: (K + D + 1,) of its coordinates over the references.
        coordinate_scale: (K + D + 1,) what they are divided by, see `coordinate_scale_of`.
        coefficients: (J + 1,) of log sigma: of each of the J signals, then the constant.
        ratios: (n,) |MOS - score| / (sigma range) of the calibration images, rising.
        distance_limit: () at which the warning begins.
    """

    reference_features: Tensor
    reference_mos: Tensor
    reference_errors: Tensor
    kernel_weights: Tensor
    coordinate_mean: Tensor
    coordinate_scale: Tensor
    coefficients: Tensor
    ratios: Tensor
    distance_limit: Tensor

    def __init__(self, values: Mapping[str, Any], pca_dim: int, num_basis: int, mos_range: tuple[float, float]):
        super().__init__(values)
        self.signal_names: tuple[str, ...] = tuple(values['signals'])
        self.neighbours, self.offset = int(values['neighbours']), float(values['offset'])
        self.mos_range = (float(mos_range[0]), float(mos_range[1]))
        references, width = int(values['references']), num_basis + pca_dim + 1
        self.register_buffer('reference_features', torch.zeros(references, pca_dim, dtype=torch.float16))
        for name in ('reference_mos', 'reference_errors', 'kernel_weights'):
            self.register_buffer(name, torch.zeros(references))
        self.register_buffer('coordinate_mean', torch.zeros(width))
        self.register_buffer('coordinate_scale', torch.ones(width))
        self.register_buffer('coefficients', torch.zeros(len(self.signal_names) + 1))
        self.register_buffer('ratios', torch.zeros(int(values['images'])))
        self.register_buffer('distance_limit', torch.ones(()))

    def around(self, scorer: BasisScorer, features: Tensor, scores: Tensor, coverage: float) -> ScoreIntervals:
        """Return the intervals around scores (N, 1) that come from image features (N, C).

        Raises:
            CheckpointError: the scorer is not the one that this was calibrated for.
            OptionError: see `quantile`.
        """
        self.check_scorer(scorer)
        low, high = self.mos_range
        sigma, distance = self.sigma_and_distance(scorer, scorer.compress(features.float()))
        half = self.quantile(coverage) * (high - low) * sigma.unsqueeze(-1)
        # no MOS lies beyond the range, so clipping costs no coverage; a score may lie beyond it, and stays within its interval
        ends = (scores - half).clamp(min=low).minimum(scores), (scores + half).clamp(max=high).maximum(scores)
        distance = (distance / self.distance_limit).unsqueeze(-1)
        return ScoreIntervals(scores, *ends, distance, distance > 1, coverage)

    def check_scorer(self, scorer: BasisScorer) -> None:
        """Raise CheckpointError when the scorer has changed since the calibration."""
        if not self.belongs_to(scorer):
            raise CheckpointError(f'no interval: the scorer has changed since its interval was calibrated. {AGAIN}')

    def quantile(self, coverage: float) -> float:
        """Return q: the ceil((n + 1) coverage)-th smallest of the n ratios.

        Raises:
            OptionError: the coverage is not between 0 and 1, or n images are too few for it.
        """
        if isinstance(coverage, bool) or not isinstance(coverage, Real) or not 0 < coverage < 1:
            raise OptionError(f'coverage: {coverage!r} must be a number above 0 and below 1.')
        rank = math.ceil((len(self.ratios) + 1) * coverage - 1e-9)  # 0.9 is a little more than nine tenths in binary
        if rank > len(self.ratios):
            raise OptionError(f'coverage: {coverage:g} needs at least {math.ceil(coverage / (1 - coverage) - 1e-9)} images of '
                              f'calibration, and the checkpoint was calibrated on {len(self.ratios)}. Ask for less, or '
                              'calibrate it on more.')
        return float(self.ratios[rank - 1])

    def sigma_and_distance(self, scorer: BasisScorer, compressed: Tensor) -> tuple[Tensor, Tensor]:
        """Return sigma (N,), as a share of the range, and the distance (N,) to the references, for compressed (N, D)."""
        signals = self.signals(scorer, compressed)
        values = torch.stack([signals[name] for name in self.signal_names], dim=1)
        return (values @ self.coefficients[:-1] + self.coefficients[-1]).exp(), signals['distance']

    def signals(self, scorer: BasisScorer, compressed: Tensor) -> dict[str, Tensor]:
        """Return the signals (N,) of `SIGNALS` by name: what may tell how far off a score is.

        'kernel' is the logarithm of the error by kernel regression on the weights of the basis, the direction of the features
        and the score; 'scatter' is the logarithm of the standard deviation of the MOS of the nearest references; 'errors' is
        the mean of their `reference_errors`; 'distance' is their mean distance, 1 - cosine; 'spread' is the logarithm of the
        spread of the basis scores.
        """
        directions = F.normalize(compressed.float(), dim=-1)
        similar = directions @ F.normalize(self.reference_features.float(), dim=-1).T
        nearest, places = similar.topk(min(self.neighbours, similar.shape[1]), dim=1)
        weights = scorer.weights(compressed.float())  # a temperature of its own depends on the length too
        basis_scores = self.shares(scorer)
        scores = weights @ basis_scores
        spread = (weights * (basis_scores - scores.unsqueeze(1)) ** 2).sum(dim=1).sqrt()
        scatter = self.reference_mos[places]
        scatter = (scatter - scatter.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
        return {'kernel': self.kernel_signal(scorer, weights, directions), 'scatter': (scatter + self.offset).log(),
                'errors': self.reference_errors[places].mean(dim=1), 'distance': 1 - nearest.mean(dim=1),
                'spread': (spread + LEAST_LOG).log()}

    def shares(self, scorer: BasisScorer) -> Tensor:
        """Return the basis scores (K,) as shares of the range."""
        low, high = self.mos_range
        return (scorer.basis_scores.float() - low) / (high - low)

    def kernel_signal(self, scorer: BasisScorer, weights: Tensor, directions: Tensor) -> Tensor:
        """Return (N,) the kernel regression of the logarithm of the error, less its mean."""
        coordinates = self.standardised(weights, directions, weights @ self.shares(scorer))
        return kernel(coordinates, self.reference_coordinates(scorer)) @ self.kernel_weights

    def reference_coordinates(self, scorer: BasisScorer) -> Tensor:
        """Return the coordinates (M, K + D + 1) of the references."""
        references = self.reference_features.float()
        directions, weights = F.normalize(references, dim=-1), scorer.weights(references)
        return self.standardised(weights, directions, weights @ self.shares(scorer))

    def standardised(self, weights: Tensor, directions: Tensor, scores: Tensor) -> Tensor:
        """Return coordinates (N, K + D + 1) for weights of the basis (N, K), directions (N, D) and scores (N,) in [0, 1].

        Over the references their variances add up to 1, so that two pictures are at a squared distance of 2 on average.
        """
        found = torch.cat([weights, directions, scores.unsqueeze(1)], dim=1)
        return (found - self.coordinate_mean) / self.coordinate_scale


def kernel(coordinates: Tensor, others: Tensor) -> Tensor:
    """Return exp(-`SHARPNESS` |a - b|^2 / 2) (N, M) for coordinates (N, W) and (M, W), see `IntervalHead.standardised`."""
    squares = coordinates.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1) - 2 * coordinates @ others.T
    return (squares.clamp(min=0) * (-SHARPNESS / 2)).exp()


def coordinate_scale_of(coordinates: Tensor) -> Tensor:
    """Return what coordinates (n, K + D + 1) of references are divided by.

    Their variances then add up to 1. The last one, the score, has `SCORE_SHARE` of it, since errors differ most along the
    score; the others share the rest evenly.
    """
    share = torch.full((coordinates.shape[1],), (1 - SCORE_SHARE) / (coordinates.shape[1] - 1))
    share[-1] = SCORE_SHARE
    return coordinates.std(dim=0).clamp(min=1e-6) / share.sqrt()


def build_interval(metadata: Mapping[str, Any], pca_dim: int, num_basis: int) -> IntervalHead | None:
    """Return an empty head of the size that the metadata names; None when there is none."""
    values = metadata.get(INTERVAL_KEY)
    return None if values is None else IntervalHead(values, pca_dim, num_basis, metadata['mos_range'])
