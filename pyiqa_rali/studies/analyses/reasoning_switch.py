"""What the reasoning does for the score: switched on, off, with its words shuffled, or with another image's reasoning."""

from collections.abc import Mapping, Sequence

import numpy as np

from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.vlm.answers import reasoning_text
from pyiqa_rali.vlm.generation import decode, derived_seed
from pyiqa_rali.vlm.loading import ReasoningModel

CONDITIONS = ('on', 'off', 'shuffled', 'other')
METRICS = measures_of('plcc', 'srcc')


def partners(count: int, seed: int) -> np.ndarray:
    """Return for each of n images another one (n,), each taken once: a ring in random order."""
    order = np.random.default_rng(seed).permutation(count)
    others = np.empty(count, dtype=int)
    others[order] = np.roll(order, -1)
    return others


def shuffled_words(text: str, seed: int) -> str:
    """Return a text with its words in random order, another one than its own where there is one.

    Example:
        >>> sorted(shuffled_words('some noise is visible', 0).split())
        ['is', 'noise', 'some', 'visible']
    """
    words, rng = text.split(), np.random.default_rng(seed)
    shuffled = [words[place] for place in rng.permutation(len(words))]
    while shuffled == words and len(set(words)) > 1:
        shuffled = [words[place] for place in rng.permutation(len(words))]
    return ' '.join(shuffled)


def begun_completion(reasoner: ReasoningModel, condition: str, own: Sequence[int], other: Sequence[int],
                     seed: int) -> list[int]:
    """Return the completion that a rating is asked after, as token ids.

    Args:
        reasoner: for its tokenizer.
        condition: one of `CONDITIONS`.
        own: what the model wrote on the image.
        other: what it wrote on the partner.
        seed: of the words' order.
    """
    if condition in ('on', 'other'):
        return list(own if condition == 'on' else other)
    text = '' if condition == 'off' else shuffled_words(reasoning_text(decode(reasoner, own)), derived_seed(seed, 'words'))
    return reasoner.processor.tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False)


def agreement(ratings: Mapping[str, np.ndarray], mos: np.ndarray, other: np.ndarray) -> list[dict[str, float | str]]:
    """Return a row for each condition: correlation with MOS, with the 'on' rating, and mean absolute change.

    With another image's reasoning the ratings are also compared with what belongs to that image: where they follow it, the
    text carries the score and not the picture.

    Args:
        ratings: (n,) of each condition.
        mos: (n,) on the rating scale.
        other: (n,) the partner of each image.
    """
    rows = []
    for condition, values in ratings.items():
        row: dict[str, float | str] = {'condition': condition}
        targets = {'mos': mos, 'on': ratings['on'], 'partner_mos': mos[other], 'partner_on': ratings['on'][other]}
        for name, target in targets.items():
            wanted = condition == 'other' or not name.startswith('partner')
            constant = np.ptp(target) == 0
            found = correlations(values, target, METRICS, condition) if wanted and not constant else {}
            row |= {f'{metric}_{name}': found.get(metric, float('nan')) for metric in METRICS}
        rows.append({**row, 'mean_rating': float(values.mean()),
                     'mean_absolute_change': float(np.abs(values - ratings['on']).mean())})
    return rows
