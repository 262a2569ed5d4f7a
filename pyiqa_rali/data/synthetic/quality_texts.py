"""Texts on the quality of pictures whose distortions are known, in several wordings.

Each text is a few sentences; each sentence comes from a limited pool, so that a sentence encoder meets it again.
"""

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE

WRITER = 'pyiqa_rali templates'  # the model that texts from here name
MOST_TEXTS = 40
# five degrees, each as an adjective, an amount and an adverb
DEGREES = (('barely visible', 'faint traces of', 'barely'), ('slight', 'slight signs of', 'slightly'),
           ('moderate', 'clear signs of', 'noticeably'), ('strong', 'strong signs of', 'strongly'),
           ('severe', 'extreme signs of', 'terribly'))
# the phrases are singular and plural: no verb has to agree with them
FAULT_SENTENCES = (
    'One sees {amount} {phrase} in the picture.',
    'The picture has {adjective} {phrase}.',
    'The quality is {adverb} reduced by {phrase}.',
    'I notice {adjective} {phrase} at the expense of {affects}.',
    'With {adjective} {phrase}, the picture falls short in {affects}.',
    'Looking closely, one finds {adverb} disturbing {phrase} at the cost of {affects}.',
)
PRISTINE_SENTENCES = (
    'No distortion is visible in the picture.',
    'The picture is free of noise, blur and compression artefacts.',
    'Every detail is crisp and the colours are natural.',
    'I find no fault in sharpness, exposure or colour.',
    'Edges are clean and fine texture is fully kept.',
    'Nothing disturbs the view of this picture.',
)
# what is still fine, by the family of the fault, or by the fault itself where that harms more than its family
SOUND_SENTENCES = {
    'blur': ('Colours and exposure are natural.', 'There is no noise to speak of.', 'The light is balanced.'),
    'color': ('The exposure is right.', 'There is no noise to speak of.', 'There are no compression artefacts.'),
    'brightness': ('Edges remain crisp.', 'There are no compression artefacts.', 'The picture is not noisy.'),
    'contrast': ('There are no compression artefacts.', 'The picture is not noisy.', 'The focus is right.'),
    'noise': ('The exposure is right.', 'The light is balanced.', 'There are no blocks or rings.'),
    'compression': ('The light is balanced.', 'The exposure is right.', 'The picture is not noisy.'),
    'spatial': ('The exposure is right.', 'The light is balanced.', 'The picture is not noisy.'),
    'upscaling': ('Colours and exposure are natural.', 'The light is balanced.', 'The exposure is right.'),
    'demosaic': ('The exposure is right.', 'The light is balanced.', 'There are no compression artefacts.'),
    'underexposed': ('The focus is right.', 'There are no compression artefacts.', 'There are no blocks or rings.'),
    'sharpness': ('Colours are natural.', 'The light is balanced.', 'There are no blocks in it.'),
}
COMPOSITE_SENTENCES = ('Several faults come together here.', 'The faults add up.', 'More than one distortion is at work.')
IMPRESSIONS = (
    ('Overall the quality is atrocious.', 'The overall impression is unbearable.', 'This is a ruined picture.',
     'Its quality is as low as it gets.'),
    ('Overall the quality is very bad.', 'The overall impression is awful.', 'This picture is hardly usable.',
     'Its quality is very low.'),
    ('Overall the quality is bad.', 'The overall impression is unpleasant.', 'This picture is badly degraded.',
     'Its quality is low.'),
    ('Overall the quality is poor.', 'The overall impression is disappointing.', 'This picture is clearly degraded.',
     'Its quality is rather low.'),
    ('Overall the quality is below average.', 'The overall impression is somewhat weak.', 'This picture has obvious flaws.',
     'Its quality is a bit low.'),
    ('Overall the quality is fair.', 'The overall impression is acceptable.', 'This picture is of medium quality.',
     'Its quality is average.'),
    ('Overall the quality is fairly good.', 'The overall impression is decent.', 'This picture has small flaws.',
     'Its quality is above average.'),
    ('Overall the quality is good.', 'The overall impression is pleasant.', 'This picture has hardly any flaws.',
     'Its quality is high.'),
    ('Overall the quality is very good.', 'The overall impression is very pleasing.', 'This picture looks clean and clear.',
     'Its quality is very high.'),
    ('Overall the quality is excellent.', 'The overall impression is perfect.', 'This picture is flawless.',
     'Its quality is as high as it gets.'),
)


def write_texts(distortions: list[tuple[str, float]], mos_label: float, rng: np.random.Generator, count: int) -> list[str]:
    """Return `count` different texts on one picture.

    Args:
        distortions: (name, level) of each distortion; none for a pristine picture.
        mos_label: quality in [0, 1].
        rng: chooses the wordings.
        count: how many, at most `MOST_TEXTS`.

    Raises:
        OptionError: more texts than there are wordings.
    """
    if count > MOST_TEXTS:
        raise OptionError(f'texts_per_image: {count} is more than {MOST_TEXTS}, the number of different texts that are '
                          'guaranteed.')
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[_write_text(distortions, mos_label, rng)] = None
    return list(texts)


def _write_text(distortions: list[tuple[str, float]], mos_label: float, rng: np.random.Generator) -> str:
    grade = min(int(mos_label * len(IMPRESSIONS)), len(IMPRESSIONS) - 1)
    impression = _pick(IMPRESSIONS[max(grade, 0)], rng)
    if not distortions:
        one, other = rng.choice(len(PRISTINE_SENTENCES), 2, replace=False)
        return f'{PRISTINE_SENTENCES[one]} {PRISTINE_SENTENCES[other]} {impression}'
    faults = [fault_sentence(name, level, int(rng.integers(len(FAULT_SENTENCES)))) for name, level in distortions]
    first = distortions[0][0]
    sound = SOUND_SENTENCES.get(first, SOUND_SENTENCES[DISTORTIONS[first].family])
    rest = _pick(COMPOSITE_SENTENCES if len(distortions) > 1 else sound, rng)
    return ' '.join([*faults, rest, impression])


def fault_sentence(name: str, level: float, wording: int) -> str:
    """Return one sentence that names a distortion, how strong it is, and (in half of the wordings) what it harms."""
    kind = DISTORTIONS[name]
    low, high = LEVEL_RANGE
    degree = min(int((level - low) / (high - low) * len(DEGREES)), len(DEGREES) - 1)
    adjective, amount, adverb = DEGREES[degree]
    return FAULT_SENTENCES[wording].format(adjective=adjective, amount=amount, adverb=adverb,
                                           phrase=kind.phrase.removeprefix('a '), affects=kind.affects)


def all_sentences() -> list[str]:
    """Return every sentence that a text can hold, each once."""
    low, high = LEVEL_RANGE
    levels = [low + (high - low) * (degree + 0.5) / len(DEGREES) for degree in range(len(DEGREES))]
    faults = [fault_sentence(name, level, wording) for name in DISTORTIONS for level in levels
              for wording in range(len(FAULT_SENTENCES))]
    pools = [*SOUND_SENTENCES.values(), *IMPRESSIONS]
    return list(dict.fromkeys([*faults, *PRISTINE_SENTENCES, *COMPOSITE_SENTENCES, *(text for pool in pools for text in pool)]))


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
