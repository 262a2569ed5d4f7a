"""Texts on a picture whose faults are known by degree.

Their sentences are those of `quality_texts`: real and synthetic pictures share them, and so what a sentence encoder has cached.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.picture_measures.degrees import CLEAR, FAULTS
from pyiqa_rali.data.reasoning_texts import PRISTINE, Distortions
from pyiqa_rali.data.synthetic.quality_texts import (
    COMPOSITE_SENTENCES,
    FAULT_SENTENCES,
    IMPRESSIONS,
    PRISTINE_SENTENCES,
    fault_sentence,
)

GRADES = len(IMPRESSIONS)
# the better people found a picture, the less they minded: what a fault is worth is theirs to say, whatever is measured
MOST_SEVERE = (4, 4, 4, 4, 3, 3, 2, 1, 1, 0)  # degree, by grade from the lowest
MOST_FAULTS = (3, 3, 3, 3, 2, 2, 2, 1, 1, 1)
MOST_FAULTS_UNJUDGED = 3
GOOD = 7  # grade from which on a picture without faults is called free of them, by measures or by votes

Degrees = Mapping[str, int | None]


def grade_of(mos_label: float) -> int:
    """Return which tenth of [0, 1] a label is in, as texts on synthetic pictures have it."""
    return max(min(int(mos_label * GRADES), GRADES - 1), 0)


def judged(degrees: Degrees, grade: int | None) -> dict[str, int | None]:
    """Return the degrees of faults as far as people can have minded them, by the grade that they gave."""
    most = MOST_SEVERE[0] if grade is None else MOST_SEVERE[grade]
    return {name: None if degree is None else min(degree, most) for name, degree in degrees.items()}


def known_distortions(degrees: Degrees, grade: int | None) -> Distortions:
    """Return (type, level) of the faults that are clear; an empty list for none at all, None where it is uncertain.

    Args:
        degrees: of each fault, as measured.
        grade: by MOS; a picture that people found poor is not called free of distortions because nothing was measured.
    """
    clear = [(FAULTS[name].distortion, level_of(degree)) for name, degree in judged(degrees, grade).items()
             if degree is not None and degree >= CLEAR]
    if clear:
        return clear
    return [] if _is_sound(degrees) and (grade is None or grade >= GOOD) else None


def measured_text(degrees: Degrees, grade: int | None, rng: np.random.Generator) -> str:
    """Return a text: what is wrong, what is fine, and the verdict.

    Args:
        degrees: of each fault, as measured; None where it could not be.
        grade: 0 to 9 by MOS; None for a text without a verdict.
        rng: chooses faults and wordings.
    """
    mentioned = _mentioned(judged(degrees, grade), grade, rng)
    sentences = [fault_sentence(FAULTS[name].distortion, level_of(degree), int(rng.integers(len(FAULT_SENTENCES))))
                 for name, degree in mentioned]
    if len(mentioned) > 1 and rng.random() < 0.5:
        sentences.append(_pick(COMPOSITE_SENTENCES, rng))
    elif not mentioned and (grade == GRADES - 1 or (_is_sound(degrees) and (grade is None or grade >= GOOD))):
        sentences += _several(PRISTINE_SENTENCES, 2, rng)
    if len(mentioned) < 3 and not set(sentences) & set(PRISTINE_SENTENCES):
        sentences += _several(_sound_sentences(degrees), 2 - bool(sentences), rng)
    if grade is not None:
        sentences.append(_pick(IMPRESSIONS[grade], rng))
    return ' '.join(dict.fromkeys(sentences))


def voted_text(votes: Sequence[tuple[str, float, float | None]], grade: int | None, rng: np.random.Generator,
               least_share: float = 0.1) -> str | None:
    """Return a text on what a checkpoint's bank says; None where it names nothing that can be said.

    That is where no class has a share worth naming, or only classes that are no synthetic distortions, or where it finds no
    fault in a picture that people found poor.

    Args:
        votes: (class, share of the vote, level) of each class.
        grade: see `measured_text`.
        rng: chooses faults and wordings.
        least_share: of the vote, for a class that is named.
    """
    named = [(name, level) for name, share, level in votes if share >= least_share]
    faults = [(name, level) for name, level in named if name in DISTORTIONS and level is not None]
    if not faults and (PRISTINE not in dict(named) or (grade is not None and grade < GOOD)):
        return None
    kept = faults[:MOST_FAULTS_UNJUDGED if grade is None else MOST_FAULTS[grade]]
    low, high = LEVEL_RANGE
    high = high if grade is None else min(high, level_of(MOST_SEVERE[grade]) + 0.49)
    sentences = [fault_sentence(name, min(max(level, low), high), int(rng.integers(len(FAULT_SENTENCES))))
                 for name, level in kept]
    if not faults:
        sentences += _several(PRISTINE_SENTENCES, 2, rng)
    if grade is not None:
        sentences.append(_pick(IMPRESSIONS[grade], rng))
    return ' '.join(sentences)


def level_of(degree: int) -> float:
    """Return the level, 1 to 5, that a degree stands for: slight is 2, severe is 5."""
    return float(degree + 1)


def _is_sound(degrees: Degrees) -> bool:
    return all(degree == 0 for degree in degrees.values())


def _mentioned(degrees: Degrees, grade: int | None, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Return the faults that a text speaks of, the worst first; each text draws its own among those of one degree."""
    found = [(name, degree) for name, degree in degrees.items() if degree]
    place = rng.random(len(found))
    order = sorted(range(len(found)), key=lambda index: -(found[index][1] + place[index]))
    return [found[index] for index in order[:MOST_FAULTS_UNJUDGED if grade is None else MOST_FAULTS[grade]]]


def _sound_sentences(degrees: Degrees) -> list[str]:
    """Return the sentences that hold: those of faults that are not there, unless another fault denies the same."""
    denied = {sentence for name, degree in degrees.items() if degree != 0 for sentence in FAULTS[name].sound}
    blurred = [name for name in ('motion blur', 'upscaling') if degrees[name] != 0]
    denied |= set(FAULTS['out of focus'].sound) if blurred else set()
    return [sentence for sentence in dict.fromkeys(sentence for fault in FAULTS.values() for sentence in fault.sound)
            if sentence not in denied]


def _several(sentences: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    if not sentences:
        return []
    return [sentences[index] for index in rng.choice(len(sentences), min(count, len(sentences)), replace=False)]


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
