"""The rewards in the form that TRL calls: lists in, lists out; those that compare images do so across all processes."""

import functools
from collections.abc import Callable
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.processes import gather, rank
from pyiqa_rali.training.vlm.options import RewardOptions
from pyiqa_rali.training.vlm.own_rewards import load_own_reward
from pyiqa_rali.training.vlm.rewards import (
    Rollout,
    continuous_score_reward,
    degradation_reward,
    format_reward,
    margin_rewards,
    naming_reward,
    rank_rewards,
    threshold_score_reward,
)
from pyiqa_rali.vlm.answers import split_completion, strict_degradation, strict_rating
from pyiqa_rali.vlm.prompts import ReasoningCard

Reward = Callable[..., list[float | None]]
Reader = Callable[[list[str | None]], list[float | None]]  # the ratings of texts whose pictures are not seen


def reward_functions(options: RewardOptions, card: ReasoningCard,
                     reader: Reader | None = None) -> tuple[list[Reward], list[float]]:
    """Return the reward functions with a weight above 0, and those weights; the user's own come last.

    A function returns None for rows of the other task; their names are those of the options.

    Args:
        options: weights and bounds.
        card: the rating scale.
        reader: rates texts without their pictures; only for the reading reward.
    """
    made = {'format': format_function(), 'score': score_function(card, options.score_threshold),
            'continuous_score': continuous_score_function(card, options.score_width),
            'rank': comparing_function(card, rank_rewards),
            'margin': comparing_function(card, functools.partial(margin_rewards, width=options.margin_width)),
            'degradation': degradation_function(), 'reading': reading_function(reader, options.score_width),
            'naming': naming_function(options.class_words)}
    chosen = {name: function for name, function in made.items() if getattr(options, name) > 0}
    for name, function in chosen.items():
        function.__name__ = name  # TRL logs rewards by this name
    own = [load_own_reward(name) for name in options.functions]
    return [*chosen.values(), *own], [*(getattr(options, name) for name in chosen), *options.functions.values()]


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """Return the text of a completion as TRL passes it: a string, or a conversation of one message."""
    if isinstance(completion, str):
        return completion
    content = completion[0]['content']
    return content if isinstance(content, str) else ''.join(part.get('text', '') for part in content)


def format_function() -> Reward:
    """Return the format reward, for all tasks."""
    def reward(completions: list, **columns: Any) -> list[float | None]:
        return [format_reward(text_of(completion)) for completion in completions]
    return reward


def score_function(card: ReasoningCard, threshold: float) -> Reward:
    """Return the thresholded score reward."""
    def reward(completions: list, task: list[str], mos: list[float], **columns: Any) -> list[float | None]:
        return [threshold_score_reward(_rating(completion, card), label, threshold) if kind == 'score' else None
                for completion, kind, label in zip(completions, task, mos, strict=True)]
    return reward


def continuous_score_function(card: ReasoningCard, width: float) -> Reward:
    """Return the continuous score reward."""
    def reward(completions: list, task: list[str], mos: list[float], **columns: Any) -> list[float | None]:
        return [continuous_score_reward(_rating(completion, card), label, width) if kind == 'score' else None
                for completion, kind, label in zip(completions, task, mos, strict=True)]
    return reward


def reading_function(reader: Reader | None, width: float) -> Reward:
    """Return the reading reward: the continuous score reward of the rating that a reader finds in the text."""
    def reward(completions: list, task: list[str], mos: list[float], **columns: Any) -> list[float | None]:
        if reader is None:
            raise OptionError('rewards: reading: has no reader. Give train_grpo the options, which loads one.')
        texts = [_reasoning(completion) if kind == 'score' else None
                 for completion, kind in zip(completions, task, strict=True)]
        return [continuous_score_reward(rating, label, width) if kind == 'score' else None
                for rating, kind, label in zip(reader(texts), task, mos, strict=True)]
    return reward


def naming_function(class_words: dict[str, list[str]]) -> Reward:
    """Return the naming reward; None for pictures whose class has no words."""
    def reward(completions: list, distortion_class: list[str], **columns: Any) -> list[float | None]:
        return [naming_reward(_reasoning(completion), kind, class_words) if kind in class_words else None
                for completion, kind in zip(completions, distortion_class, strict=True)]
    return reward


def degradation_function() -> Reward:
    """Return the reward for degradation class and severity."""
    def reward(completions: list, task: list[str], distortion_class: list[str], severity: list[str],
               **columns: Any) -> list[float | None]:
        return [degradation_reward(strict_degradation(text_of(completion)), expected) if kind == 'degradation' else None
                for completion, kind, expected in zip(completions, task, zip(distortion_class, severity, strict=True),
                                                      strict=True)]
    return reward


def comparing_function(card: ReasoningCard, rewards_of: Callable[[list[Rollout]], list[float | None]]) -> Reward:
    """Return a reward that compares the rollouts of all processes.

    Args:
        card: the rating scale.
        rewards_of: the rewards of given rollouts, such as `rank_rewards`.
    """
    def reward(completions: list, task: list[str], mos: list[float], image_path: list[str], dataset: list[str],
               **columns: Any) -> list[float | None]:
        own = [Rollout(path, name, label, _rating(completion, card)) if kind == 'score' else None
               for completion, kind, label, path, name in zip(completions, task, mos, image_path, dataset, strict=True)]
        rollouts, start = _of_all_processes(own)
        found = iter(rewards_of([rollout for rollout in rollouts if rollout is not None]))
        rewards = [None if rollout is None else next(found) for rollout in rollouts]
        return rewards[start:start + len(own)]
    return reward


def _of_all_processes(own: list) -> tuple[list, int]:
    """Return the items of all processes in rank order, and where this process's begin."""
    shares = gather(own)
    return [item for share in shares for item in share], sum(map(len, shares[:rank()]))


def _reasoning(completion: Any) -> str | None:
    """Return the reasoning text of a completion in the exact format, or None."""
    parts = split_completion(text_of(completion))
    return parts[0] if parts else None


def _rating(completion: Any, card: ReasoningCard) -> float | None:
    return strict_rating(text_of(completion), card.bounds, card.rating_key)
