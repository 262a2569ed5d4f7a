"""Two metrics as one: a fast one scores every picture, and those of which it is least sure are handed on to a slow one."""

import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.options import check_choice
from pyiqa_rali.model.cascade_rule import HOW, Rule, interpolated, load_rule
from pyiqa_rali.model.metric_net import MetricNet
from pyiqa_rali.model.value_range import check_on_cpu

NAME = 'rali-cascade'
COVERAGE = 0.9  # of the intervals whose width decides
SHARES_OF = ('validation', 'batch')
BY = ('width', 'ranks')


class Cascade(MetricNet):
    """A fast metric, and a slow one for the pictures of which the fast one is least sure.

    Args:
        fast: name of a no-reference metric of pyiqa that scores every picture. Of a calibrated `rali` the width of the interval
            decides, of a reasoning model that answers at once the spread of its rating; of others what the rule has learned.
        slow: name of the metric that the others are handed on to, such as 'rali-reasoning'.
        fast_options: further arguments of the fast metric's architecture.
        slow_options: the same of the slow one.
        rule: file that `pyiqa-rali cascade` has written: the map from slow to fast scores, and validation widths.
        threshold: hand on pictures whose width is above this, in the unit of the fast score or, in ranks, from 0 to 1; or
            `share`. Below 0 all are handed on.
        share: hand on the widest pictures, so many of them: 0 none, 1 all.
        share_of: 'validation': those whose width is above that of this share of the validation images, so that a score depends
            on its picture alone; or 'batch': this share of each batch, to the nearest whole number, whatever their widths.
        by: 'width' of the interval, or its width in 'ranks': the share of the validation images whose fast score lies within.
            The first finds large errors, the second what leaves the order of the pictures open.
        coverage: of the intervals whose width counts; None takes that of the rule.

    Attributes:
        counts: pictures so far: 'scored', 'handed_on', and of the latter those 'without_slow_score', which keep the fast one.
        handed_on: (N,) which pictures of the last batch were.

    Raises:
        OptionError: an argument cannot be used.
        CheckpointError: weights or rule cannot be read, or the fast metric has no intervals.
    """

    def __init__(self, fast: str = 'rali-lite', slow: str | None = None, fast_options: Mapping[str, Any] | None = None,
                 slow_options: Mapping[str, Any] | None = None, rule: str | os.PathLike | None = None,
                 threshold: float | None = None, share: float | None = None, share_of: str = 'validation', by: str = 'width',
                 coverage: float | None = None):
        super().__init__()
        check_choice('share_of', share_of, SHARES_OF)
        check_choice('by', by, BY)
        if slow is None or rule is None:
            missing = 'slow' if slow is None else 'rule'
            raise OptionError(f'{missing}: must be given: the metric that pictures are handed on to, and the file that brings '
                              f'its scores to the scale of the fast one. {HOW}')
        if (threshold is None) == (share is None):
            raise OptionError('threshold, share: give one of them: the width above which pictures are handed on, or how many '
                              'are.')
        _check_numbers(threshold, share, share_of, by)
        self.rule, self.by = load_rule(rule), by
        check_fitted_for(self.rule, rule, {'fast': fast, 'slow': slow})
        self.coverage = _coverage_of(self.rule, coverage, share is not None and share_of == 'validation')
        self.share = share if share_of == 'batch' else None
        self.threshold = self.rule.threshold_of(share, by) if share is not None else float(threshold or 0.0)
        self.fast, self._fast_facts = _net_of('fast', fast, fast_options)
        self.slow, _ = _net_of('slow', slow, slow_options)
        can_tell_width(self.fast, self.rule)
        if getattr(self.fast, 'interval', None) is not None:
            self.fast.interval.quantile(self.coverage)  # a coverage that it cannot promise is told here, not picture by picture
        self.counts = {'scored': 0, 'handed_on': 0, 'without_slow_score': 0}
        self.handed_on = torch.zeros(0, dtype=torch.bool)
        for name in ('slow_scores', 'scores', 'profile_scores', 'profile_widths'):  # in digests of the weights
            self.register_buffer(f'rule_{name}', torch.tensor(getattr(self.rule, name)))

    @property
    def score_range(self) -> str:
        """The range of the scores as pyiqa writes it: the fast metric's."""
        return str(getattr(self.fast, 'score_range', self._fast_facts['score_range']))

    @property
    def lower_better(self) -> bool:
        """Whether low scores mean good quality, as those of the fast metric do."""
        return bool(getattr(self.fast, 'lower_better', self._fast_facts['lower_better']))

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 1), on the scale of the fast metric, for pictures (N, 3, H, W) in [0, 1].

        Raises:
            OptionError: the pictures require a gradient: what decides and maps has none.
            RangeError: their values are not in [0, 1] (see `model.value_range`).
        """
        check_on_cpu(images)
        if images.requires_grad and torch.is_grad_enabled():
            raise OptionError(f'{NAME}: has no gradient to the pixels, and cannot be a loss (as_loss). Take its fast metric '
                              'for one.')
        scores, widths = scores_and_widths(self.fast, self.as_checked(images), self.rule, self.coverage)
        chosen = self.chosen(widths if self.by == 'width' else self.rule.in_ranks(scores, widths))
        answered = torch.ones(0, dtype=torch.bool)
        if chosen.any():
            slow = self.slow(self.as_checked(images)[chosen]).flatten().to(scores)
            answered = slow.isfinite()
            if not answered.all():
                warnings.warn(f'{int((~answered).sum())} of {len(slow)} pictures that were handed on have no slow score; they '
                              'keep the fast one.', stacklevel=2)
            places = chosen.nonzero().squeeze(-1)[answered]
            scores = scores.index_copy(0, places, self.rule.mapped(slow[answered]).clamp(*self._ends()))
        self.handed_on = chosen  # and counted once both metrics have answered: a batch that fails is asked again, one by one
        self.counts['scored'] += len(scores)
        self.counts['handed_on'] += int(chosen.sum())
        self.counts['without_slow_score'] += int((~answered).sum())
        return scores.unsqueeze(1)

    def _ends(self) -> tuple[float, float]:
        """Return the range of the fast metric and of its validation scores: the map does not leave it beyond its last knots."""
        told = [float(number) for number in re.findall(r'-?\d+(?:\.\d+)?', self.score_range)]
        seen = self.rule.fast_scores
        low, high = told if len(told) == 2 else (-math.inf, math.inf)
        return min(low, seen[0]), max(high, seen[-1])

    def chosen(self, widths: Tensor) -> Tensor:
        """Return (N,) whether each picture is handed on, for the widths (N,) of a batch."""
        if self.share is None:
            return widths > self.threshold
        count = int(self.share * len(widths) + 0.5)
        chosen = torch.zeros_like(widths, dtype=torch.bool)
        chosen[widths.topk(count).indices] = True
        return chosen


def _check_numbers(threshold: Any, share: Any, share_of: str, by: str) -> None:
    """Raise OptionError for a threshold or a share that cannot be meant."""
    for name, value in (('threshold', threshold), ('share', share)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise OptionError(f'{name}: {value!r} must be a number.')
    if share is not None and not 0 <= share <= 1:
        raise OptionError(f'share: {share:g} must be from 0 to 1.')
    if threshold is not None and math.isnan(threshold):
        raise OptionError('threshold: nan is above no width and below none. Give a width.')
    if threshold is not None and by == 'ranks' and threshold > 1:
        raise OptionError(f'threshold: {threshold:g} must be at most 1 with by: ranks: a width in ranks is a share of the '
                          'validation images.')
    if threshold is not None and share_of == 'batch':
        raise OptionError('threshold: has no effect with share_of: batch. Give share in its place, or leave share_of out.')


def check_fitted_for(rule: Rule, path: str | os.PathLike, names: Mapping[str, str]) -> None:
    """Raise OptionError when a rule was fitted for metrics of other names, whose scores and widths mean something else.

    Args:
        rule: as read.
        path: its file, for the message.
        names: of the metrics, by 'fast' and 'slow'.
    """
    for role, name in names.items():
        fitted = (rule.fitted_on.get(role) or {}).get('name', name)
        if fitted != name:
            raise OptionError(f'rule: {path} was fitted for {role}: {fitted}, and not for {name}, whose scores mean something '
                              f'else. {HOW}')


def _coverage_of(rule: Rule, coverage: float | None, by_share: bool) -> float:
    """Return the coverage of the intervals whose width counts.

    Raises:
        OptionError: a share is taken of validation widths of another coverage.
    """
    fitted = rule.fitted_on.get('coverage')
    if coverage is None:
        return COVERAGE if fitted is None else float(fitted)
    if by_share and fitted is not None and not math.isclose(coverage, fitted):
        raise OptionError(f'coverage: {coverage:g} is not that of the rule, {fitted:g}: its widths of validation images would '
                          'be compared with others. Leave coverage out, or fit a rule with it.')
    return coverage


def scores_and_widths(net: Any, images: Tensor, rule: Rule | None, coverage: float) -> tuple[Tensor, Tensor]:
    """Return scores (N,) and how unsure the metric is of each, (N,), in the unit of the scores.

    Args:
        net: of a metric.
        images: (N, 3, H, W) in [0, 1].
        rule: for metrics that do not say how sure they are.
        coverage: of intervals.
    """
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.vlm.scorer import ReasoningScorer
    if isinstance(net, RALI) and net.interval is not None:
        found = net.score_with_interval(images, coverage)
        return found.scores.flatten(), found.width.flatten()
    if isinstance(net, ReasoningScorer) and net.mode == 'at_once':
        return net.scores_and_spreads(images)
    scores = torch.as_tensor(net(images)).flatten().float()
    return scores, interpolated(scores, rule.profile_scores, rule.profile_widths) if rule is not None else scores.new_zeros(
        len(scores))


def tells_width(net: Any) -> bool:
    """Whether a metric says by itself how sure it is of each score."""
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.vlm.scorer import ReasoningScorer
    return (isinstance(net, RALI) and net.interval is not None) or (isinstance(net, ReasoningScorer) and net.mode == 'at_once')


def can_tell_width(net: Any, rule: Rule) -> None:
    """Raise CheckpointError when neither a metric nor its rule says how sure it is of a score."""
    if not tells_width(net) and len(rule.profile_scores) < 2:
        raise CheckpointError('fast: this metric does not say how sure it is of a score, and the rule was fitted for one that '
                              f'does. Calibrate it (python -m pyiqa_rali calibrate), or fit a rule for it. {HOW}')


def _net_of(option: str, name: str, options: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return the net of a metric of pyiqa on the CPU, and what the metric says about its scores."""
    from pyiqa_rali.scoring.metrics import make_metric
    if name == NAME:
        raise OptionError(f'{option}: {NAME} cannot be part of itself. Name another metric.')
    try:
        metric = make_metric(name, None, 'cpu', dict(options or {}))
    except (OptionError, CheckpointError) as error:
        raise type(error)(f'{option}: {error}') from error
    return metric.net, {'score_range': metric.score_range, 'lower_better': metric.lower_better}
