"""A cold start for models that cannot write yet: they learn the format, with texts and ratings drawn at random.

Text and rating of an example agree with each other and are unrelated to its image, so that whatever the model later knows about
quality, it has learned from rewards. A first sentence may say where the picture's light is, which is unrelated to quality, so
that a model trained from scratch learns to look at pictures at all, as a real one has done long before.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.synthetic.quality_texts import FAULT_SENTENCES, IMPRESSIONS, fault_sentence
from pyiqa_rali.training.vlm.sft import completion_of
from pyiqa_rali.vlm.prompts import ReasoningCard

MOST_WORDINGS = len(FAULT_SENTENCES)


def random_completions(count: int, types: Sequence[str], card: ReasoningCard, seed: int, wordings: int = MOST_WORDINGS,
                       impressions: bool = True, views: Sequence[str] | None = None) -> list[str]:
    """Return completions: a random rating each, and a text for it.

    Args:
        count: how many.
        types: distortions that texts may name.
        card: rating range and key.
        seed: of all draws.
        wordings: number of ways in which each sentence is put; with fewer, a tiny model learns sooner.
        impressions: whether a sentence at the end gives the overall impression.
        views: sentences to begin with, repeated in this order; None begins with the fault.
    """
    rng = np.random.default_rng(seed)
    begins = itertools.cycle([''] if views is None else [f'{view} ' for view in views])
    return [random_completion(types, card, rng, wordings, impressions, next(begins)) for _ in range(count)]


def random_completion(types: Sequence[str], card: ReasoningCard, rng: np.random.Generator, wordings: int = MOST_WORDINGS,
                      impressions: bool = True, begin: str = '') -> str:
    """Return a completion whose rating, with one decimal, is uniform on the scale, and whose text fits it.

    Its text starts with `begin`; the other arguments are those of `random_completions`.
    """
    label = float(rng.uniform())
    low, high = LEVEL_RANGE
    level = low + (1 - label) * (high - low)
    text = begin + fault_sentence(str(rng.choice(types)), level, _pick(wordings, FAULT_SENTENCES, rng))
    if impressions:
        fitting = IMPRESSIONS[int(label * len(IMPRESSIONS))]
        text += ' ' + fitting[_pick(wordings, fitting, rng)]
    rating_low, rating_high = card.rating_range
    return completion_of(text, rating_low + label * (rating_high - rating_low), card, with_scores=True, decimals=1)


def _pick(wordings: int, choices: tuple[str, ...], rng: np.random.Generator) -> int:
    return int(rng.integers(min(wordings, len(choices))))
