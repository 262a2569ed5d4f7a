"""Rewards of GRPO as pure functions: what a completion is worth. From Q-Insight and VisualQuality-R1."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyiqa_rali.vlm.answers import split_completion, strict_json

EPSILON = 1e-6


@dataclass
class Rollout:
    """One rating of one image, for the rank reward.

    Attributes:
        image: which image; rollouts with the same name belong together.
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
    """Return 1 when the rating is nearer to the MOS than the threshold (arXiv 2503.22679, score reward).

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
    """Return 1 when a text names the expected class and no other; None, for a text in no format, earns 0."""
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
    images: dict[tuple[str, str], list[Rollout]] = {}
    for rollout in rollouts:
        images.setdefault((rollout.dataset, rollout.image), []).append(rollout)
    moments = {key: _moments([each.rating for each in group if each.rating is not None]) for key, group in images.items()}
    return [_rank_reward(rollout, images, moments, epsilon) for rollout in rollouts]


def fidelity(probability: float, target: float) -> float:
    """Return sqrt(p p*) + sqrt((1 - p)(1 - p*)), 1 when both agree.

    Example:
        >>> fidelity(1.0, 1.0), fidelity(0.0, 1.0), round(fidelity(0.5, 0.5), 6)
        (1.0, 0.0, 1.0)
    """
    return math.sqrt(probability * target) + math.sqrt((1 - probability) * (1 - target))


def _rank_reward(rollout: Rollout, images: dict, moments: dict, epsilon: float) -> float | None:
    if rollout.rating is None:
        return 0.0
    own = rollout.dataset, rollout.image
    found = []
    for key, group in images.items():
        if key == own or key[0] != rollout.dataset or moments[key] is None:
            continue
        mean, variance = moments[key]
        distance = (rollout.rating - mean) / math.sqrt(moments[own][1] + variance + epsilon)
        target = 0.5 if rollout.mos == group[0].mos else float(rollout.mos > group[0].mos)
        found.append(fidelity(0.5 * math.erfc(-distance / math.sqrt(2)), target))
    return statistics.fmean(found) if found else None


def _moments(ratings: list[float]) -> tuple[float, float] | None:
    if not ratings:
        return None
    return statistics.fmean(ratings), statistics.variance(ratings) if len(ratings) > 1 else 0.0
