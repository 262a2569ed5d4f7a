"""Intervals at the end of stage 3: a width signal and its calibration, from the errors at validation images, by folds."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.interval import COVERAGE, IntervalHead, coordinate_scale_of, kernel
from pyiqa_rali.training.rali.features import FeatureTable
from pyiqa_rali.training.rali.options import IntervalOptions

FEWEST = 20  # calibration images: with fewer, an interval of 90 % rests on one or two of them
JITTER = 1e-6  # on the diagonal of the kernel's matrix, whose smallest eigenvalues are below the precision of its entries

logger = logging.getLogger(__name__)

Interval = tuple[dict[str, Tensor], dict[str, Any]]


def fit_interval(scorer: BasisScorer, calibration: FeatureTable, options: IntervalOptions, seed: int) -> Interval:
    """Return the state of an `IntervalHead` and its section of the metadata, which `with_interval` completes.

    Errors at training images would be the wrong teachers: the weights have seen their MOS. So both the signal and its
    calibration come from images that the weights were not trained on, and no image is judged by a signal that has seen its
    error: the images are split into folds, and the ratio and the distance of each come from a head learned from the other folds
    (cross-conformal prediction, Vovk 2015, Annals of Mathematics and Artificial Intelligence 74). The head that is kept learns
    from all of them. The epoch of stage 3 was chosen on these images too, and so may have been options of the training.

    Args:
        scorer: with basis scores in [0, 1], higher better, as labels are.
        calibration: images that the weights were not trained on.
        options: of the intervals.
        seed: of the folds and of which references are kept.

    Raises:
        DataError: there are too few images.
    """
    count = len(calibration.mos_label)
    check_count(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        learned = _Learned(scorer, calibration.image_features[order], calibration.mos_label[order], options)
        signals, distance = learned.out_of_fold()
        coefficients = _regression(signals, learned.log_errors)
        sigma = (signals @ coefficients[:-1] + coefficients[-1]).exp()
        head = learned.head(torch.arange(count))
        head.coefficients.copy_(coefficients)
        head.ratios.copy_((learned.errors / sigma).sort().values)
        # the order statistic of a quantile of a new picture: it is farther with a probability of false_alarms at most
        rank = min(count, math.ceil((count + 1) * (1 - options.false_alarms) - 1e-9))
        head.distance_limit.copy_(distance.sort().values[rank - 1])
    half_width = float(head.quantile(COVERAGE) * sigma.mean())
    srcc = _rank_correlation(sigma, learned.errors)
    logger.info('intervals: calibrated on %d images; intervals of %g %% reach %.3f of the range to each side, on average',
                count, 100 * COVERAGE, half_width)
    return head.state_dict(), {**head.values, 'folds': options.folds, 'false_alarms': options.false_alarms,
                               'half_width': half_width, 'srcc': srcc}


def check_count(images: int) -> None:
    """Raise DataError when there are too few calibration images."""
    if images < FEWEST:
        raise DataError(f'interval: {images} calibration images are too few; at least {FEWEST} are needed. Give a larger '
                        'validation set (interval: datasets), or leave interval out.')


def _rank_correlation(sigma: Tensor, errors: Tensor) -> float:
    """Return Spearman's correlation, 0 where one is constant."""
    from scipy.stats import spearmanr
    if float(sigma.max() - sigma.min()) == 0 or float(errors.max() - errors.min()) == 0:
        return 0.0
    return float(spearmanr(sigma.numpy(), errors.numpy())[0])


def _regression(signals: Tensor, wanted: Tensor) -> Tensor:
    """Return the coefficients (J + 1,) of least squares: of each of the signals (n, J), not negative, then the constant.

    Each signal rises with the error where it knows it. With few images one that knows nothing falls with the errors of the
    images that it has not seen, because what they are above the mean lacks in the others; turned round it would make intervals
    narrow where errors were large.
    """
    design = torch.cat([signals, torch.ones(len(signals), 1)], dim=1).double()
    found = torch.linalg.lstsq(design, wanted.double().unsqueeze(-1), driver='gelsd').solution.squeeze(-1)
    if (found[:-1] < 0).any():
        from scipy.optimize import lsq_linear
        low = [0.0] * signals.shape[1] + [-math.inf]
        found = torch.from_numpy(lsq_linear(design.numpy(), wanted.double().numpy(), (low, math.inf)).x)
        found[:-1] = torch.where(found[:-1] < 1e-9, torch.zeros_like(found[:-1]), found[:-1])  # the solver stays off its bounds
    if not found[:-1].any():
        logger.warning('intervals: the width signal does not know the errors of images that it has not seen: all intervals '
                       'have the same width. More calibration images may help.')
    return found.float()


