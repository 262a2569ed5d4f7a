"""MOS scales: every label has a range and a direction, and neither is guessed."""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.messages import warn_once

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Number = TypeVar('Number', float, 'np.ndarray', 'Tensor')

ENOUGH_LABELS, LEAST_SHARE = 100, 0.5  # labels that show their range, and what they should fill of the declared one

logger = logging.getLogger(__name__)


class MosScale:
    """Range and direction of a data set's MOS.

    Args:
        mos_range: lowest and highest MOS, in the data set's unit.
        lower_better: whether a low MOS means good quality (DMOS).

    Raises:
        OptionError: the range is not two increasing numbers, or the direction is neither true nor false.
    """

    def __init__(self, mos_range: Sequence[float], lower_better: bool):
        try:
            low, high = (float(end) for end in mos_range)
        except (TypeError, ValueError):
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise OptionError(f'mos_range: {mos_range!r} must be two numbers, the lower first, such as [1, 5].')
        if not isinstance(lower_better, bool):
            raise OptionError(f'lower_better: {lower_better!r} must be true or false.')
        self.mos_range = (low, high)
        self.lower_better = lower_better

    def normalise(self, mos: Number) -> Number:
        """Return mos_label in [0, 1], higher better, for a number, array or tensor of MOS."""
        low, high = self.mos_range
        mos_label = (mos - low) / (high - low)
        return 1 - mos_label if self.lower_better else mos_label

    def denormalise(self, mos_label: Number) -> Number:
        """Return MOS in the data set's unit and direction for mos_label in [0, 1]."""
        low, high = self.mos_range
        return low + (1 - mos_label if self.lower_better else mos_label) * (high - low)

    def on(self, other: 'MosScale', mos: Number) -> Number:
        """Return MOS of this scale on another one; exactly the same numbers where the two scales are the same.

        Example:
            >>> ratings = MosScale([1, 5], False)
            >>> MosScale([0, 100], True).on(ratings, 25), ratings.on(ratings, 3.42)
            (4.0, 3.42)
        """
        same = (self.mos_range, self.lower_better) == (other.mos_range, other.lower_better)
        return mos if same else other.denormalise(self.normalise(mos))

    def check_labels(self, labels: Sequence[float], name: str) -> None:
        """Check a data set's MOS against the scale; warn where many labels fill less than half of the range.

        Raises:
            DataError: MOS that are not numbers, outside the range, or all the same.
        """
        low, high = self.mos_range
        broken = [label for label in labels if not math.isfinite(label)]
        if broken:
            raise DataError(f'{name}: {len(broken)} of {len(labels)} MOS are not finite numbers. Fix these rows of the '
                            'table.')
        outside = [label for label in labels if not low <= label <= high]
        if outside:
            raise DataError(f'{name}: {len(outside)} of {len(labels)} MOS are outside mos_range [{low:g}, {high:g}] '
                            f'(found {min(labels):g} to {max(labels):g}). Give the range of this data set.')
        if len(labels) > 1 and min(labels) == max(labels):
            raise DataError(f'{name}: all {len(labels)} MOS are {labels[0]:g}; nothing can be learned or measured from '
                            'them.')
        share = (max(labels) - min(labels)) / (high - low) if labels else 1
        if len(labels) >= ENOUGH_LABELS and share < LEAST_SHARE:
            warn_once(logger, f'{name}: the MOS run from {min(labels):g} to {max(labels):g}, {share:.0%} of mos_range '
                      f'[{low:g}, {high:g}]. Labels are scaled by mos_range: does it belong to this data set?')
