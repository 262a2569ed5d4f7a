"""Intervals at the end of stage 3: a width signal from the errors at training images, and its calibration on others."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.interval import COVERAGE, IntervalHead, kernel
from pyiqa_rali.training.rali.features import FeatureTable
from pyiqa_rali.training.rali.options import IntervalOptions

FOLDS = 5  # of the regression that combines the signals
FEWEST = 20  # calibration images: with fewer, an interval of 90 % rests on one or two of them
JITTER = 1e-4  # on the diagonal of the kernel's matrix, whose smallest eigenvalues are below float32's precision

logger = logging.getLogger(__name__)

Interval = tuple[dict[str, Tensor], dict[str, Any]]


def fit_interval(scorer: BasisScorer, references: FeatureTable, calibration: FeatureTable, options: IntervalOptions,
                 seed: int) -> Interval:
    """Return the state of an `IntervalHead` and its section of the metadata.

    The section lacks the digest of the scorer, which `with_interval` adds: exports have their basis scores in another unit.

    The signal is learned from the references alone. Calibration images give the ratios, whose order statistics are q, and the
    limit of the distance, and nothing else; the epoch of stage 3 was chosen on them, and so may have been options of the
    training.

    Args:
        scorer: with basis scores in [0, 1], higher better, as labels are.
        references: training images.
        calibration: images that the weights were not trained on.
        options: of the intervals.
        seed: of the draws.

    Raises:
        DataError: there are too few images.
    """
    for name, table, least in (('references', references, 2 * FOLDS), ('calibration images', calibration, FEWEST)):
        if len(table.mos_label) < least:
            raise DataError(f'interval: {len(table.mos_label)} {name} are too few; at least {least} are needed.')
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(references.mos_label), generator=generator)[:options.learned_from]
    with torch.no_grad():
        learned = _Learned(scorer, references.image_features[order], references.mos_label[order], options)
        kept = torch.arange(min(options.references, len(order)))
        head = learned.head(torch.arange(len(order)), kept, len(calibration.mos_label))
        head.coefficients.copy_(learned.coefficients())
        compressed = scorer.compress(calibration.image_features)
        sigma, distance = head.sigma_and_distance(scorer, compressed)
        errors = (scorer.score_compressed(compressed).squeeze(-1) - calibration.mos_label).abs()
        head.ratios.copy_((errors / sigma).sort().values)
        # of the same order statistic as q: a picture like these is farther with a probability of false_alarms at most
        rank = min(len(distance), math.ceil((len(distance) + 1) * (1 - options.false_alarms) - 1e-9))
        head.distance_limit.copy_(distance.sort().values[rank - 1])
    half_width = float(head.quantile(COVERAGE) * sigma.mean())
    logger.info('intervals: %d references, calibrated on %d images; intervals of %g %% reach %.3f of the range to each side, '
                'on average', len(kept), len(errors), 100 * COVERAGE, half_width)
    return head.state_dict(), {**head.values, 'false_alarms': options.false_alarms, 'learned_from': len(order),
                               'half_width': half_width}


class _Learned:
    """Training images with their errors, from which heads are learned."""

    def __init__(self, scorer: BasisScorer, features: Tensor, labels: Tensor, options: IntervalOptions):
        self.scorer, self.options, self.labels = scorer, options, labels
        self.directions = F.normalize(scorer.compress(features), dim=-1)
        scores = scorer.score_compressed(self.directions).squeeze(-1)
        self.log_errors = ((scores - labels).abs() + options.offset).log()

    def head(self, learned: Tensor, kept: Tensor, images: int = 0) -> IntervalHead:
        """Return a head that learned from some of the images, and keeps some of these; its coefficients are zero.

        Args:
            learned: places of the former.
            kept: places of the latter.
            images: of the calibration.
        """
        options, (num_basis, pca_dim) = self.options, self.scorer.basis_vectors.shape
        values = {'signals': list(options.signals), 'neighbours': options.neighbours, 'offset': options.offset,
                  'references': len(kept), 'images': images, 'scorer': ''}
        head = IntervalHead(values, pca_dim, num_basis, (0.0, 1.0))
        head.reference_features.copy_(self.directions[kept])
        head.reference_mos.copy_(self.labels[kept])
        head.reference_errors.copy_(self.log_errors[kept])
        weights = self.scorer.weights(self.directions[learned])
        coordinates = torch.cat([weights, self.directions[learned]], dim=1)
        head.coordinate_mean.copy_(coordinates.mean(dim=0))
        head.coordinate_scale.copy_(coordinates.std(dim=0).clamp(min=1e-6))
        if 'kernel' in options.signals:
            head.kernel_weights.copy_(self._kernel_weights(head, weights, learned))
        return head

    def coefficients(self) -> Tensor:
        """Return the regression of log errors on signals of images that the signals were not learned from, by folds."""
        count = len(self.labels)
        signals, fold = torch.zeros(count, len(self.options.signals)), torch.arange(count) % FOLDS  # they are in random order
        for number in range(FOLDS):
            left, others = (fold == number).nonzero().squeeze(-1), (fold != number).nonzero().squeeze(-1)
            found = self.head(others, others[:self.options.references]).signals(self.scorer, self.directions[left])
            signals[left] = torch.stack([found[name] for name in self.options.signals], dim=1)
        design = torch.cat([signals, torch.ones(count, 1)], dim=1).double()
        return torch.linalg.lstsq(design, self.log_errors.double().unsqueeze(-1), driver='gelsd').solution.squeeze(-1).float()

    def _kernel_weights(self, head: IntervalHead, weights: Tensor, learned: Tensor) -> Tensor:
        """Return the kernel regression of log errors on the references of a head, by regularised least squares."""
        # the regression on all n images that learn, with the M that are kept as its centres: (K'K + ridge k + jitter) a = K'y
        centres = head.reference_coordinates(self.scorer)
        rows = kernel(head.standardised(weights, self.directions[learned]), centres).double()
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
