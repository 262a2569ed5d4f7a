"""A cold start for models that cannot write yet: they learn the format, with texts and ratings drawn at random.

Text and rating of an example agree with each other and have nothing to do with its image, so that whatever the model later
knows about quality, it learned from rewards.
"""

import numpy as np

from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.quality_texts import FAULT_SENTENCES, IMPRESSIONS, fault_sentence
from pyiqa_rali.reasoning.prompts import ReasoningCard
from pyiqa_rali.reasoning.sft import completion_of
from pyiqa_rali.reasoning.tables import Row


def random_completions(rows: list[Row], types: list[str], card: ReasoningCard, seed: int) -> list[str]:
    """Return one completion for each row: a random rating, and a text for it.

    Args:
        rows: only their number matters.
        types: distortions that texts may name.
        card: rating range and key.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    return [random_completion(types, card, rng) for _ in rows]


def random_completion(types: list[str], card: ReasoningCard, rng: np.random.Generator) -> str:
    """Return a completion whose rating is uniform on the scale, and whose text of two sentences fits it."""
    label = float(rng.uniform())
    low, high = LEVEL_RANGE
    severity = low + (1 - label) * (high - low)
    fault = fault_sentence(str(rng.choice(types)), severity, int(rng.integers(len(FAULT_SENTENCES))))
    impressions = IMPRESSIONS[int(label * len(IMPRESSIONS))]
    text = f'{fault} {impressions[int(rng.integers(len(impressions)))]}'
    rating_low, rating_high = card.rating_range
    return completion_of(text, rating_low + label * (rating_high - rating_low), card, with_scores=True)
