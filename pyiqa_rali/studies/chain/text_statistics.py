"""How well reasoning texts follow the pictures that they are about: by a reader that sees the texts alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.training.vlm.rewards import named_classes
from pyiqa_rali.vlm.reading import BlindReader

METRICS = measures_of('srcc', 'plcc')


def reading_figures(texts: Sequence[Sequence[str]], mos: np.ndarray, reader: BlindReader, name: str) -> dict[str, float]:
    """Return the correlations between MOS (n,) and the mean rating that a reader gives each picture's texts.

    Args:
        texts: one or more of each picture; pictures with nothing but empty ones are left out, and counted.
        mos: on any scale, higher better.
        reader: rates texts without their pictures.
        name: of the data set, for messages.

    Returns:
        'text_srcc', 'text_plcc' (NaN when all texts read the same, or fewer than three pictures have one) and
        'text_missing'.
    """
    flat = iter(reader.ratings([text or None for row in texts for text in row]))
    rows = [[rating for rating in (next(flat) for _ in row) if rating is not None] for row in texts]
    has_text = np.array([bool(row) for row in rows])
    found = dict.fromkeys(METRICS, float('nan'))
    if has_text.sum() > 2:
        found = correlations(np.array([np.mean(row) for row in rows if row]), mos[has_text], METRICS, name)
    return {**{f'text_{metric}': value for metric, value in found.items()}, 'text_missing': float((~has_text).sum())}


def naming_figures(texts: Sequence[str], classes: Sequence[str], class_words: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the share of texts that name their picture's class and no other, and the share of the most frequent class.

    Pictures whose class has no words are left out; without any other there are no figures.
    """
    known = [(text, kind) for text, kind in zip(texts, classes, strict=True) if kind in class_words]
    if not known:
        return {}
    right = sum(named_classes(text, class_words) == {kind} for text, kind in known)
    most = max(Counter(kind for _, kind in known).values())
    return {'text_class_accuracy': right / len(known), 'text_class_majority': most / len(known)}


def figures_by_class(scores: np.ndarray, mos: np.ndarray, classes: Sequence[str], name: str) -> dict[str, float]:
    """Return the SRCC within each class; none for '', and for classes with less than three pictures or one MOS alone.

    Pristine pictures are all of one quality: their labels differ by the rounding of the measure, and have no order to find.
    """
    found, labels = {}, np.array(classes)
    for kind in sorted(set(classes) - {'', PRISTINE}):
        own = labels == kind
        if own.sum() > 2 and np.ptp(mos[own]) > 0:
            found[f'srcc_{kind}'] = correlations(scores[own], mos[own], METRICS, name)['srcc']
    return found