class _Learned:
    """Images with their errors, in random order, from which heads are learned."""

    def __init__(self, scorer: BasisScorer, features: Tensor, labels: Tensor, options: IntervalOptions):
        self.scorer, self.options, self.labels = scorer, options, labels
        compressed = scorer.compress(features)
        self.directions = F.normalize(compressed, dim=-1)
        # the length of the features counts where each picture has a temperature of its own, and nowhere else
        self.compressed = self.directions if scorer.temperature_direction is None else compressed
        self.errors = (scorer.score_compressed(self.compressed).squeeze(-1) - labels).abs()
        self.log_errors = (self.errors + options.offset).log()

    def out_of_fold(self) -> tuple[Tensor, Tensor]:
        """Return the signals (n, J) and the distances (n,) of images, by heads that were learned from the other folds."""
        count, names = len(self.labels), self.options.signals
        fold = torch.arange(count) % min(self.options.folds, count)
        signals, distance = torch.zeros(count, len(names)), torch.zeros(count)
        for number in range(int(fold.max()) + 1):
            left, others = (fold == number).nonzero().squeeze(-1), (fold != number).nonzero().squeeze(-1)
            found = self.head(others).signals(self.scorer, self.compressed[left])
            signals[left], distance[left] = torch.stack([found[name] for name in names], dim=1), found['distance']
        return signals, distance

    def head(self, learned: Tensor) -> IntervalHead:
        """Return a head that is learned from the images at these places, and keeps the first of them; no coefficients yet."""
        options, (num_basis, pca_dim) = self.options, self.scorer.basis_vectors.shape
        kept = learned[:options.references]
        values = {'signals': list(options.signals), 'neighbours': options.neighbours, 'offset': options.offset,
                  'references': len(kept), 'images': len(self.labels), 'scorer': ''}
        head = IntervalHead(values, pca_dim, num_basis, (0.0, 1.0))
        head.reference_features.copy_(self.compressed[kept])
        head.reference_mos.copy_(self.labels[kept])
        head.reference_errors.copy_(self.log_errors[kept])
        found = self.directions[learned]
        weights = self.scorer.weights(self.compressed[learned])
        coordinates = torch.cat([weights, found, (weights @ head.shares(self.scorer)).unsqueeze(1)], dim=1)
        head.coordinate_mean.copy_(coordinates.mean(dim=0))
        head.coordinate_scale.copy_(coordinate_scale_of(coordinates))
        if 'kernel' in options.signals:
            head.kernel_weights.copy_(self._kernel_weights(head, weights, learned))
        return head

    def _kernel_weights(self, head: IntervalHead, weights: Tensor, learned: Tensor) -> Tensor:
        """Return the kernel regression of log errors on the references of a head, by regularised least squares."""
        # the regression on all n images that learn, with the M that are kept as its centres: (K'K + ridge k + jitter) a = K'y
        centres = head.reference_coordinates(self.scorer)
        scores = weights @ head.shares(self.scorer)
        rows = kernel(head.standardised(weights, self.directions[learned], scores), centres).double()
        wanted = (self.log_errors[learned] - self.log_errors[learned].mean()).double()
        among = kernel(centres, centres).double()
        matrix = rows.T @ rows + self.options.ridge * among
        matrix.diagonal().add_(JITTER * matrix.diagonal().mean())
        return torch.linalg.solve(matrix, rows.T @ wanted).float()


def chosen_datasets(option: str, given: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the data sets that an option names; without it, the first of those that it may name.

    Args:
        option: its path in the option file, for messages.
        given: its value.
        known: what it may name.

    Raises:
        OptionError: it names another, or there is none.
    """
    if not known:
        raise OptionError(f'{option}: the option file has no data set for it.')
    for name in given or []:
        if name not in known:
            raise OptionError(f'{option}: "{name}" is not one of {", ".join(known)}.{did_you_mean(name, known)}')
    return list(given or known[:1])
