import numpy as np
import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.synthetic.quality_texts import (
    DEGREES,
    IMPRESSIONS,
    MOST_TEXTS,
    all_sentences,
    fault_sentence,
    write_texts,
)


def texts(distortions, mos_label, count=1, seed=0):
    return write_texts(distortions, mos_label, np.random.default_rng(seed), count)


@pytest.mark.parametrize('name', DISTORTIONS)
def test_a_text_names_the_distortion_its_severity_and_the_impression(name):
    for level, degree in ((0.5, 0), (1.2, 0), (3, 2), (5.5, 4)):
        mos_label = 1 - degree / 5
        for text in texts([(name, level)], mos_label, 8):
            assert DISTORTIONS[name].phrase.removeprefix('a ') in text
            assert any(word in text for word in DEGREES[degree])
            grade = min(int(mos_label * len(IMPRESSIONS)), len(IMPRESSIONS) - 1)
            assert any(text.endswith(impression) for impression in IMPRESSIONS[grade])


def test_half_of_the_wordings_say_what_is_harmed():
    found = [DISTORTIONS['jpeg'].affects in fault_sentence('jpeg', 3, wording) for wording in range(6)]
    assert sum(found) == 3


def test_composites_name_both():
    text, = texts([('gaussian_blur', 2), ('jpeg', 4)], 0.3)
    assert DISTORTIONS['gaussian_blur'].phrase in text and DISTORTIONS['jpeg'].phrase in text


def test_texts_of_one_picture_differ_and_repeat_with_the_seed():
    for distortions in ([], [('jpeg', 3)], [('jpeg', 3), ('haze', 2)]):
        found = texts(distortions, 0.5, MOST_TEXTS)
        assert len(set(found)) == MOST_TEXTS and found == texts(distortions, 0.5, MOST_TEXTS)
        assert found != texts(distortions, 0.5, MOST_TEXTS, seed=1)
    with pytest.raises(OptionError, match=r'texts_per_image: 41 is more than 40'):
        texts([], 1, 41)


def test_every_sentence_is_in_the_pool():
    pool = set(all_sentences())
    for seed, name in enumerate(DISTORTIONS):
        for text in texts([(name, 0.5 + seed % 5)], seed / len(DISTORTIONS), 3, seed):
            rest = text
            for sentence in sorted(pool, key=len, reverse=True):
                rest = rest.replace(sentence, '')
            assert not rest.strip(), text


def test_texts_claim_nothing_that_a_fault_of_another_kind_belies():
    found = ' '.join(text for seed in range(20) for text in texts([('underexposed', 3.0)], 0.4, 3, seed))
    assert 'not noisy' not in found and 'The focus is right.' in found
