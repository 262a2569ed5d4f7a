"""The embedded weights score as they did when they were put in. A missing golden file fails."""

import json
from itertools import combinations

import numpy as np
import pytest

from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.data.synthetic.dataset import as_tensor
from tests.regression.write_golden import golden_file, scores, weights_digest

NAMES = ['rali-lite', 'rali-lite-v1']


def golden_of(name):
    return json.loads(golden_file(name).read_text())


@pytest.fixture(scope='module')
def golden():
    return golden_of('rali-lite')


@pytest.mark.parametrize('name', NAMES)
def test_the_golden_scores_belong_to_these_weights(name):
    assert weights_digest(name) == golden_of(name)['weights_sha256'], 'run python -m tests.regression.write_golden'


@pytest.mark.parametrize('name', NAMES)
def test_scores_are_the_golden_ones(name):
    assert scores(name) == pytest.approx(golden_of(name)['scores'], abs=2e-3)


@pytest.fixture(scope='module')
def metric():
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    return pyiqa.create_metric('rali-lite', device='cpu')


def test_real_photographs_score_lower_the_more_they_are_distorted(metric):
    """On photographs that training never saw: nine of ten pairs of levels, and no type all wrong."""
    photographs = [item for item in bundled_photographs() if item.photograph_id in ('coffee', 'chelsea', 'I03')]
    assert len(photographs) == 3
    right = {}
    for item in photographs:
        image = np.ascontiguousarray(read_rgb(item.path)[:256, :320])
        for kind in ('gaussian_blur', 'white_noise', 'jpeg', 'low_contrast', 'pixelate', 'darken'):
            pictures = [distort(image, kind, level, np.random.default_rng(0)) for level in (1, 3, 5)]
            found = metric(as_tensor([image, *pictures])).flatten().tolist()
            right.setdefault(kind, []).extend(better > worse for better, worse in combinations(found, 2))
    shares = {kind: np.mean(pairs) for kind, pairs in right.items()}
    assert np.mean(list(shares.values())) >= 0.9 and min(shares.values()) > 0.5, shares


def test_scores_are_in_the_range_that_the_metric_names(golden, metric):
    """Basis scores bound every score; those of rali-lite stay within the MOS range, and a tilde stands where others pass it."""
    basis_scores = metric.net.scorer.basis_scores.detach()
    assert all(basis_scores.min() < score < basis_scores.max() for score in golden['scores'].values())
    assert metric.score_range == '1, 5' and basis_scores.min() >= 1 and basis_scores.max() <= 5
    import pyiqa
    first = pyiqa.create_metric('rali-lite-v1', device='cpu')
    assert first.score_range == '~1, ~5' and first.net.scorer.basis_scores.max() > 5
