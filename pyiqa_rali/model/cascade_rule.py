"""When a slow metric is asked, and how its scores follow the scale of a fast one: what was learned on validation images."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, first_line
from pyiqa_rali.core.files import write_json

HOW = 'Fit one on images that people scored: python -m pyiqa_rali cascade -opt FILE'


@dataclass(frozen=True)
class Rule:
    """What a cascade has learned on validation images.

    Attributes:
        slow_scores: rising knots of the map from the slow metric's scale.
        scores: where the map takes them, on the fast metric's scale: rising, or falling where the metrics disagree on what good
            means.
        widths: widths of the fast metric's intervals at equally spaced shares of the validation images, rising.
        rank_widths: the same of widths in ranks (see `in_ranks`).
        fast_scores: the fast scores at these shares, rising.
        profile_scores: rising scores of the fast metric, for one without intervals of its own; empty otherwise.
        profile_widths: what stands for the width of an interval there.
        fitted_on: the data set, and what else tells where this comes from.
        meaning_scores: rising knots of the fast metric's scores.
        meaning_mos: the MOS that these mean, on average.
    """

    slow_scores: list[float]
    scores: list[float]
    widths: list[float]
    rank_widths: list[float]
    fast_scores: list[float]
    profile_scores: list[float] = field(default_factory=list)
    profile_widths: list[float] = field(default_factory=list)
    fitted_on: dict[str, Any] = field(default_factory=dict)
    meaning_scores: list[float] = field(default_factory=list)
    meaning_mos: list[float] = field(default_factory=list)

    def save(self, path: str | os.PathLike) -> None:
        """Write the rule as JSON."""
        write_json(Path(path), asdict(self))

    def mapped(self, slow: Tensor) -> Tensor:
        """Return scores (N,) of the slow metric on the scale of the fast one."""
        return interpolated(slow, self.slow_scores, self.scores)

    def threshold_of(self, share: float, by: str = 'width') -> float:
        """Return the width that this share of the validation images exceeds; of share 0 no width is above it, of 1 all are.

        Args:
            share: from 0 to 1.
            by: 'width', or 'ranks' for widths in ranks.
        """
        if share in (0, 1):  # "none" and "all" hold for every picture, also for one that is wider or narrower than all those
            return math.inf if share == 0 else -math.inf
        return float(np.quantile(self.widths if by == 'width' else self.rank_widths, 1 - share))

    def in_ranks(self, scores: Tensor, widths: Tensor) -> Tensor:
        """Return (N,) the share of the validation images whose fast score lies within the intervals.

        Where many pictures have nearly the same score, an interval of a given width leaves more of their order open.

        Args:
            scores: (N,) of the fast metric.
            widths: (N,) of the intervals around them.
        """
        shares = torch.linspace(0, 1, len(self.fast_scores)).tolist()
        ends = (interpolated(scores + sign * widths / 2, self.fast_scores, shares).clamp(0, 1) for sign in (1, -1))
        return next(ends) - next(ends)


def load_rule(path: str | os.PathLike) -> Rule:
    """Read a rule.

    Raises:
        CheckpointError: there is no such file, or it is not a rule.
    """
    try:
        rule = Rule(**json.loads(Path(path).read_text(encoding='utf-8')))
        for each in (rule.slow_scores, rule.profile_scores, rule.widths, rule.rank_widths, rule.fast_scores):
            if each != sorted(each):
                raise ValueError('knots that do not rise')
        if len(rule.slow_scores) != len(rule.scores) or min(len(rule.scores), len(rule.fast_scores)) < 2 or not rule.widths:
            raise ValueError('too few knots')
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f'rule: {path} is not the rule of a cascade: {first_line(error)}. {HOW}') from error
    return rule


def interpolated(values: Tensor, knots: list[float], results: list[float]) -> Tensor:
    """Return piecewise linear interpolation of values (N,), continued beyond the ends with the slope there.

    Example:
        >>> interpolated(torch.tensor([0.0, 1.5, 4.0]), [1.0, 2.0, 3.0], [10.0, 20.0, 40.0]).tolist()
        [0.0, 15.0, 60.0]
    """
    known, wanted = (torch.tensor(each, dtype=values.dtype, device=values.device) for each in (knots, results))
    place = torch.searchsorted(known, values.contiguous()).clamp(1, len(known) - 1)
    slope = (wanted[place] - wanted[place - 1]) / (known[place] - known[place - 1])
    return wanted[place - 1] + slope * (values - known[place - 1])
