"""What a reasoning model says about a picture."""

import math
from dataclasses import dataclass

from pyiqa_rali.vlm.answers import reasoning_text

STATUSES = ('at_once', 'parsed', 'resampled', 'expectation', 'failed')


@dataclass
class Description:
    """What the model says about one picture.

    Attributes:
        reasoning_text: its reasoning.
        rating: on the model's rating scale; NaN when there is none.
        status: 'at_once' (computed without reasoning), 'parsed' (written as asked), 'resampled' (written in a later attempt),
            'expectation' (computed from the digits' probabilities), 'failed'.
        completion: everything that it wrote.
        spread: standard deviation of the rating that it might give, in modes at_once and adaptive before any reasoning; NaN
            in others.
    """

    reasoning_text: str
    rating: float
    status: str
    completion: str
    spread: float = math.nan


def expected_description(text: str, rating: float) -> Description:
    """Return the description whose rating was computed after a text; NaN comes from NaN weights or activations."""
    return Description(reasoning_text(text), rating, 'expectation' if rating == rating else 'failed', text)


def mean_description(samples: list[Description]) -> Description:
    """Return the mean of the ratings that were obtained, with the first text that has one; the first sample where none has."""
    rated = [each for each in samples if each.status != 'failed']
    if not rated:
        return samples[0]
    status = max((each.status for each in rated), key=STATUSES.index)
    mean = sum(each.rating for each in rated) / len(rated)
    return Description(rated[0].reasoning_text, mean, status, rated[0].completion)
