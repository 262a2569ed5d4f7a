"""What the arguments of a reasoning model as a metric mean: how completions are drawn, and when the mode adaptive reasons."""

import math
from collections.abc import Sequence
from typing import Any, cast

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.model.cascade_rule import Rule
from pyiqa_rali.vlm.decoding import RELEASES, Sampling

MODES = ('expectation', 'greedy', 'mean', 'release', 'at_once', 'adaptive')
SAMPLED_MODES = ('mean', 'release')
LONGEST = 512  # tokens of a completion, unless a number is given


def sampling_of(mode: str, release: str | None, **given: Any) -> tuple[Sampling, int]:
    """Return how completions are drawn, and how long they may be.

    Args:
        mode: one of `MODES`.
        release: which published model it is, if it is one.
        **given: values of a `Sampling`; None where none is given.

    Raises:
        OptionError: a value cannot be used, or contradicts the mode.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if mode != 'release':
        return Sampling(**given), LONGEST
    if release is None:
        raise OptionError(f'mode: release: draws completions as the code of a published model does; that of this one is not '
                          f'known. It is for the metrics {" and ".join(RELEASES)}; use another mode.')
    if given:
        name, value = next(iter(given.items()))
        raise OptionError(f'{name}: {value!r} contradicts mode: release, which takes the published value. Leave it out, or '
                          'take mode: mean with num_samples: 1.')
    return RELEASES[release].sampling, RELEASES[release].max_new_tokens


def threshold_of(mode: str, threshold: float | None, share: float | None, rule: Rule | None) -> float:
    """Return the spread above which a model reasons in the mode adaptive.

    Raises:
        OptionError: what says so is missing, given twice, or given in another mode.
    """
    given = [name for name, value in (('threshold', threshold), ('share', share), ('rule', rule)) if value is not None]
    if mode != 'adaptive':
        if given:
            raise OptionError(f'{given[0]}: is only for mode: adaptive. Leave it out.')
        return math.inf
    if (threshold is None) == (share is None) or (share is not None and rule is None):
        raise OptionError('threshold, share: mode: adaptive needs one of them: the spread of the rating above which the model '
                          'reasons, or, with a rule, the share of pictures that it reasons about.')
    for each in (rule.fitted_on.get(role) or {} for role in ('fast', 'slow') if rule is not None):
        if each.get('mos_range') is not None:
            raise OptionError(f'rule: was fitted for scores on mos_range {each["mos_range"]}, and mode: adaptive compares and '
                              'maps ratings on their own scale. Fit it without mos_range; this metric may have one.')
    if threshold is not None:
        if math.isnan(threshold):
            raise OptionError('threshold: nan is above no spread and below none. Give a standard deviation of the rating.')
        return threshold
    if not 0 <= cast(float, share) <= 1:
        raise OptionError(f'share: {share:g} must be from 0 to 1.')
    return cast(Rule, rule).threshold_of(cast(float, share))


def scale_of(mos_range: Sequence[float] | None, lower_better: bool | None) -> MosScale | None:
    """Return the MOS scale that ratings are mapped to; None where they stay on their own.

    Raises:
        OptionError: only one of range and direction is given.
    """
    if mos_range is None and lower_better is None:
        return None
    if mos_range is None or lower_better is None:
        raise OptionError('mos_range, lower_better: give both to map ratings to a MOS scale, or neither.')
    return MosScale(tuple(mos_range), lower_better)
