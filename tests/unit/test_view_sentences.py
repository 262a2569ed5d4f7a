"""Sentences on where a picture's light is: right, and untouched by what harms quality."""

import numpy as np
import pytest

from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.synthetic.view_sentences import PARTS, view_sentence


def lit(part, size=(48, 64)):
    """Return a textured picture whose named half is lighter."""
    picture = np.random.default_rng(0).integers(60, 120, (*size, 3)).astype(np.uint8)
    halves = {'left': np.s_[:, :size[1] // 2], 'right': np.s_[:, size[1] // 2:], 'upper': np.s_[:size[0] // 2],
              'lower': np.s_[size[0] // 2:]}
    picture[halves[part]] += 60
    return picture


@pytest.mark.parametrize('part', PARTS)
def test_the_lighter_half_is_named(part):
    assert view_sentence(lit(part)) == view_sentence(lit(part)[..., 0]) == f'The {part} half is the lighter one.'


@pytest.mark.parametrize('name', ['darken', 'white_noise', 'gaussian_blur', 'jpeg', 'low_contrast'])
def test_distortions_do_not_change_it(name):
    for part in PARTS:
        assert view_sentence(distort(lit(part), name, 5, np.random.default_rng(1))) == view_sentence(lit(part))
