"""Rewards of GRPO as pure functions: what a completion is worth. From Q-Insight, VisualQuality-R1 and MR-IQA."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyiqa_rali.vlm.answers import split_completion, strict_json

EPSILON = 1e-6


@dataclass
class Rollout:
    """One rating of one image, for the rewards that compare images.

    Attributes:
        image: name of the image; rollouts with the same name belong together.
        dataset: MOS are compared only within a data set.
        mos: the image's human score.
        rating: what the completion says; None when it cannot be parsed.
    """

    image: str
    dataset: str
    mos: float
    rating: float | None


def format_reward(completion: str) -> float:
    """Return 1 for reasoning and a JSON answer in their tags, else 0 (arXiv 2503.22679, format reward).

    Example:
        >>> format_reward('<think>Sharp.</think> <answer>{"rating": 4.5}</answer>'), format_reward('4.5')
        (1.0, 0.0)
    """
    parts = split_completion(completion)
    return float(parts is not None and strict_json(parts[1]) is not None)


def threshold_score_reward(rating: float | None, mos: float, threshold: float = 0.35) -> float:
    """Return 1 when the rating is closer to the MOS than the threshold (arXiv 2503.22679, score reward).

    Args:
        rating: on the rating scale; None earns 0.
        mos: on the same scale.
        threshold: in its unit.
    """
    return float(rating is not None and abs(rating - mos) < threshold)


def continuous_score_reward(rating: float | None, mos: float, width: float = 4.0) -> float:
    """Return a reward that falls from 1 with the distance between rating and MOS, to 0 at `width` and beyond."""
    return 0.0 if rating is None else max(0.0, 1 - abs(rating - mos) / width)


def degradation_reward(found: tuple[str, str] | None, expected: tuple[str, str]) -> float:
    """Return 0.25 for the right class and 0.75 more when the severity is right too (arXiv 2503.22679, section 3.3)."""
    if found is None or found[0] != expected[0]:
        return 0.0
    return 1.0 if found[1] == expected[1] else 0.25


def named_classes(reasoning_text: str, class_words: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the classes that a text names by one of their words, in whole words, upper or lower case.

    Example:
        >>> named_classes('Strong Gaussian blur.', {'blur': ['blur', 'soft'], 'noise': ['noise', 'noisy']})
        {'blur'}
    """
    return {name for name, words in class_words.items()
            if any(re.search(rf'\b{re.escape(word)}\b', reasoning_text, re.IGNORECASE) for word in words)}


def naming_reward(reasoning_text: str | None, expected: str, class_words: Mapping[str, Sequence[str]]) -> float:
    """Return 1 when a text names the expected class and no other; None, for a text without the format, earns 0."""
    return float(reasoning_text is not None and named_classes(reasoning_text, class_words) == {expected})


def rank_rewards(rollouts: Sequence[Rollout], epsilon: float = EPSILON) -> list[float | None]:
    """Return the Thurstone rank reward of each rollout (arXiv 2505.14460, section 3).

    A rollout of image i is compared with every other image j of its data set: p = Phi((rating - mean_j) / sqrt(var_i +
    var_j + eps)), and its fidelity is sqrt(p p*) + sqrt((1 - p)(1 - p*)) with p* = 1, 0.5 or 0 by the order of the MOS.
    The reward is the mean fidelity.

    Returns:
        In [0, 1]; 0 for a rating that could not be parsed, which is also left out of means and variances; None when there
        is no other image to compare with.
    """
    images = _images_of(rollouts)
    return [_compared(rollout, images, lambda own, other: _rank_fidelity(own, other, epsilon)) for rollout in rollouts]


def margin_rewards(rollouts: Sequence[Rollout], width: float = 1.0) -> list[float | None]:
    """Return the margin reward of each rollout (MR-IQA, 2026): it ranks and calibrates at once.

    A rollout of image i is compared with every other image j of its data set: exp(-d^2 / (2 width^2)), where d = (rating -
    mean_j) - (MOS_i - MOS_j) is how far the distance of the ratings is from that of the MOS. The reward is the mean.

    Args:
        rollouts: of all images of a generation; ratings and MOS are on one scale.
        width: 1 in the paper, for ratings from 1 to 5.

    Returns:
        In [0, 1]; 0 for a rating that could not be parsed, which is also left out of the means; None when there is no other
        image to compare with.
    """
    images = _images_of(rollouts)
    return [_compared(rollout, images, lambda own, other: _margin_kept(own, other, width)) for rollout in rollouts]


def fidelity(probability: float, target: float) -> float:
    """Return sqrt(p p*) + sqrt((1 - p)(1 - p*)), 1 when both agree.

    Example:
        >>> fidelity(1.0, 1.0), fidelity(0.0, 1.0), round(fidelity(0.5, 0.5), 6)
        (1.0, 0.0, 1.0)
    """
    return math.sqrt(probability * target) + math.sqrt((1 - probability) * (1 - target))


@dataclass
class _Rated:
    """The rollouts of one image together: MOS, mean and variance of the ratings, which are NaN without a rating."""

    mos: float
    mean: float
    variance: float


Images = dict[tuple[str, str], _Rated]


def _images_of(rollouts: Sequence[Rollout]) -> Images:
    groups: dict[tuple[str, str], list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault((rollout.dataset, rollout.image), []).append(rollout)
    return {key: _rated(group) for key, group in groups.items()}


def _rated(group: Sequence[Rollout]) -> _Rated:
    ratings = [each.rating for each in group if each.rating is not None]
    if not ratings:
        return _Rated(group[0].mos, math.nan, math.nan)
    return _Rated(group[0].mos, statistics.fmean(ratings), statistics.variance(ratings) if len(ratings) > 1 else 0.0)


def _compared(rollout: Rollout, images: Images, compare: Callable[[_Rated, _Rated], float]) -> float | None:
    """Return the mean of a comparison with every other rated image of the data set.

    Args:
        rollout: with its own rating.
        images: all of the generation.
        compare: takes this image, its mean being the rollout's rating, and another one.
    """
    if rollout.rating is None:
        return 0.0
    key = rollout.dataset, rollout.image
    # the rollout's own rating takes the place of its image's mean: with the mean, all rollouts of an image would have the same
    # reward, and GRPO, which subtracts the mean of the group, no advantage to learn from
    own = _Rated(rollout.mos, rollout.rating, images[key].variance)
    found = [compare(own, image) for other, image in images.items()
             if other != key and other[0] == rollout.dataset and not math.isnan(image.mean)]
    return statistics.fmean(found) if found else None


def _rank_fidelity(own: _Rated, other: _Rated, epsilon: float) -> float:
    # Thurstone's case III: both ratings are normal and independent, each with its own variance, so their difference is normal
    # too, and Phi of its mean over its deviation is the probability that this image is the better one. Unanimous rollouts
    # have no variance; epsilon keeps them from a division by 0.
    distance = (own.mean - other.mean) / math.sqrt(own.variance + other.variance + epsilon)
    target = 0.5 if own.mos == other.mos else float(own.mos > other.mos)
    return fidelity(0.5 * math.erfc(-distance / math.sqrt(2)), target)  # Phi by erfc, precise in the lower tail too


def _margin_kept(own: _Rated, other: _Rated, width: float) -> float:
    off = (own.mean - other.mean) - (own.mos - other.mos)
    return math.exp(-0.5 * (off / width) ** 2)
